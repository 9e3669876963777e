// Package source brings one commit of a repository to a node: it fetches the
// commit by its full SHA into a small bare store and writes its tree into a
// directory. It knows neither branches nor work trees.
//
// A store holds single commits without their history, each under a ref of its
// own. It is a cache: whatever is missing or damaged in it is mended by fetching
// again, and it is started afresh when it has grown (go-git cannot repack).
//
// Of git's features these are not applied: .gitattributes (line endings,
// export-ignore), submodules and Git LFS. The latter two are refused by name
// rather than deployed half.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Bounds of the memory that reading a store takes and of its growth on disk.
const (
	objectCache = 8 * cache.MiByte
	largeObject = 1 << 20 // larger ones are streamed
	maxPacks    = 16
	maxLoose    = 2000
)

// refPrefix is where the commits are recorded that are complete in a store. Each
// ref is written after everything it leads to.
const refPrefix = "refs/lockstep/"

// Repo is the bare store of one app's repository. It may be used by several
// goroutines; there must be only one Repo for a directory at a time.
type Repo struct {
	dir    string
	remote gitremote.Remote

	mu sync.Mutex
}

// Open opens the store in dir, creating it when missing, and removes what
// interrupted fetches left. It does not contact the remote. url is what git
// accepts: https, http, ssh, git and file URLs, user@host:path, and paths.
func Open(dir, url string) (*Repo, error) {
	remote, err := gitremote.Parse(url)
	if err != nil {
		return nil, fault.New(api.ReasonFetchFailed, err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the git store: %w", err)
	}
	r := &Repo{dir: dir, remote: remote}
	if err := r.init(); err != nil {
		return nil, err
	}
	if err := r.sweep(); err != nil {
		return nil, fmt.Errorf("cannot clean up the git store %s: %w", dir, err)
	}
	return r, nil
}

// Has tells whether the commit and its whole tree are in the store.
func (r *Repo) Has(sha string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return validSHA(sha) == nil && r.complete(sha) == nil
}

// Fetch brings commit sha, a full SHA, and its tree into the store; it asks the
// remote for nothing else when the remote allows that. Without need it does not
// contact the remote. What the remote says goes to progress, which may be nil.
//
// A failure to do so is [api.ReasonFetchFailed] and wraps [ErrUnknownCommit] or
// one of the kinds of [gitremote.Failure] where that is known; the text says what to
// do and never contains credentials.
func (r *Repo) Fetch(ctx context.Context, sha string, progress io.Writer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetch(ctx, sha, progress)
}

func (r *Repo) fetch(ctx context.Context, sha string, progress io.Writer) error {
	if err := validSHA(sha); err != nil {
		return fault.Errorf(api.ReasonFetchFailed, "cannot fetch %q: %w", sha, err)
	}
	if err := r.init(); err != nil {
		return err
	}
	if done, err := r.settle(sha); done {
		return err
	}
	say := newLines(progress)
	if why := r.unfit(); why != "" {
		say.printf("Starting the git store afresh: %s.", why)
		if err := r.reset(); err != nil {
			return err
		}
	}
	err := r.fetchSmall(ctx, sha, say)
	if err == nil {
		if done, err := r.settle(sha); done {
			return err
		}
	}
	if !final(ctx, err) {
		err = r.fetchWhole(ctx, sha, say)
	}
	if err != nil {
		return r.explain(ctx, sha, err)
	}
	if done, err := r.settle(sha); done {
		return err
	}
	// The fetch went well, so it is what was here before that is damaged.
	say.printf("The git store is damaged: fetching everything again.")
	if err := r.reset(); err != nil {
		return err
	}
	if err := r.fetchWhole(ctx, sha, say); err != nil {
		return r.explain(ctx, sha, err)
	}
	if done, err := r.settle(sha); done {
		return err
	}
	return fault.Errorf(api.ReasonFetchFailed,
		"cannot fetch commit %s from %s: the remote sent an incomplete commit (%w); run git fsck on the remote",
		short(sha), r.remote, r.complete(sha))
}

// settle records commit sha when it is complete. It is not done when something is
// missing or damaged that can be fetched.
func (r *Repo) settle(sha string) (done bool, err error) {
	err = r.complete(sha)
	if err == nil {
		return true, r.record(sha)
	}
	if isDamage(err) {
		return false, nil
	}
	return true, fmt.Errorf("cannot read commit %s: %w", short(sha), err)
}

// final tells whether another way of fetching would end the same.
func final(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, gitremote.ErrUnreachable) || errors.Is(err, gitremote.ErrDenied) ||
		errors.Is(err, gitremote.ErrNoRepository) || errors.Is(err, ErrUnknownCommit) || localFault(err))
}

