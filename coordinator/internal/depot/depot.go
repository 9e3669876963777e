// Package depot keeps the built files of releases between the node that built
// them and the others, as one file for each archive:
//
//	<dir>/<app>/<hex>.tar.zst   complete, and verified to be of that digest
//	<dir>/<app>/<hex>.part      being received
//
// Nothing is lost for good when it is deleted: a node that has the release is
// asked to share it again.
package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

const (
	suffix     = ".tar.zst"
	partSuffix = ".part"
	// reserve is how much of the disk is left to others.
	reserve = 256 << 20
	// maxParts bounds the archives of an app that are received at one time; the
	// one that was touched least recently makes room.
	maxParts = 4
	// fresh is how long an archive is kept that no release is known for yet.
	fresh = 15 * time.Minute
	// stale is how long one waits for the rest of an archive.
	stale = 24 * time.Hour
)

// limits of what an archive may unpack to.
var limits = archive.Limits{Files: 1_000_000, Bytes: 64 << 30}

// Depot is a directory of archives. Its methods are safe for concurrent use; app
// names are those of the configuration.
type Depot struct {
	dir  string
	free func(dir string) (uint64, error)

	mu    sync.Mutex
	parts map[string]*sync.Mutex // held while one is written or verified
}

// Open returns the depot in dir, which is made when the first archive comes.
func Open(dir string) *Depot {
	return &Depot{dir: dir, free: free, parts: map[string]*sync.Mutex{}}
}

func free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Frsize), nil
}

func (d *Depot) path(app, digest, suffix string) string {
	return filepath.Join(d.dir, app, strings.TrimPrefix(digest, "sha256:")+suffix)
}

// lock returns when nobody else is at work on the part.
func (d *Depot) lock(app, digest string) (unlock func()) {
	d.mu.Lock()
	key := app + " " + digest
	m := d.parts[key]
	if m == nil {
		m = &sync.Mutex{}
		d.parts[key] = m
	}
	d.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// List returns the digests of the app's complete archives.
func (d *Depot) List(app string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, app))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list archives: %w", err)
	}
	var all []string
	for _, e := range entries {
		if hex, ok := strings.CutSuffix(e.Name(), suffix); ok && archive.IsDigest("sha256:"+hex) {
			all = append(all, "sha256:"+hex)
		}
	}
	return all, nil
}

// State tells how much of an archive there is.
func (d *Depot) State(app, digest string) (api.ArchiveState, error) {
	for _, s := range []string{suffix, partSuffix} {
		fi, err := os.Stat(d.path(app, digest, s))
		if err == nil {
			return api.ArchiveState{Held: fi.Size(), Complete: s == suffix}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return api.ArchiveState{}, fmt.Errorf("cannot look for an archive: %w", err)
		}
	}
	return api.ArchiveState{}, nil
}

// Open opens a complete archive; the error is [fs.ErrNotExist] when there is none.
func (d *Depot) Open(app, digest string) (*os.File, error) {
	return os.Open(d.path(app, digest, suffix))
}

// Append takes the piece of an archive that begins at offset, of at most size
// bytes. What it has beyond offset is replaced, for a piece may come again. A
// piece that does not follow on what there is, or for which there is no room, is
// refused with an *[api.Error]. What came before a connection broke is kept.
func (d *Depot) Append(app, digest string, offset, size int64, r io.Reader) (api.ArchiveState, error) {
	defer d.lock(app, digest)()
	state, err := d.State(app, digest)
	if err != nil || state.Complete {
		return state, err
	}
	if offset > state.Held {
		return state, &api.Error{Kind: api.ErrorConflict, Reason: api.ReasonOffset,
			Text: fmt.Sprintf("the coordinator has %d bytes of the archive, and a piece from %d on does not follow; begin there", state.Held, offset)}
	}
	dir := filepath.Join(d.dir, app)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return state, fmt.Errorf("cannot receive an archive: %w", err)
	}
	if err := d.room(dir, size); err != nil {
		return state, err
	}
	if state.Held == 0 {
		d.dropParts(app, maxParts-1)
	}
	f, err := os.OpenFile(d.path(app, digest, partSuffix), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return state, fmt.Errorf("cannot receive an archive: %w", err)
	}
	err = f.Truncate(offset)
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	n := int64(0)
	if err == nil {
		n, err = io.Copy(f, r)
	}
	err = errors.Join(err, f.Close())
	state.Held = offset + n
	if err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return state, noRoom(dir)
		}
		return state, fmt.Errorf("cannot receive an archive: %w", err)
	}
	return state, nil
}

