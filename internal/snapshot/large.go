package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
)

const (
	// maxLFSConfig bounds .lfsconfig.
	maxLFSConfig = 64 << 10
	// unused is how long a file in Git LFS is kept for others to ask for.
	unused = 24 * time.Hour
)

// ErrNotLarge tells that a path of a commit is no file in Git LFS.
var ErrNotLarge = errors.New("no file in Git LFS")

// Lender is an origin that hands out the files in Git LFS of the commits that it
// sends, as it does their submodules.
type Lender interface {
	Origin
	// Lend writes the content of the file at a path of the commit.
	Lend(ctx context.Context, path string, p lfs.Pointer, w io.Writer) error
}

// Large opens the content of a file in Git LFS: p is the pointer at path in a commit
// that is in the store. What was got once stays until [Repo.PruneLarge].
//
// Errors are also [lfs.ErrNoProgram], [lfs.ErrTooLarge], and [ErrBad] when the
// repository says of such files what cannot be used.
func (r *Repo) Large(ctx context.Context, sha, path string, p lfs.Pointer) (*os.File, error) {
	return r.large.Open(ctx, p, func(ctx context.Context, w io.Writer) error {
		if l, ok := r.origin.(Lender); ok {
			return l.Lend(ctx, path, p, w)
		}
		v, err := r.View()
		if err != nil {
			return err
		}
		defer v.Close()
		at, err := r.locate(v, sha, path)
		if err != nil {
			return err
		}
		from, err := at.lfs(v)
		if err != nil {
			return err
		}
		return lfs.Download(ctx, r.dir, from, p, w)
	})
}

// SendLarge opens the file in Git LFS that is at a path of a commit, for one to
// whom the commit was sent; it is fetched where that is needed. Files that nobody
// asked for in a day are removed on the way. Errors: also [ErrNotLarge].
func (r *Repo) SendLarge(ctx context.Context, sha, path string) (*os.File, error) {
	p, err := r.pointer(sha, path)
	if Damaged(err) {
		if err := r.Fetch(ctx, sha, nil); err != nil {
			return nil, err
		}
		p, err = r.pointer(sha, path)
	}
	if err != nil {
		return nil, err
	}
	if err := r.PruneLarge(func(_ string, used time.Time) bool { return time.Since(used) < unused }); err != nil {
		return nil, err
	}
	return r.Large(ctx, sha, path, p)
}

// PruneLarge removes the files in Git LFS that keep is false of; it is told the
// SHA-256 of each and when it was last opened.
func (r *Repo) PruneLarge(keep func(oid string, used time.Time) bool) error {
	return r.large.Prune(keep)
}

func (r *Repo) pointer(sha, path string) (p lfs.Pointer, err error) {
	v, err := r.View()
	if err != nil {
		return p, err
	}
	defer v.Close()
	at, err := r.locate(v, sha, path)
	if err != nil {
		return p, err
	}
	content, err := v.ReadAll(at.blob, gitstore.Blob, lfs.MaxPointer)
	if err != nil && !errors.Is(err, gitstore.ErrTooLarge) {
		return p, err
	}
	p, ok := lfs.Parse(content)
	if !ok {
		return p, fmt.Errorf("%.200q is %w", path, ErrNotLarge)
	}
	return p, nil
}

// located is a file of a commit or of one of its submodules.
type located struct {
	origin Origin
	module string        // the path of the submodule, "" for none
	root   gitstore.Hash // the commit that it belongs to
	blob   gitstore.Hash
}

// locate finds a file of a commit, and which repository it is of.
func (r *Repo) locate(v *gitstore.View, sha, path string) (located, error) {
	commit, err := gitstore.ParseHash(sha)
	if err != nil {
		return located{}, err
	}
	at := located{origin: r.origin, root: commit}
	tree, err := Root(v, commit)
	if err != nil {
		return at, err
	}
	names := strings.Split(path, "/")
	for i, name := range names {
		e, err := entry(v, tree, name)
		if err != nil {
			return at, err
		}
		last := i == len(names)-1
		switch {
		case e != nil && last && (e.Mode == gitstore.ModeFile || e.Mode == gitstore.ModeGroup || e.Mode == gitstore.ModeExecutable):
			at.blob = e.Hash
			return at, nil
		case e != nil && !last && e.Mode == gitstore.ModeDir:
			tree = e.Hash
		case e != nil && !last && e.Mode == gitstore.ModeSubmodule:
			inside := strings.Join(names[:i+1], "/")
			if at, err = at.enter(v, inside, e.Hash); err != nil {
				return at, inModule(inside, err)
			}
			if tree, err = Root(v, at.root); err != nil {
				return at, err
			}
		default:
			return at, fmt.Errorf("%.200q is %w", path, ErrNotLarge)
		}
	}
	return at, nil
}

// enter goes into the submodule at path, of which commit is the pinned one.
func (l located) enter(v *gitstore.View, path string, commit gitstore.Hash) (located, error) {
	from, ok := l.origin.(Modular)
	if !ok {
		return l, fmt.Errorf("%w: %s does not say where it is", ErrBad, l.origin)
	}
	tree, err := Root(v, l.root)
	if err != nil {
		return l, err
	}
	file, err := entry(v, tree, ".gitmodules")
	if err != nil {
		return l, err
	}
	urls, err := moduleURLs(v, file)
	if err != nil {
		return l, err
	}
	origin, err := from.Module(urls[strings.TrimPrefix(strings.TrimPrefix(path, l.module), "/")])
	if err != nil {
		return l, fmt.Errorf("%w: %w", ErrBad, err)
	}
	return located{origin: origin, module: path, root: commit}, nil
}

// lfs returns the repository as .lfsconfig in it says.
func (l located) lfs(v *gitstore.View) (gitremote.Remote, error) {
	o, ok := l.origin.(remote)
	if !ok {
		return gitremote.Remote{}, fmt.Errorf("%w: %s has no files in Git LFS", ErrBad, l.origin)
	}
	tree, err := Root(v, l.root)
	if err != nil {
		return o.Remote, err
	}
	file, err := entry(v, tree, ".lfsconfig")
	if err != nil || file == nil || file.Mode == gitstore.ModeLink {
		return o.Remote, err
	}
	content, err := v.ReadAll(file.Hash, gitstore.Blob, maxLFSConfig)
	if err != nil {
		return o.Remote, inModule(l.module, unlessBad(err))
	}
	url, err := gitremote.ParseLFSConfig(content)
	from := o.Remote
	if err == nil && url != "" {
		from, err = from.WithLFS(url, o.login)
	}
	if err != nil {
		return from, inModule(l.module, fmt.Errorf("%w: %w", ErrBad, err))
	}
	return from, nil
}

// entry returns what a directory has by a name, nil for nothing.
func entry(v *gitstore.View, tree gitstore.Hash, name string) (*gitstore.TreeEntry, error) {
	entries, err := ReadTree(v, tree)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		if entries[i].Name == name {
			return &entries[i], nil
		}
	}
	return nil, nil
}
