// Package mirror keeps a bare copy of an app's repository, with its history, so
// that the coordinator can tell which commit a branch is at and which commit
// came before which.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Mirror is a bare copy of one repository. Its methods are safe for concurrent
// use; those that change it wait for each other.
type Mirror struct {
	dir string
	url string

	mu   sync.Mutex
	repo *git.Repository // nil until first used
}

// cacheSize bounds the objects kept in memory while history is walked.
const cacheSize = 8 * cache.MiByte

// minShort is how many digits of a commit must be given.
const minShort = 7

// Open returns the mirror of url in dir. The directory is made and the
// repository fetched when it is first needed.
func Open(dir, url string) (*Mirror, error) {
	if _, err := transport.NewEndpoint(url); err != nil {
		return nil, fmt.Errorf("cannot use the repository URL %s: %w", public(url), err)
	}
	return &Mirror{dir: dir, url: url}, nil
}

// RemoteHead asks the remote for the commit that the branch is at, and fetches
// nothing. ErrUnknownRef when there is no such branch.
func (m *Mirror) RemoteHead(ctx context.Context, branch string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	repo, err := m.open()
	if err != nil {
		return "", err
	}
	remote, err := repo.Remote(git.DefaultRemoteName)
	if err != nil {
		return "", fmt.Errorf("cannot read the mirror in %s: %w", m.dir, err)
	}
	refs, err := remote.ListContext(ctx, &git.ListOptions{})
	if err != nil {
		return "", m.remoteError(err)
	}
	for _, r := range refs {
		if r.Name() == plumbing.NewBranchReferenceName(branch) {
			return r.Hash().String(), nil
		}
	}
	return "", m.noBranch(branch)
}

// Head fetches and returns the commit that the branch is at. ErrUnknownRef when
// there is no such branch.
func (m *Mirror) Head(ctx context.Context, branch string) (Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var c Commit
	err := m.healed(ctx, func(repo *git.Repository) error {
		if err := m.fetch(ctx, repo); err != nil {
			return err
		}
		ref, err := repo.Reference(plumbing.NewBranchReferenceName(branch), true)
		if errors.Is(err, plumbing.ErrReferenceNotFound) {
			return m.noBranch(branch)
		}
		if err != nil {
			return err
		}
		c, err = commit(repo, ref.Hash())
		return err
	})
	return c, err
}

// Resolve returns the commit that a branch, a tag, or a commit (7 digits or
// more) names, fetching when the mirror does not know it. ErrUnknownRef and
// ErrAmbiguous tell what is wrong with the name.
func (m *Mirror) Resolve(ctx context.Context, name string) (Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var c Commit
	err := m.healed(ctx, func(repo *git.Repository) error {
		// A branch or tag may have moved; a commit cannot.
		if !isHex(name) {
			if err := m.fetch(ctx, repo); err != nil {
				return err
			}
		}
		hash, err := m.resolve(repo, name)
		if errors.Is(err, ErrUnknownRef) && isHex(name) {
			if err := m.fetch(ctx, repo); err != nil {
				return err
			}
			hash, err = m.resolve(repo, name)
		}
		if err != nil {
			return err
		}
		c, err = commit(repo, hash)
		return err
	})
	return c, err
}

func (m *Mirror) resolve(repo *git.Repository, name string) (plumbing.Hash, error) {
	for _, full := range []plumbing.ReferenceName{plumbing.NewBranchReferenceName(name), plumbing.NewTagReferenceName(name)} {
		ref, err := repo.Reference(full, true)
		if errors.Is(err, plumbing.ErrReferenceNotFound) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return plumbing.ZeroHash, err
		}
		return peel(repo, ref.Hash())
	}
	if !isHex(name) || len(name) < minShort {
		return plumbing.ZeroHash, fmt.Errorf("%s has no branch, tag, or commit %q (of a commit, give 7 digits or more): %w", public(m.url), name, ErrUnknownRef)
	}
	var found []plumbing.Hash
	commits, err := repo.CommitObjects()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	err = commits.ForEach(func(c *object.Commit) error {
		if strings.HasPrefix(c.Hash.String(), strings.ToLower(name)) {
			found = append(found, c.Hash)
		}
		return nil
	})
	switch {
	case err != nil:
		return plumbing.ZeroHash, err
	case len(found) == 0:
		return plumbing.ZeroHash, fmt.Errorf("%s has no branch, tag, or commit %s: %w", public(m.url), name, ErrUnknownRef)
	case len(found) > 1:
		return plumbing.ZeroHash, fmt.Errorf("%d commits of %s begin with %s, give more digits: %w", len(found), public(m.url), name, ErrAmbiguous)
	}
	return found[0], nil
}