func (d *Depot) room(dir string, size int64) error {
	left, err := d.free(dir)
	if err != nil {
		return fmt.Errorf("cannot tell the free space of %s: %w", dir, err)
	}
	if left < uint64(size)+reserve {
		return noRoom(dir)
	}
	return nil
}

func noRoom(dir string) error {
	return &api.Error{Kind: api.ErrorNoSpace, Reason: string(api.ReasonDiskFull),
		Text: fmt.Sprintf("the coordinator has no room for archives in %s; remove files there, or lower keep_releases", dir)}
}

// Finish verifies an archive of which all has come, and lists it. One that is
// not what its digest says is removed and refused.
func (d *Depot) Finish(ctx context.Context, app, digest string) (api.ArchiveState, error) {
	defer d.lock(app, digest)()
	state, err := d.State(app, digest)
	if err != nil || state.Complete {
		return state, err
	}
	part := d.path(app, digest, partSuffix)
	f, err := os.Open(part)
	if err != nil {
		return state, fmt.Errorf("cannot verify an archive: %w", err)
	}
	defer f.Close()
	got, err := archive.Verify(ctx, f, limits)
	var bad *archive.BadError
	switch {
	case err != nil && !errors.As(err, &bad):
		return state, err
	case err == nil && got.Digest != digest:
		err = fmt.Errorf("its files are those of %s", got.Digest)
	}
	if err != nil {
		if e := os.Remove(part); e != nil {
			return state, fmt.Errorf("cannot remove a bad archive: %w", e)
		}
		return api.ArchiveState{}, &api.Error{Kind: api.ErrorInvalid, Reason: string(api.ReasonArchiveBad), Text: fmt.Sprintf("what was received is not the archive %s: %v", digest, err)}
	}
	// On disk before it is listed.
	if err := errors.Join(f.Sync(), os.Rename(part, d.path(app, digest, suffix)), atomicfile.SyncDir(filepath.Dir(part))); err != nil {
		return state, fmt.Errorf("cannot keep an archive: %w", err)
	}
	return d.State(app, digest)
}

// dropParts removes what is being received of an app, save the most recent ones.
func (d *Depot) dropParts(app string, keep int) {
	found, _ := filepath.Glob(filepath.Join(d.dir, app, "*"+partSuffix))
	age := map[string]time.Time{}
	for _, p := range found {
		if fi, err := os.Stat(p); err == nil {
			age[p] = fi.ModTime()
		}
	}
	slices.SortFunc(found, func(a, b string) int { return age[b].Compare(age[a]) })
	for i, p := range found {
		if i >= keep || time.Since(age[p]) > stale {
			_ = os.Remove(p)
		}
	}
}

// Retain removes an app's archives other than those in keep, and tells whether
// there were any. One that came just now is spared: its release may not be known
// yet.
func (d *Depot) Retain(app string, keep []string) (removed bool, err error) {
	all, err := d.List(app)
	if err != nil {
		return false, err
	}
	d.dropParts(app, maxParts)
	for _, digest := range all {
		if slices.Contains(keep, digest) {
			continue
		}
		path := d.path(app, digest, suffix)
		if fi, err := os.Stat(path); err != nil || time.Since(fi.ModTime()) < fresh {
			continue
		}
		if err := os.Remove(path); err != nil {
			return removed, fmt.Errorf("cannot remove an archive that is needed no more: %w", err)
		}
		removed = true
	}
	return removed, nil
}
