package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Write writes the tree of commit sha into dir, which must be empty or missing.
// Files get mode 0644 or 0755, less the umask. Nothing is ever written outside
// dir, and every file is verified against the commit.
//
// A commit with contents that cannot be deployed is [api.ReasonBadTree], naming
// the path and the remedy; in most cases nothing has been written then. If the
// store turns out to be damaged, it is fetched again, once.
func (r *Repo) Write(ctx context.Context, sha string, dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := validSHA(sha); err != nil {
		return fmt.Errorf("cannot write commit %q: %w", sha, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write commit %s: %w", short(sha), err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot write commit %s: %w", short(sha), err)
	}
	defer root.Close()
	if names, err := list(root); err != nil || len(names) > 0 {
		if err == nil {
			err = errors.New("the directory is not empty")
		}
		return fmt.Errorf("cannot write commit %s into %s: %w", short(sha), dir, err)
	}
	err = r.write(ctx, sha, root)
	if isDamage(err) {
		err = r.mend(ctx, sha, root)
	}
	if err != nil {
		return fmt.Errorf("cannot write commit %s into %s: %w", short(sha), dir, err)
	}
	return nil
}

// mend replaces a damaged store and writes the commit again.
func (r *Repo) mend(ctx context.Context, sha string, root *os.Root) error {
	names, err := list(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := r.reset(); err != nil {
		return err
	}
	if err := r.fetch(ctx, sha, nil); err != nil {
		return err
	}
	err = r.write(ctx, sha, root)
	if isDamage(err) {
		return fault.Errorf(api.ReasonFetchFailed,
			"the store is damaged again right after it was fetched (%w): check the disk under %s", err, r.dir)
	}
	return err
}

func list(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (r *Repo) write(ctx context.Context, sha string, root *os.Root) error {
	st := r.storage()
	defer st.Close()
	tree, err := rootTree(st, plumbing.NewHash(sha))
	if err != nil {
		return err
	}
	p, err := newPlan(ctx, st, tree)
	if err != nil {
		return err
	}
	for _, dir := range p.dirs {
		if err := root.Mkdir(filepath.FromSlash(dir), 0o755); err != nil {
			return err
		}
	}
	w := &writer{st: st, root: root, buf: make([]byte, 64<<10)}
	for _, f := range p.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.file(f); err != nil {
			return err
		}
	}
	// Last, so that no file is ever written through one.
	for _, l := range p.links {
		if err := root.Symlink(l.target, filepath.FromSlash(l.path)); err != nil {
			return err
		}
	}
	return nil
}

type writer struct {
	st   *filesystem.Storage
	root *os.Root
	buf  []byte
}

func (w *writer) file(f entry) error {
	o, err := w.st.EncodedObject(plumbing.AnyObject, f.hash)
	if err != nil {
		return damaged(fmt.Errorf("%s: blob %s: %w", quote(f.path), f.hash, err))
	}
	if o.Type() != plumbing.BlobObject {
		_, err := readObject(w.st, plumbing.BlobObject, f.hash, maxTreeSize)
		return fmt.Errorf("%s: %w", quote(f.path), err)
	}
	from, err := o.Reader()
	if err != nil {
		return damaged(fmt.Errorf("%s: blob %s: %w", quote(f.path), f.hash, err))
	}
	defer from.Close()

	perm := os.FileMode(0o644)
	if f.mode == filemode.Executable {
		perm = 0o755
	}
	to, err := w.root.OpenFile(filepath.FromSlash(f.path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	err = w.copy(to, from, f, o.Size())
	return errors.Join(err, to.Close())
}

// copy copies the blob of f and verifies it on the way.
func (w *writer) copy(to io.Writer, from io.Reader, f entry, size int64) error {
	sum := plumbing.NewHasher(plumbing.BlobObject, size)
	for first := true; ; first = false {
		n, readErr := io.ReadFull(from, w.buf)
		if first && isLFSPointer(w.buf[:n]) {
			return bad(f.path, "is kept in Git LFS, which is not supported: "+
				"put the file itself into git (git lfs migrate export --include="+strconv.Quote(f.path)+
				"), or remove it and download it in a build command")
		}
		_, _ = sum.Write(w.buf[:n])
		if _, err := to.Write(w.buf[:n]); err != nil {
			return err
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return damaged(fmt.Errorf("%s: blob %s: %w", quote(f.path), f.hash, readErr))
		}
	}
	if sum.Sum() != f.hash {
		return damaged(fmt.Errorf("%s: blob %s: the content does not match", quote(f.path), f.hash))
	}
	return nil
}

// isLFSPointer tells whether a file with this content stands for one in Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: keys are sorted
// after version, and a pointer is below 1024 bytes).
func isLFSPointer(content []byte) bool {
	return len(content) < 1024 &&
		bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/v1\n")) &&
		bytes.Contains(content, []byte("\noid sha256:"))
}
