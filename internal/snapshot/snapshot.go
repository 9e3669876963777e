// Package snapshot keeps single commits of a repository at hand: it fetches a
// commit by its full SHA, with its tree and its submodules and without its
// history. It knows neither branches nor work trees.
//
// What it keeps is a cache: whatever is missing or damaged in it is mended by
// fetching again, and it is started afresh when it has grown.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
)

const (
	// maxPacks is how many fetches are kept apart before all is fetched anew.
	maxPacks = 48
	// maxHaves is how many commits a remote is told of; it takes what it sends as
	// differences to their files.
	maxHaves = 16
	// nearDepth is how far back branches and tags are searched for a commit that
	// the remote does not hand out by its SHA, before their whole history is.
	nearDepth = 50
	// maxTree and maxCommit bound one tree and one commit; git's own largest are
	// far below them.
	maxTree   = 64 << 20
	maxCommit = 16 << 20
)

// Origin is where commits come from.
type Origin interface {
	// String names it, without credentials.
	String() string
	Dial(ctx context.Context) (Conversation, error)
}

// Conversation is one exchange with an origin, as [gitremote.Conversation] is.
type Conversation interface {
	HandsOut(gitstore.Hash) bool
	Tips() []gitstore.Hash
	Ask(gitremote.Ask) (*Answer, error)
	Close()
}

// Answer is a pack that arrives, and which commits in it come without their
// parents.
type Answer struct {
	io.ReadCloser
	Shallow, Unshallow []gitstore.Hash
}

// Repo is the commits of one repository in one directory. It may be used by
// several goroutines; there must be only one Repo for a directory at a time.
type Repo struct {
	dir    string
	origin Origin
	store  *gitstore.Store
	large  *lfs.Cache

	turn chan struct{} // holds one token while a call changes the store
}

// Open opens the store in dir, creating it when missing, and removes what
// interrupted fetches left. It does not contact the origin.
func Open(dir string, origin Origin) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the git store: %w", err)
	}
	store, err := gitstore.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Repo{
		dir: dir, origin: origin, store: store, large: lfs.NewCache(filepath.Join(dir, "large")), turn: make(chan struct{}, 1),
	}, nil
}

// Has tells whether the commit, its whole tree, and its submodules are in the
// store.
func (r *Repo) Has(sha string) bool {
	h, err := gitstore.ParseHash(sha)
	return err == nil && r.whole(h, true) == nil
}

// View opens what is in the store now. Damage, also such as is found when
// reading, wraps [gitstore.ErrCorrupt] or [gitstore.ErrMissing]; see [Repo.Refetch].
func (r *Repo) View() (*gitstore.View, error) { return r.store.View() }

// Fetch brings commit sha, a full SHA, its tree, and its submodules into the
// store; it asks the origin for nothing else when that allows it. Without need it
// does not contact the origin. What the origin says goes to progress, which may be nil. Calls take
// turns, so that of several for one commit only the first fetches.
//
// A failure of the origin is a [*gitremote.Failure]; the text says what to do and
// never contains credentials.
func (r *Repo) Fetch(ctx context.Context, sha string, progress io.Writer) error {
	return r.inTurn(ctx, sha, func(h gitstore.Hash) error { return r.fetch(ctx, h, newLines(progress)) })
}

// Refetch fetches the commit into a store that is started afresh, for one that
// turned out to be damaged.
func (r *Repo) Refetch(ctx context.Context, sha string, progress io.Writer) error {
	return r.inTurn(ctx, sha, func(h gitstore.Hash) error {
		if err := r.store.Reset(); err != nil {
			return err
		}
		return r.fetch(ctx, h, newLines(progress))
	})
}

func (r *Repo) inTurn(ctx context.Context, sha string, f func(gitstore.Hash) error) error {
	h, err := gitstore.ParseHash(sha)
	if err != nil {
		return fmt.Errorf("cannot fetch a commit: %w", err)
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return fmt.Errorf("cannot fetch commit %s: %w", short(h), context.Cause(ctx))
	}
	return f(h)
}

func (r *Repo) fetch(ctx context.Context, h gitstore.Hash, say *lines) error {
	if err := r.store.Init(); err != nil {
		return err
	}
	if done, err := r.settle(h); done {
		return err
	}
	if why := r.unfit(); why != "" {
		say.printf("Starting the git store afresh: %s.", why)
		if err := r.store.Reset(); err != nil {
			return err
		}
	}
	for _, afresh := range []bool{false, true} {
		if afresh {
			// The fetch went well, so it is what was here before that is damaged.
			say.printf("The git store is damaged: fetching everything again.")
			if err := r.store.Reset(); err != nil {
				return err
			}
		}
		if err := r.fetchAll(ctx, h, afresh, say); err != nil {
			return err
		}
		if done, err := r.settle(h); done {
			return err
		}
	}
	return &gitremote.Failure{Err: fmt.Errorf("cannot fetch commit %s from %s: what was sent is incomplete (%w); run git fsck on the remote",
		short(h), r.origin, r.whole(h, true))}
}

// settle records the commit when it is complete. It is not done when something is
// missing or damaged that can be fetched.
func (r *Repo) settle(h gitstore.Hash) (done bool, err error) {
	err = r.whole(h, true)
	if err == nil {
		if err := r.store.Record("", h); err != nil {
			return true, fmt.Errorf("cannot record commit %s in the git store: %w", short(h), err)
		}
		return true, nil
	}
	if Damaged(err) {
		return false, nil
	}
	return true, fmt.Errorf("cannot read commit %s: %w", short(h), err)
}

// Damaged tells whether fetching again mends what went wrong.
func Damaged(err error) bool {
	return errors.Is(err, gitstore.ErrCorrupt) || errors.Is(err, gitstore.ErrMissing)
}

// unfit says why the store should not be added to; "" when it may be.
func (r *Repo) unfit() string {
	v, err := r.store.View()
	if err != nil {
		return fmt.Sprintf("it is damaged (%v)", err)
	}
	defer v.Close()
	if n := v.Packs(); n > maxPacks {
		return fmt.Sprintf("it has grown to %d packs", n)
	}
	return ""
}

// Root returns the tree of a commit. A commit that names none is [ErrBad].
func Root(v *gitstore.View, commit gitstore.Hash) (gitstore.Hash, error) {
	content, err := v.ReadAll(commit, gitstore.Commit, maxCommit)
	if err != nil {
		return gitstore.Hash{}, unlessBad(err)
	}
	root, err := gitstore.CommitTree(content)
	if err != nil {
		return root, fmt.Errorf("%w: commit %s: %w", ErrBad, commit, err)
	}
	return root, nil
}

// ReadTree reads one directory. One that cannot be read although it is what its
// author made it is [ErrBad].
func ReadTree(v *gitstore.View, tree gitstore.Hash) ([]gitstore.TreeEntry, error) {
	content, err := v.ReadAll(tree, gitstore.Tree, maxTree)
	if err != nil {
		return nil, unlessBad(err)
	}
	entries, err := gitstore.ParseTree(content)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot read tree %s: %w", ErrBad, tree, err)
	}
	return entries, nil
}

// ErrBad tells that a commit is as its author made it and still of no use, so
// that fetching again would not help.
var ErrBad = errors.New("a commit that cannot be used")

func unlessBad(err error) error {
	if errors.Is(err, gitstore.ErrKind) || errors.Is(err, gitstore.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	return err
}

func short(h gitstore.Hash) string { return h.String()[:12] }
