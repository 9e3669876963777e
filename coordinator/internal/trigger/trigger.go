// Package trigger decides when a commit is to be deployed. A webhook delivery,
// the regular look at each branch, and a person's request all end here: the
// branch is read again, the commit is ordered by ancestry, and the engine is
// asked. What a delivery says is only a hint.
package trigger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Automation is who asks for rollouts that nobody asked for by hand.
const Automation = "lockstep"

// App is what the trigger must know of an app.
type App struct {
	Name         string
	Repo         string
	Branch       string
	Recipe       api.Recipe
	DeployForced bool // deploy a branch that was force-pushed
	// ReleaseID names the release of a commit.
	ReleaseID func(sha string) string
	// RecipeOf is the recipe of a commit that may have its own; nil where Recipe is
	// that of all. A recipe that cannot be used is a [*rollout.Refused].
	RecipeOf func(ctx context.Context, sha string) (api.Recipe, error)
	Mirror   Mirror
}

// Mirror is the app's repository as the coordinator keeps it.
type Mirror interface {
	// RemoteHead asks the remote for the branch's commit, fetching nothing.
	RemoteHead(ctx context.Context, branch string) (string, error)
	Head(ctx context.Context, branch string) (mirror.Commit, error)
	Resolve(ctx context.Context, ref string) (mirror.Commit, error)
	IsAncestor(ctx context.Context, old, new string) (bool, error)
}

// Engine is the runner.
type Engine interface {
	Apply(ctx context.Context, app string, make func(at time.Time) rollout.Event) ([]rollout.Effect, error)
	View(app string) (rollout.State, bool)
}

// Store is what the trigger needs of the coordinator's store.
type Store interface {
	PutRelease(ctx context.Context, app string, r store.Release) error
	Receive(ctx context.Context, d store.Delivery) (store.Delivery, bool, error)
	Resolve(ctx context.Context, id string, decision store.Decision, reason string, rollouts []rollout.RolloutID) error
	Pending(ctx context.Context) ([]store.Delivery, error)
}

// Config is what a trigger is made of.
type Config struct {
	Apps         []App
	Engine       Engine
	Store        Store
	PollInterval time.Duration // between looks at a branch
	Log          *slog.Logger
}

// Trigger watches the branches of every app.
type Trigger struct {
	cfg      Config
	watchers map[string]*watcher

	mu       sync.Mutex
	progress map[string]*progress // of the deliveries that are followed, by id
}

// New prepares a trigger; Run makes it work.
func New(cfg Config) *Trigger {
	t := &Trigger{cfg: cfg, watchers: map[string]*watcher{}, progress: map[string]*progress{}}
	for _, a := range cfg.Apps {
		t.watchers[a.Name] = &watcher{app: a, wake: make(chan struct{}, 1)}
	}
	return t
}

