package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// sources are the commits that the coordinator fetches for its agents, one store
// for each repository. They are apart from the mirrors, which have history and
// mostly no files.
type sources map[string]*snapshot.Repo // by app

func openSources(f *config.Fleet) (sources, error) {
	all, byKey := sources{}, map[string]*snapshot.Repo{}
	for _, a := range f.Apps {
		if a.Source.Via != config.ViaCoordinator {
			continue
		}
		key := sourceKey(a)
		if byKey[key] == nil {
			origin, err := snapshot.Git(a.Repo, a.LoginTo)
			if err != nil {
				return nil, err
			}
			dir := filepath.Join(f.Coordinator.Mirrors, a.Name+"-"+key+".commits")
			if byKey[key], err = snapshot.Open(dir, origin); err != nil {
				return nil, err
			}
		}
		all[a.Name] = byKey[key]
	}
	return all, nil
}

// sourceKey stands for a repository and how it is logged in to: who may read it
// with one credential may not with another.
func sourceKey(a *config.App) string {
	sum := sha256.Sum256([]byte(a.Repo + "\n" + a.Source.Key()))
	return hex.EncodeToString(sum[:4])
}

// Send implements [httpapi.Sources].
func (s sources) Send(ctx context.Context, app, sha string, haves []string) (*snapshot.Sending, error) {
	r := s[app]
	if r == nil {
		return nil, httpapi.ErrNoSource
	}
	return r.Send(ctx, sha, haves)
}

// SendLarge implements [httpapi.Sources].
func (s sources) SendLarge(ctx context.Context, app, sha, path string) (*os.File, error) {
	r := s[app]
	if r == nil {
		return nil, httpapi.ErrNoSource
	}
	return r.SendLarge(ctx, sha, path)
}
