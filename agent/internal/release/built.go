package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// What a release was made of is recorded beside it, in releases/.built-<id>: its
// digest, and size and time of every file, by which a change is found without
// reading them all.
const builtPrefix = ".built-"

func (s *Store) built(id string) string { return filepath.Join(s.releases, builtPrefix+id) }

// CommitAs makes the staged release id complete, as [Store.Commit] does, and
// records its digest. A complete release of that id with another digest is
// replaced; if it is the current one, that is [api.ReasonBuildSkew].
func (s *Store) CommitAs(id, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.commitAs(id, digest); err != nil {
		return fmt.Errorf("cannot commit release %s: %w", id, err)
	}
	return nil
}

func (s *Store) commitAs(id, digest string) error {
	present, err := isDir(s.Path(id))
	if err != nil {
		return err
	}
	if present {
		if has, err := s.Digest(id); err != nil || has == digest {
			return errors.Join(err, removeTree(s.staging(id)))
		}
		inUse, err := s.inUse()
		if err != nil {
			return err
		}
		if slices.Contains(inUse, id) {
			return fault.Errorf(api.ReasonBuildSkew, "another build of it is current, and is not replaced while it is; deploy another release first")
		}
		if err := s.drop(id); err != nil {
			return err
		}
	}
	err = s.describe(id, digest, s.staging(id))
	if err == nil {
		err = s.commit(id)
	}
	if err != nil {
		// Of what is not there nothing is told; on a full disk it is half written, too.
		if there, e := isDir(s.Path(id)); e == nil && !there {
			err = errors.Join(err, remove(s.built(id)))
		}
	}
	return err
}

// remove removes a file that need not be there.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Describe records the digest of a release that was committed without one.
func (s *Store) Describe(id, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describe(id, digest, s.Path(id))
}

func (s *Store) describe(id, digest, dir string) error {
	var b strings.Builder
	b.WriteString(digest + "\n")
	err := files(dir, func(path string, fi fs.FileInfo) {
		fmt.Fprintf(&b, "%d %d %s\n", fi.Size(), fi.ModTime().UnixNano(), strconv.Quote(path))
	})
	if err == nil {
		err = os.WriteFile(s.built(id), []byte(b.String()), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot record what it was built as: %w", err)
	}
	return nil
}

// files visits the files and symbolic links below dir, in order.
func files(dir string, do func(path string, fi fs.FileInfo)) error {
	return filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		do(strings.TrimPrefix(at, dir+"/"), fi)
		return nil
	})
}

// Digest returns what was recorded as the digest of release id, "" when nothing was.
func (s *Store) Digest(id string) (string, error) {
	f, err := os.Open(s.built(id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read what release %s was built as: %w", id, err)
	}
	defer f.Close()
	buf := make([]byte, 128)
	n, _ := f.Read(buf)
	digest, _, _ := strings.Cut(string(buf[:n]), "\n")
	return digest, nil
}

// Edited returns a file of release id that was changed or removed since it was
// committed, judged by size and time; "" when none was, or nothing is recorded.
// Files that were added do not count: programs write beside their own.
func (s *Store) Edited(id string) (string, error) {
	data, err := os.ReadFile(s.built(id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read what release %s was built as: %w", id, err)
	}
	for _, line := range strings.Split(string(data), "\n")[1:] {
		want, quoted, ok := cutLast(line)
		path, err := strconv.Unquote(quoted)
		if !ok || err != nil {
			continue
		}
		fi, err := os.Lstat(filepath.Join(s.Path(id), path))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return path, nil
			}
			return "", fmt.Errorf("cannot look at release %s: %w", id, err)
		}
		if fmt.Sprintf("%d %d", fi.Size(), fi.ModTime().UnixNano()) != want {
			return path, nil
		}
	}
	return "", nil
}

// Estimate guesses how much room another release needs: as much as the one that
// was used last and of which it is known; 0 where none is.
func (s *Store) Estimate() (bytes, files uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	order, err := s.order()
	if err != nil {
		return 0, 0, err
	}
	for _, id := range slices.Backward(order) {
		data, err := os.ReadFile(s.built(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("cannot read what release %s was built as: %w", id, err)
		}
		for _, line := range strings.Split(string(data), "\n")[1:] {
			const block = 4096
			size, _, _ := strings.Cut(line, " ")
			if n, err := strconv.ParseUint(size, 10, 63); err == nil {
				bytes += (n + block - 1) / block * block
				files++
			}
		}
		return bytes, files, nil
	}
	return 0, 0, nil
}

// cutLast splits a line of the record before its path.
func cutLast(line string) (before, quoted string, ok bool) {
	i := strings.IndexByte(line, '"')
	if i < 1 {
		return "", "", false
	}
	return line[:i-1], line[i:], true
}
