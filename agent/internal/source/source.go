// Package source brings one commit of a repository to a node: it fetches the
// commit by its full SHA and writes its tree into a directory.
//
// Submodules are part of the commit. Files in Git LFS are downloaded with the
// git-lfs program, and refused by name where it is missing, rather than deployed
// as pointers. Of git's features .gitattributes (line endings, export-ignore) is
// not applied.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// Repo is the store of one app's repository. It may be used by several
// goroutines; there must be only one Repo for a directory at a time.
type Repo struct {
	snapshots *snapshot.Repo
	dir       string
}

// Git is the repository at url as an origin, logged in to, and to those of its
// submodules, as login says. url is what git accepts: https, http, ssh, git and
// file URLs, user@host:path, and paths.
func Git(url string, login func(url string) gitremote.Login) (snapshot.Origin, error) {
	origin, err := snapshot.Git(url, login)
	if err != nil {
		return nil, fault.New(api.ReasonFetchFailed, err)
	}
	return origin, nil
}

// Open opens the store in dir, creating it when missing, and removes what
// interrupted fetches left. It does not contact the origin.
func Open(dir string, origin snapshot.Origin) (*Repo, error) {
	s, err := snapshot.Open(dir, origin)
	if err != nil {
		return nil, err
	}
	return &Repo{s, dir}, nil
}

// Has tells whether the commit, its whole tree, and its submodules are in the
// store.
func (r *Repo) Has(sha string) bool { return r.snapshots.Has(sha) }

// Fetch brings commit sha, a full SHA, its tree, and its submodules into the store;
// it asks the remotes for nothing else when they allow that. Without need it does not
// contact them. What they say goes to progress, which may be nil.
//
// A failure to do so is [api.ReasonFetchFailed] and wraps one of the kinds of
// [gitremote.Failure] where that is known; the text says what to do and never
// contains credentials.
func (r *Repo) Fetch(ctx context.Context, sha string, progress io.Writer) error {
	if _, err := gitstore.ParseHash(sha); err != nil {
		return fault.Errorf(api.ReasonFetchFailed, "cannot fetch a commit: %w", err)
	}
	return reason(r.snapshots.Fetch(ctx, sha, progress))
}

// reason adds to an error why the commit cannot be had, unless it is this
// machine's or the caller's.
func reason(err error) error {
	var known *fault.Error
	var failure *gitremote.Failure
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return err
	case errors.Is(err, snapshot.ErrBad):
		return fault.New(api.ReasonBadTree, err)
	case errors.As(err, &failure):
		return fault.New(api.ReasonFetchFailed, err)
	}
	return err
}

// Write writes the tree of commit sha into dir, which must be empty or missing.
// Files get mode 0644 or 0755, less the umask. Nothing is ever written outside
// dir, and every file is verified against the commit.
//
// A commit with contents that cannot be deployed is [api.ReasonBadTree], naming
// the path and the remedy; in most cases nothing has been written then. If the
// store turns out to be damaged, it is fetched again, once.
func (r *Repo) Write(ctx context.Context, sha string, dir string) error {
	h, err := gitstore.ParseHash(sha)
	if err != nil {
		return fmt.Errorf("cannot write a commit: %w", err)
	}
	root, err := emptyRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot write commit %s into %s: %w", sha[:12], dir, err)
	}
	defer root.Close()
	err = r.write(ctx, h, root)
	if snapshot.Damaged(err) {
		if err = clear(root); err == nil {
			err = r.snapshots.Refetch(ctx, sha, nil)
		}
		if err == nil {
			err = r.write(ctx, h, root)
		}
		if snapshot.Damaged(err) {
			err = fault.Errorf(api.ReasonFetchFailed,
				"the store is damaged again right after it was fetched (%w): check the disk under %s", err, r.dir)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write commit %s into %s: %w", sha[:12], dir, reason(err))
	}
	return nil
}

func (r *Repo) write(ctx context.Context, h gitstore.Hash, root *dirs) (err error) {
	v, err := r.snapshots.View()
	if err != nil {
		return err
	}
	defer v.Close()
	files := &largeFiles{from: r.snapshots, sha: h.String(), used: map[string]bool{}}
	defer func() { err = errors.Join(err, files.prune()) }()
	return writeCommit(ctx, v, h, files, root)
}

func writeCommit(ctx context.Context, v *gitstore.View, h gitstore.Hash, files *largeFiles, root *dirs) error {
	tree, err := snapshot.Root(v, h)
	if err != nil {
		return err
	}
	p, err := newPlan(ctx, v, tree)
	if err != nil {
		return err
	}
	return p.write(ctx, v, files, root)
}
