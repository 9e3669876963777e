// Package mirror keeps the commits of a remote repository at hand, so that the
// coordinator can tell which commit a branch is at and how commits are ordered
// by ancestry. It keeps no file of the repository: a remote that can leave out
// trees and files is asked to. The few that are wanted, [Mirror.File] asks for.
//
// A mirror is a copy that may be deleted at any time. When it turns out to be
// damaged it is fetched anew, once per call. Commits that a forced push removed
// from the remote are remembered until then.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// How long the remote may take.
const (
	fetchTimeout = 15 * time.Minute // to hand out all of its history
	probeTimeout = time.Minute      // to say where its branches are
)

// Mirror is the local copy of one remote. Its methods are safe for concurrent
// use; those that need the copy take turns. No two mirrors may share a directory.
type Mirror struct {
	dir     string
	remote  gitremote.Remote
	timeout time.Duration
	packs   int // that are too many

	turn       chan struct{} // holds one token while a call uses the copy
	unfiltered bool          // the remote does not want to leave out anything; for the one whose turn it is
}

// Open prepares the mirror of the remote at url in the directory dir, which it
// creates. It does not ask the remote. What dir holds of another remote is
// deleted; a directory with anything else is refused. The url may be https,
// http, ssh (also as user@host:path), git, or file, or the path of a repository
// on this machine. The zero login asks as nobody over http and as the user's ssh
// agent or key over ssh.
func Open(dir, url string, login gitremote.Login) (*Mirror, error) {
	r, err := gitremote.Parse(url)
	if err != nil {
		return nil, err
	}
	m := &Mirror{dir: dir, remote: r.With(login), timeout: fetchTimeout, packs: maxPacks, turn: make(chan struct{}, 1)}
	if err := m.prepare(); err != nil {
		return nil, fmt.Errorf("cannot use %s as the mirror of %s: %w", dir, r, err)
	}
	return m, nil
}

// RemoteHead asks the remote for the SHA of the branch's commit and fetches
// nothing. Errors are [*RemoteError].
func (m *Mirror) RemoteHead(ctx context.Context, branch string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, tooLong(probeTimeout))
	defer cancel()
	s, err := m.dial(ctx)
	if err != nil {
		return "", m.explain(ctx, err)
	}
	defer s.close()
	h, ok := s.refs["refs/heads/"+branch]
	if !ok {
		return "", m.noBranch(branch, s.refs)
	}
	return h.String(), nil
}

// Head fetches and returns the branch's commit. Errors are [*RemoteError] and
// those of the local disk.
func (m *Mirror) Head(ctx context.Context, branch string) (Commit, error) {
	return with(ctx, m, func(l *local) (Commit, error) {
		if err := m.fetch(ctx, l); err != nil {
			return Commit{}, err
		}
		h, ok := l.refs["refs/heads/"+branch]
		if !ok {
			return Commit{}, m.noBranch(branch, l.refs)
		}
		return l.commit(h)
	})
}

// Resolve returns the commit that ref names: a branch, a tag, or a commit by
// all or at least seven of its hex digits. Names are looked up at the remote;
// of a commit that is known already nothing is fetched. A commit that no branch
// or tag of the remote ever contained is unknown, for a remote may hand out
// what others than its owners put there. Errors: [ErrUnknownRef],
// [ErrAmbiguous], and those of [Mirror.Head].
func (m *Mirror) Resolve(ctx context.Context, ref string) (Commit, error) {
	return with(ctx, m, func(l *local) (Commit, error) {
		c, err := l.resolveKnown(ref)
		if !errors.Is(err, ErrUnknownRef) {
			return c, err
		}
		if err := m.fetch(ctx, l); err != nil {
			return Commit{}, err
		}
		if c, err = l.resolve(ref); errors.Is(err, ErrUnknownRef) {
			if err := l.verify(); err != nil {
				return Commit{}, err
			}
			return Commit{}, fmt.Errorf("cannot find %q in %s: %w; expected a branch, a tag, or a commit by 7 or more of its digits, contained in a branch or tag",
				gitremote.Clean(ref), m.remote, ErrUnknownRef)
		}
		return c, err
	})
}

// IsAncestor tells whether the commit old is new or one that new descends from.
// Both are full SHAs; [ErrUnknownCommit] tells that one was never fetched, or
// was removed from the remote and is forgotten.
func (m *Mirror) IsAncestor(ctx context.Context, old, new string) (bool, error) {
	return with(ctx, m, func(l *local) (bool, error) {
		a, err := l.known(old)
		if err != nil {
			return false, err
		}
		b, err := l.known(new)
		if err != nil {
			return false, err
		}
		return l.isAncestor(ctx, a, b)
	})
}

// with calls f with the copy, in turn, and once more with a copy that was
// fetched anew when the first turns out to be damaged.
func with[T any](ctx context.Context, m *Mirror, f func(*local) (T, error)) (T, error) {
	var none T
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return none, fmt.Errorf("cannot use the mirror of %s: %w", m.remote, context.Cause(ctx))
	}
	v, err := try(m, f)
	var d *damage
	if !errors.As(err, &d) {
		return v, err
	}
	if again := m.rebuild(ctx); again != nil {
		return none, fmt.Errorf("the mirror %s is damaged (%w) and cannot be fetched anew: %w", m.dir, d.err, again)
	}
	return try(m, f)
}

func try[T any](m *Mirror, f func(*local) (T, error)) (v T, err error) {
	l := openLocal(m.dir)
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.loadRefs(); err != nil {
		return v, err
	}
	return f(l)
}
