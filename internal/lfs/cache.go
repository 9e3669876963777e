package lfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const (
	// maxFile bounds one file; the rest of what is supported of a release does too.
	maxFile = 4 << 30
	// reserve is how much of the disk is left to others.
	reserve = 64 << 20
	// downloads is how many files are got at one time.
	downloads  = 4
	unfinished = "tmp_"
)

// ErrTooLarge tells that a file is larger than what is supported.
var ErrTooLarge = fmt.Errorf("it is larger than the %d GiB that are supported", maxFile>>30)

// Cache is a directory of files, each by its hash. It may be deleted at any time,
// and used by several goroutines; there must be only one for a directory.
type Cache struct {
	dir   string
	slots chan struct{}

	mu    sync.Mutex
	turns map[string]chan struct{} // by hash; each holds one token while a file is got or verified
	sound map[string]bool          // verified since the start
}

// NewCache returns the cache in dir, which is made when there is something to
// keep, and removes what was cut short in it.
func NewCache(dir string) *Cache {
	left, _ := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, path := range left {
		_ = os.Remove(path) // or later; it is in nobody's way
	}
	return &Cache{dir: dir, slots: make(chan struct{}, downloads), turns: map[string]chan struct{}{}, sound: map[string]bool{}}
}

// Open returns the file of a pointer, verified. Where it is not there, get writes
// it, once for all who ask at the same time; where it is not what the pointer says,
// the error is a [*gitremote.Failure].
func (c *Cache) Open(ctx context.Context, p Pointer, get func(ctx context.Context, w io.Writer) error) (*os.File, error) {
	if p.Size > maxFile {
		return nil, ErrTooLarge
	}
	c.mu.Lock()
	turn := c.turns[p.OID]
	if turn == nil {
		turn = make(chan struct{}, 1)
		c.turns[p.OID] = turn
	}
	c.mu.Unlock()
	for _, take := range []chan struct{}{turn, c.slots} {
		select {
		case take <- struct{}{}:
			defer func() { <-take }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	f, err := c.kept(p)
	if f != nil || err != nil {
		return f, err
	}
	return c.fetch(ctx, p, get)
}

func (c *Cache) path(oid string) string { return filepath.Join(c.dir, oid) }

func (c *Cache) isSound(oid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sound[oid]
}

func (c *Cache) nowSound(oid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sound[oid] = true
}

// kept returns the file when it is there; nil when it is not, or is damaged.
func (c *Cache) kept(p Pointer) (*os.File, error) {
	f, err := os.Open(c.path(p.OID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	good := err == nil && info.Size() == p.Size
	if good && !c.isSound(p.OID) {
		check := newVerifier(io.Discard, p)
		_, err = io.Copy(check, f)
		good = err == nil && check.whole() == nil
		if good {
			_, err = f.Seek(0, io.SeekStart)
		}
	}
	if err != nil || !good {
		f.Close()
		return nil, errors.Join(err, os.Remove(c.path(p.OID)))
	}
	c.nowSound(p.OID)
	now := time.Now()
	return f, os.Chtimes(c.path(p.OID), now, now) // when it was last used
}

func (c *Cache) fetch(ctx context.Context, p Pointer, get func(context.Context, io.Writer) error) (_ *os.File, err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	if err := room(c.dir, p.Size); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(c.dir, unfinished+"*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	check := newVerifier(f, p)
	if p.Size > 0 { // there is nothing to ask for of an empty one
		if err := get(ctx, check); err != nil {
			return nil, err
		}
	}
	if err := check.whole(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	c.nowSound(p.OID)
	return f, os.Rename(f.Name(), c.path(p.OID))
}

// room returns an error when the disk could not take the file, twice: git-lfs makes
// a copy of its own first.
func room(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("cannot tell the free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Frsize); free < 2*uint64(size)+reserve {
		return fmt.Errorf("%s has %d MiB free, and a file of %d MiB in Git LFS needs twice its size for a while: %w", dir, free>>20, size>>20, unix.ENOSPC)
	}
	return nil
}

// Prune removes the files that keep is false of; it is told when they were last
// opened.
func (c *Cache) Prune(keep func(oid string, used time.Time) bool) error {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		info, gone := e.Info()
		if gone != nil || strings.HasPrefix(e.Name(), unfinished) || keep(e.Name(), info.ModTime()) {
			continue
		}
		err = errors.Join(err, os.Remove(c.path(e.Name())))
		c.mu.Lock()
		delete(c.sound, e.Name())
		c.mu.Unlock()
	}
	return err
}

// verifier takes no more than a pointer says, and tells whether it was that.
type verifier struct {
	to   io.Writer
	p    Pointer
	n    int64
	hash hash.Hash
}

func newVerifier(to io.Writer, p Pointer) *verifier {
	return &verifier{to: to, p: p, hash: sha256.New()}
}

func (v *verifier) Write(b []byte) (int, error) {
	if v.n += int64(len(b)); v.n > v.p.Size {
		return 0, v.other()
	}
	_, _ = v.hash.Write(b)
	return v.to.Write(b)
}

func (v *verifier) whole() error {
	if v.n != v.p.Size || hex.EncodeToString(v.hash.Sum(nil)) != v.p.OID {
		return v.other()
	}
	return nil
}

func (v *verifier) other() error {
	return &gitremote.Failure{Err: fmt.Errorf("what arrived is not the file of sha256:%s, which has %d bytes; push it again (git lfs push --all origin)", v.p.OID, v.p.Size)}
}
