// Package release manages the release directories of one app on a node:
//
//	<dir>/releases/<id>            a complete release; never changes
//	<dir>/releases/.staging-<id>   one being prepared
//	<dir>/releases/.failed-<id>    the last one whose preparation failed, to look into
//	<dir>/releases/.drop-<id>      one being removed
//	<dir>/releases/.built-<id>     what a complete one was built as
//	<dir>/releases/.order          ids, least recently used first
//	<dir>/current                  symbolic link to releases/<id>
//	<dir>/current-<instance>       the same, of one of several instances
//
// A release appears by one rename and disappears by one rename, so a directory
// with the name of a release is complete at any instant, also after a crash.
package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

const (
	releasesName = "releases"
	currentName  = "current"
	newLinkName  = ".current-new"

	stagingPrefix = ".staging-"
	failedPrefix  = ".failed-"
	dropPrefix    = ".drop-"
)

// validID is what an id may look like: a plain directory name that cannot be
// mistaken for one of the package's own.
var validID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$`)

// Store is the release directories of one app. It may be used by several
// goroutines; there must be only one Store for a directory at a time.
type Store struct {
	dir      string // absolute
	releases string // dir/releases
	resolved string // releases without symbolic links, as the kernel names it

	mu sync.Mutex
}

// Open opens the store in dir (<apps>/<app>), creating what is missing and
// removing what a crash left half done, save for what is staged under the id
// resuming: its preparation may still be under way.
func Open(dir, resuming string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the release store: %w", err)
	}
	s := &Store{dir: dir, releases: filepath.Join(dir, releasesName)}
	if err := os.MkdirAll(s.releases, 0o755); err != nil {
		return nil, fmt.Errorf("cannot create the release store: %w", err)
	}
	if s.resolved, err = filepath.EvalSymlinks(s.releases); err != nil {
		return nil, fmt.Errorf("cannot open the release store: %w", err)
	}
	if err := s.recover(resuming); err != nil {
		return nil, fmt.Errorf("cannot clean up the release store %s: %w", dir, err)
	}
	return s, nil
}

// recover removes the leftovers of a crash, save for what is staged under an id,
// and completes the order file.
func (s *Store) recover(resuming string) error {
	entries, err := os.ReadDir(s.releases)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if resuming != "" && name == stagingPrefix+resuming {
			continue
		}
		if strings.HasPrefix(name, stagingPrefix) || strings.HasPrefix(name, dropPrefix) || name == orderName+atomicfile.Suffix {
			if err := removeTree(filepath.Join(s.releases, name)); err != nil {
				return err
			}
		}
	}
	for _, e := range entries {
		id, isRecord := strings.CutPrefix(e.Name(), builtPrefix)
		if !isRecord {
			continue
		}
		if there, err := isDir(s.Path(id)); err != nil || there {
			continue
		}
		if err := os.Remove(s.built(id)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.dir, newLinkName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.recordOrder("")
}

// Path is the directory of release id, whether or not it is present.
func (s *Store) Path(id string) string { return filepath.Join(s.releases, id) }

// Present lists the complete releases, sorted.
func (s *Store) Present() ([]string, error) {
	entries, err := os.ReadDir(s.releases)
	if err != nil {
		return nil, fmt.Errorf("cannot list releases: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && validID.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Staged returns the directory in which release id is being prepared; whether it
// is there.
func (s *Store) Staged(id string) (dir string, ok bool, err error) {
	if err := checkID(id); err != nil {
		return "", false, err
	}
	ok, err = isDir(s.staging(id))
	return s.staging(id), ok, err
}

// Unstage removes what is staged, save for release id: nobody prepares it any
// more.
func (s *Store) Unstage(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.releases)
	if err != nil {
		return fmt.Errorf("cannot remove what is staged: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, stagingPrefix) && name != stagingPrefix+id {
			if err := removeTree(filepath.Join(s.releases, name)); err != nil {
				return fmt.Errorf("cannot remove what is staged: %w", err)
			}
		}
	}
	return nil
}

// Stage returns a fresh empty directory in which to prepare release id. What was
// staged under the id before is removed.
func (s *Store) Stage(id string) (dir string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkID(id); err != nil {
		return "", err
	}
	dir = s.staging(id)
	if err := removeTree(dir); err != nil {
		return "", fmt.Errorf("cannot stage release %s: %w", id, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot stage release %s: %w", id, err)
	}
	return dir, nil
}

// Commit makes the staged release id complete, once all of it is on disk. When it
// is complete already, what was staged is removed: a release never changes.
func (s *Store) Commit(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.commit(id); err != nil {
		return fmt.Errorf("cannot commit release %s: %w", id, err)
	}
	return nil
}

func (s *Store) commit(id string) error {
	staging := s.staging(id)
	present, err := isDir(s.Path(id))
	if err != nil {
		return err
	}
	if present {
		return removeTree(staging)
	}
	if err := syncTree(staging); err != nil {
		return err
	}
	if err := os.Rename(staging, s.Path(id)); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.releases); err != nil {
		return err
	}
	if err := s.recordOrder(id); err != nil {
		return err
	}
	// What failed at an earlier attempt is of no more use.
	return s.drop(failedPrefix + id)
}

// Discard gives up the staged release id. It is retained for inspection until
// another one is discarded. Without anything staged, Discard does nothing.
func (s *Store) Discard(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.discard(id); err != nil {
		return fmt.Errorf("cannot discard release %s: %w", id, err)
	}
	return nil
}

func (s *Store) discard(id string) error {
	if staged, err := isDir(s.staging(id)); err != nil || !staged {
		return err
	}
	entries, err := os.ReadDir(s.releases)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), failedPrefix) {
			if err := s.drop(e.Name()); err != nil {
				return err
			}
		}
	}
	return os.Rename(s.staging(id), filepath.Join(s.releases, failedPrefix+id))
}

// Prune removes releases that nobody needs and returns their ids, sorted. It
// spares those that are current for any instance, those that a process runs from,
// those in keep, and of the others the keepRecent most recently used, that is
// committed or switched to.
func (s *Store) Prune(keep []string, keepRecent int) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Not knowing what is current, or in which order, nothing may be removed.
	inUse, err := s.inUse()
	if err != nil {
		return nil, fmt.Errorf("cannot prune releases: %w", err)
	}
	order, err := s.order()
	if err != nil {
		return nil, fmt.Errorf("cannot prune releases: %w", err)
	}
	var removed []string
	var running map[string]bool // looked for only when something is to go
	slices.Reverse(order)
	for _, id := range order {
		if slices.Contains(inUse, id) || slices.Contains(keep, id) {
			continue
		}
		if keepRecent > 0 {
			keepRecent--
			continue
		}
		if running == nil {
			if running, err = s.running(); err != nil {
				return nil, fmt.Errorf("cannot prune releases: %w", err)
			}
		}
		if running[id] {
			continue
		}
		if err := s.drop(id); err != nil {
			return removed, fmt.Errorf("cannot prune release %s: %w", id, err)
		}
		removed = append(removed, id)
	}
	slices.Sort(removed)
	if len(removed) > 0 {
		if err := s.recordOrder(""); err != nil {
			return removed, fmt.Errorf("cannot prune releases: %w", err)
		}
	}
	return removed, nil
}

// Of returns the release that an absolute, resolved path lies in, such as one
// read from /proc/PID/exe. The release need not be present any more.
func (s *Store) Of(path string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(filepath.Clean(path), s.resolved+string(filepath.Separator))
	if !ok {
		return "", false
	}
	id, _, _ = strings.Cut(rest, string(filepath.Separator))
	// The kernel marks what has been removed.
	id = strings.TrimSuffix(id, " (deleted)")
	if !validID.MatchString(id) {
		return "", false
	}
	return id, true
}

func (s *Store) staging(id string) string { return filepath.Join(s.releases, stagingPrefix+id) }

// drop removes the entry name of the releases directory: at once from sight, then
// from the disk.
func (s *Store) drop(name string) error {
	path := filepath.Join(s.releases, name)
	doomed := filepath.Join(s.releases, dropPrefix+strings.TrimLeft(name, "."))
	if err := removeTree(doomed); err != nil {
		return err
	}
	if err := os.Rename(path, doomed); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	// On disk before the first file goes, or a crash could bring back half of it.
	if err := os.Remove(s.built(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := atomicfile.SyncDir(s.releases); err != nil {
		return err
	}
	return removeTree(doomed)
}

func checkID(id string) error {
	if !validID.MatchString(id) {
		return fault.Errorf(api.ReasonInternal,
			"cannot use %q as a release id: expected letters, digits, '.', '_' and '-', like 0123456789ab-012345", id)
	}
	return nil
}

func isDir(path string) (bool, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.IsDir(), err
}

// removeTree removes path and what is below it, directories without write
// permission included (build tools leave such caches). A missing path is no
// error.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	walkErr := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d == nil || !d.IsDir() {
			return err
		}
		// Called again with err when the directory could not be read; it was made
		// readable before that.
		if err == nil {
			return os.Chmod(p, 0o700)
		}
		return err
	})
	if walkErr != nil {
		return walkErr
	}
	return os.RemoveAll(path)
}

// syncTree brings what was written below dir to the disk. One syncfs replaces
// an fsync for each of thousands of files.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync the file system of %s: %w", dir, err)
	}
	return nil
}
