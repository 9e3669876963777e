package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

const (
	maxRecipe  = 64 << 10 // bytes of a recipe file
	maxRecipes = 256      // commits whose recipes are remembered
)

// recipes are those of the commits of an app that may have their own.
type recipes struct {
	app  *config.App
	file func(ctx context.Context, sha, path string, limit int64) ([]byte, error)

	mu    sync.Mutex
	known map[string]api.Recipe // by commit
}

// of returns the recipe of a commit, read from its own file where it has one. A
// file that cannot be used is a [*rollout.Refused].
func (r *recipes) of(ctx context.Context, sha string) (api.Recipe, error) {
	r.mu.Lock()
	recipe, ok := r.known[sha]
	r.mu.Unlock()
	if ok {
		return recipe, nil
	}
	path := r.app.RecipeFile.File
	content, err := r.file(ctx, sha, path, maxRecipe)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		recipe = r.app.Recipe()
	case errors.Is(err, mirror.ErrNoFile):
		return recipe, &rollout.Refused{Code: rollout.RefusedRecipe, Text: err.Error()}
	case err != nil:
		return recipe, err
	default:
		if recipe, err = r.app.RecipeOf(sha[:min(12, len(sha))]+":"+path, content); err != nil {
			return recipe, &rollout.Refused{Code: rollout.RefusedRecipe, Text: err.Error()}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxRecipes {
		clear(r.known)
	}
	r.known[sha] = recipe
	return recipe, nil
}

// id names the release of a commit. One whose own recipe was not read yet goes by
// that of the fleet file: it was not asked for since the start.
func (r *recipes) id(sha string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	recipe, ok := r.known[sha]
	if !ok {
		recipe = r.app.Recipe()
	}
	return config.ReleaseID(sha, recipe)
}

// recipesIn finds the recipes of releases that were deployed.
func recipesIn(st store.Store) func(ctx context.Context, app string, id rollout.ReleaseID) (api.Recipe, error) {
	return func(ctx context.Context, app string, id rollout.ReleaseID) (api.Recipe, error) {
		found, err := st.Releases(ctx, app, string(id))
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("the database knows no release %s of %s", id, app)
		}
		if err != nil {
			return api.Recipe{}, err
		}
		return found[0].Recipe, nil
	}
}