// Run takes up the deliveries that were left, then watches every branch until
// ctx ends.
func (t *Trigger) Run(ctx context.Context) error {
	pending, err := t.cfg.Store.Pending(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil //nolint:nilerr // stopped before it began; they stay recorded
	default:
		return fmt.Errorf("cannot read the deliveries that were not finished: %w", err)
	}
	for _, d := range pending {
		if err := t.follow(ctx, d, false); err != nil && ctx.Err() == nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range t.watchers {
		g.Go(func() error { return t.watch(ctx, w) })
	}
	return g.Wait()
}

// Deploy asks for the commit that ref names, or the head of the app's branch
// when it is "", and returns the rollout that it began. Errors: [*rollout.Refused], [mirror.ErrUnknownRef], and those
// of reaching the repository.
func (t *Trigger) Deploy(ctx context.Context, app, ref, by string) (rollout.RolloutID, error) {
	w := t.watchers[app]
	if w == nil {
		return "", &rollout.Refused{Code: rollout.RefusedUnknownApp, Text: fmt.Sprintf("there is no app %q; `deployctl status` lists them", app)}
	}
	c, err := w.resolve(ctx, ref)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return t.request(ctx, w.app, c, by, ref, false)
}

// Preview returns the request that Deploy would make, without making it. With the
// error about a recipe that cannot be used comes the commit that it is of.
func (t *Trigger) Preview(ctx context.Context, app, ref string) (rollout.DeployRequested, mirror.Commit, api.Recipe, error) {
	w := t.watchers[app]
	if w == nil {
		return rollout.DeployRequested{}, mirror.Commit{}, api.Recipe{}, &rollout.Refused{Code: rollout.RefusedUnknownApp, Text: fmt.Sprintf("there is no app %q", app)}
	}
	c, err := w.resolve(ctx, ref)
	if err != nil {
		return rollout.DeployRequested{}, mirror.Commit{}, api.Recipe{}, err
	}
	rel, recipe, err := w.app.release(ctx, c)
	return rollout.DeployRequested{App: app, Release: rel}, c, recipe, err
}

func (w *watcher) resolve(ctx context.Context, ref string) (mirror.Commit, error) {
	if ref == "" {
		return w.app.Mirror.Head(ctx, w.app.Branch)
	}
	return w.app.Mirror.Resolve(ctx, ref)
}

// release is what the app's recipe, or the commit's own, makes of a commit.
func (a App) release(ctx context.Context, c mirror.Commit) (rollout.Release, api.Recipe, error) {
	recipe := a.Recipe
	if a.RecipeOf != nil {
		var err error
		if recipe, err = a.RecipeOf(ctx, c.SHA); err != nil {
			return rollout.Release{}, recipe, err
		}
	}
	r := rollout.Release{ID: rollout.ReleaseID(a.ReleaseID(c.SHA)), SHA: c.SHA, Subject: c.Subject}
	if len(recipe.ReleaseCommand) > 0 {
		r.Command = recipe.ReleaseTimeout.D()
	}
	return r, recipe, nil
}

// request records the release and asks the engine to deploy it.
func (t *Trigger) request(ctx context.Context, a App, c mirror.Commit, by, cause string, automatic bool) (rollout.RolloutID, error) {
	rel, recipe, err := a.release(ctx, c)
	if err != nil {
		return "", err
	}
	err = t.cfg.Store.PutRelease(ctx, a.Name, store.Release{
		ID: string(rel.ID), SHA: c.SHA, Subject: c.Subject, Committed: c.Committed, Recipe: recipe, Recorded: time.Now().UTC(),
	})
	if err != nil {
		return "", fmt.Errorf("cannot record release %s of %s: %w", rel.ID, a.Name, err)
	}
	ev := rollout.DeployRequested{App: a.Name, Release: rel, By: by, Cause: cause, Automatic: automatic}
	if automatic {
		if err := t.order(ctx, a, &ev); err != nil {
			return "", err
		}
	}
	effects, err := t.cfg.Engine.Apply(ctx, a.Name, func(at time.Time) rollout.Event {
		ev.At = at
		return ev
	})
	if err != nil {
		return "", err
	}
	return Concerned(a.Name, effects), nil
}

// Concerned returns the rollout of the app that a request began or was about.
// What else the same step brought about, in this app or in another of its pool,
// the engine notes after it.
func Concerned(app string, effects []rollout.Effect) rollout.RolloutID {
	for _, e := range effects {
		if n, ok := e.(rollout.Noted); ok && n.App == app && n.Rollout != "" {
			return n.Rollout
		}
	}
	return ""
}

// order says how the commit stands to those that the app remembers.
func (t *Trigger) order(ctx context.Context, a App, ev *rollout.DeployRequested) error {
	s, ok := t.cfg.Engine.View(a.Name)
	if !ok {
		return nil
	}
	app := s.App(a.Name)
	for _, r := range app.Releases {
		if r.SHA == ev.Release.SHA || !relevant(app, r) {
			continue
		}
		in, err := a.Mirror.IsAncestor(ctx, ev.Release.SHA, r.SHA)
		switch {
		case errors.Is(err, mirror.ErrUnknownCommit):
			continue // forced away and forgotten: it contains nothing
		case err != nil:
			return fmt.Errorf("cannot order %s against %s: %w", ev.Release.SHA, r.SHA, err)
		case in:
			ev.ContainedIn = append(ev.ContainedIn, r.ID)
		}
	}
	current := app.Release(app.Current)
	if a.DeployForced || current == nil || current.SHA == ev.Release.SHA || len(ev.ContainedIn) > 0 {
		return nil
	}
	in, err := a.Mirror.IsAncestor(ctx, current.SHA, ev.Release.SHA)
	if err != nil && !errors.Is(err, mirror.ErrUnknownCommit) {
		return fmt.Errorf("cannot order %s against %s: %w", current.SHA, ev.Release.SHA, err)
	}
	ev.Diverged = !in
	return nil
}

// relevant tells whether the engine would refuse an ancestor of the release.
func relevant(a *rollout.App, r rollout.Release) bool {
	return r.Bad != nil || r.ID == a.Current ||
		(a.Live != nil && a.Live.Release == r.ID) || (a.Waiting != nil && a.Waiting.Release == r.ID)
}
