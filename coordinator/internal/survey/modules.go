package survey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const (
	maxModuleFile = 1 << 20
	// maxModules bounds how many submodules are tried, probes how many at a time.
	maxModules, probes = 100, 8
)

// Module is a submodule of a commit, and how its repository answered.
type Module struct {
	Path string
	URL  string // without credentials
	Err  error  // nil when it can be read
}

// Modules tries the submodules of an app's commits with the credentials that they
// are fetched with. It is for any number of goroutines.
type Modules struct {
	Repo  string                           // URL of the app's repository
	Login func(url string) gitremote.Login // to a submodule's
	// File reads a file of a commit, or fails with [fs.ErrNotExist].
	File func(ctx context.Context, sha, path string, limit int64) ([]byte, error)

	mu   sync.Mutex
	sha  string
	urls map[string]string // in .gitmodules of sha, by path
}

func (m *Modules) listed(ctx context.Context, sha string) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sha == sha {
		return m.urls, nil
	}
	content, err := m.File(ctx, sha, ".gitmodules", maxModuleFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	urls, err := gitremote.ParseModules(content)
	if err != nil {
		return nil, fmt.Errorf(".gitmodules: %w", err)
	}
	m.sha, m.urls = sha, urls
	return urls, nil
}

// Try asks each repository for no more than its branches.
func (m *Modules) Try(ctx context.Context, sha string) ([]Module, error) {
	urls, err := m.listed(ctx, sha)
	if err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(urls))
	found := make([]Module, min(len(paths), maxModules))
	var g errgroup.Group
	g.SetLimit(probes)
	for i := range found {
		g.Go(func() error {
			found[i] = Module{Path: paths[i]}
			found[i].URL, found[i].Err = m.probe(ctx, urls[paths[i]])
			return nil
		})
	}
	return found, g.Wait()
}

func (m *Modules) probe(ctx context.Context, raw string) (shown string, err error) {
	url, err := gitremote.Submodule(m.Repo, raw)
	if err != nil {
		return ".gitmodules", err
	}
	r, err := gitremote.Parse(url)
	if err != nil {
		return ".gitmodules", err
	}
	c, err := r.With(m.Login(url)).Dial(ctx)
	if err != nil {
		var f *gitremote.Failure
		if errors.As(err, &f) && f.Remedy != "" {
			err = fmt.Errorf("%w; %s", err, f.Remedy)
		}
		return r.String(), err
	}
	c.Close()
	return r.String(), nil
}