// peel returns the commit that a tag is on.
func peel(repo *git.Repository, h plumbing.Hash) (plumbing.Hash, error) {
	tag, err := repo.TagObject(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return h, nil // not an annotated tag
	}
	if err != nil {
		return plumbing.ZeroHash, err
	}
	c, err := tag.Commit()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("the tag %s is not on a commit: %w", tag.Name, ErrUnknownRef)
	}
	return c.Hash, nil
}

// IsAncestor tells whether commit old is newer's ancestor, or newer itself.
// ErrUnknownCommit when the mirror does not have one of them.
func (m *Mirror) IsAncestor(_ context.Context, old, newer string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	repo, err := m.open()
	if err != nil {
		return false, err
	}
	var cs [2]*object.Commit
	for i, sha := range []string{old, newer} {
		cs[i], err = repo.CommitObject(plumbing.NewHash(sha))
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return false, fmt.Errorf("%s: %w", sha, ErrUnknownCommit)
		}
		if err != nil {
			return false, fmt.Errorf("cannot read commit %s of the mirror in %s: %w", sha, m.dir, err)
		}
	}
	if cs[0].Hash == cs[1].Hash {
		return true, nil
	}
	is, err := cs[0].IsAncestor(cs[1])
	if err != nil {
		return false, fmt.Errorf("cannot walk the history of the mirror in %s: %w", m.dir, err)
	}
	return is, nil
}

// healed does something with the repository. When that shows the repository to
// be damaged, it is fetched anew, once.
func (m *Mirror) healed(ctx context.Context, do func(*git.Repository) error) error {
	repo, err := m.open()
	if err == nil {
		err = do(repo)
	}
	if err == nil || !damaged(err) || ctx.Err() != nil {
		return err
	}
	m.repo = nil
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("cannot remove the damaged mirror: %w", err)
	}
	if repo, err = m.open(); err != nil {
		return err
	}
	return do(repo)
}

// open opens the repository, making it when there is none.
func (m *Mirror) open() (*git.Repository, error) {
	if m.repo != nil {
		return m.repo, nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the mirror of %s: %w", public(m.url), err)
	}
	st := filesystem.NewStorage(osfs.New(m.dir, osfs.WithBoundOS()), cache.NewObjectLRU(cacheSize))
	repo, err := git.Open(st, nil)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.Init(st, nil)
	}
	if err != nil {
		return nil, &damage{fmt.Errorf("cannot open the mirror in %s: %w", m.dir, err)}
	}
	if err := m.setRemote(repo); err != nil {
		return nil, &damage{fmt.Errorf("cannot set up the mirror in %s: %w", m.dir, err)}
	}
	m.repo = repo
	return repo, nil
}

func (m *Mirror) setRemote(repo *git.Repository) error {
	if r, err := repo.Remote(git.DefaultRemoteName); err == nil && len(r.Config().URLs) == 1 && r.Config().URLs[0] == m.url {
		return nil
	}
	cfg, err := repo.Config()
	if err != nil {
		return err
	}
	cfg.Remotes[git.DefaultRemoteName] = &config.RemoteConfig{
		Name: git.DefaultRemoteName, URLs: []string{m.url}, Mirror: true,
		Fetch: []config.RefSpec{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"},
	}
	return repo.SetConfig(cfg)
}

func (m *Mirror) fetch(ctx context.Context, repo *git.Repository) error {
	err := repo.FetchContext(ctx, &git.FetchOptions{RemoteName: git.DefaultRemoteName, Force: true, Prune: true, Tags: git.NoTags})
	switch {
	case err == nil, errors.Is(err, git.NoErrAlreadyUpToDate):
		return nil
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fmt.Errorf("%s is empty: push a commit first: %w", public(m.url), ErrUnknownRef)
	}
	return m.remoteError(err)
}

func commit(repo *git.Repository, h plumbing.Hash) (Commit, error) {
	c, err := repo.CommitObject(h)
	if err != nil {
		return Commit{}, fmt.Errorf("cannot read commit %s: %w", h, err)
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return Commit{SHA: h.String(), Subject: strings.ToValidUTF8(subject, "?"), Committed: c.Committer.When.UTC()}, nil
}

func isHex(s string) bool {
	return s != "" && len(s) <= 40 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}