// complete returns nil when the commit and its whole tree are present, and what
// is missing otherwise. Contents of files are verified when they are written.
func (r *Repo) complete(sha string) error {
	st := r.storage()
	defer st.Close()
	root, err := rootTree(st, plumbing.NewHash(sha))
	if err != nil {
		return err
	}
	// A tree or blob occurs in many places; one look at each is enough.
	seen := map[plumbing.Hash]bool{}
	return walk(st, root, func(e entry) (descend bool, err error) {
		if seen[e.hash] || e.isSubmodule() {
			return false, nil
		}
		seen[e.hash] = true
		if e.isDir() {
			return true, nil
		}
		if err := lookup(st, e.hash); err != nil {
			return false, damaged(fmt.Errorf("blob %s: %w", e.hash, err))
		}
		return false, nil
	})
}

// record writes the ref that vouches for a complete commit.
func (r *Repo) record(sha string) error {
	st := r.storage()
	defer st.Close()
	ref := plumbing.NewHashReference(refPrefix+plumbing.ReferenceName(sha), plumbing.NewHash(sha))
	if err := st.SetReference(ref); err != nil {
		return fmt.Errorf("cannot record commit %s in the git store: %w", short(sha), err)
	}
	return nil
}

// storage opens the files of the store. What it has read of them it does not read
// again, so it must not be used across a fetch.
func (r *Repo) storage() *filesystem.Storage {
	return filesystem.NewStorageWithOptions(
		osfs.New(r.dir, osfs.WithBoundOS()),
		cache.NewObjectLRU(objectCache),
		filesystem.Options{ExclusiveAccess: true, KeepDescriptors: true, LargeObjectThreshold: largeObject},
	)
}

// init makes the directory a bare repository that git itself understands too.
func (r *Repo) init() error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return fmt.Errorf("cannot create the git store: %w", err)
	}
	st := r.storage()
	defer st.Close()
	if err := st.Init(); err != nil {
		return fmt.Errorf("cannot create the git store %s: %w", r.dir, err)
	}
	for name, content := range map[string]string{
		"HEAD":   "ref: refs/heads/none\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
	} {
		path := filepath.Join(r.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("cannot create the git store: %w", err)
		}
	}
	return nil
}

// reset makes the store empty.
func (r *Repo) reset() error {
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("cannot remove the git store to start afresh: %w", err)
	}
	return r.init()
}

// sweep removes the temporary files of interrupted fetches.
func (r *Repo) sweep() error {
	var failed []error
	for _, pattern := range []string{"tmp_pack_*", "tmp_obj_*"} {
		found, err := filepath.Glob(filepath.Join(r.dir, "objects", "pack", pattern))
		failed = append(failed, err)
		for _, path := range found {
			failed = append(failed, os.Remove(path))
		}
	}
	return errors.Join(failed...)
}

// unfit says why the store should not be added to; "" when it may be.
func (r *Repo) unfit() string {
	st := r.storage()
	defer st.Close()
	// Any lookup reads every index, and fails when one lacks its pack.
	err := lookup(st, plumbing.NewHash(strings.Repeat("1", 40)))
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return fmt.Sprintf("it is damaged (%v)", err)
	}
	packs, _ := filepath.Glob(filepath.Join(r.dir, "objects", "pack", "*.pack"))
	for _, pack := range packs {
		if err := checkPack(pack); err != nil {
			return fmt.Sprintf("it is damaged (%v)", err)
		}
	}
	if len(packs) > maxPacks {
		return fmt.Sprintf("it has grown to %d packs", len(packs))
	}
	loose, _ := filepath.Glob(filepath.Join(r.dir, "objects", "[0-9a-f][0-9a-f]", "*"))
	if len(loose) > maxLoose {
		return fmt.Sprintf("it has grown to %d loose objects", len(loose))
	}
	return ""
}

// recorded returns commits that are complete in the store, at most max.
func (r *Repo) recorded(st *filesystem.Storage, max int) ([]plumbing.Hash, error) {
	refs, err := st.IterReferences()
	if err != nil {
		return nil, err
	}
	defer refs.Close()
	var commits []plumbing.Hash
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if strings.HasPrefix(ref.Name().String(), refPrefix) && len(commits) < max {
			commits = append(commits, ref.Hash())
		}
		return nil
	})
	return commits, err
}

func validSHA(sha string) error {
	if len(sha) != 40 || strings.Trim(sha, "0123456789abcdef") != "" {
		return errors.New("expected a full commit SHA, 40 hexadecimal digits in lower case")
	}
	return nil
}

func short(sha string) string { return sha[:12] }
