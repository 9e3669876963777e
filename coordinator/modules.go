package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/survey"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const (
	maxModuleFile = 1 << 20
	// maxModules bounds how many submodules are tried, probes how many at a time.
	maxModules, probes = 100, 8
)

// modules tries the submodules of an app's commits with the credentials that they
// are fetched with.
type modules struct {
	repo  string // of the app
	login func(url string) gitremote.Login
	file  func(ctx context.Context, sha, path string, limit int64) ([]byte, error)

	mu   sync.Mutex
	sha  string
	urls map[string]string // in .gitmodules of sha, by path
}

func (m *modules) listed(ctx context.Context, sha string) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sha == sha {
		return m.urls, nil
	}
	content, err := m.file(ctx, sha, ".gitmodules", maxModuleFile)
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

// try asks each repository for no more than its branches.
func (m *modules) try(ctx context.Context, sha string) ([]survey.Module, error) {
	urls, err := m.listed(ctx, sha)
	if err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(urls))
	found := make([]survey.Module, min(len(paths), maxModules))
	var g errgroup.Group
	g.SetLimit(probes)
	for i := range found {
		g.Go(func() error {
			found[i] = survey.Module{Path: paths[i]}
			found[i].URL, found[i].Err = m.probe(ctx, urls[paths[i]])
			return nil
		})
	}
	return found, g.Wait()
}

func (m *modules) probe(ctx context.Context, raw string) (shown string, err error) {
	url, err := gitremote.Submodule(m.repo, raw)
	if err != nil {
		return ".gitmodules", err
	}
	r, err := gitremote.Parse(url)
	if err != nil {
		return ".gitmodules", err
	}
	c, err := r.With(m.login(url)).Dial(ctx)
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

// tried is the survey's way to try them, of the apps by name.
func tried(apps map[string]*modules) func(ctx context.Context, app, sha string) ([]survey.Module, error) {
	return func(ctx context.Context, app, sha string) ([]survey.Module, error) {
		if apps[app] == nil {
			return nil, fmt.Errorf("there is no app %q", app)
		}
		return apps[app].try(ctx, sha)
	}
}
