// Package runner is the shell around the pure rollout engine: it loads a pool,
// steps it, commits state, event, and effects in one transaction, and only then
// acts: it answers the agents that wait and wakes those who watch.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/bell"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Store is what the runner needs of the coordinator's store.
type Store interface {
	Load(ctx context.Context, pool string) (rollout.State, int64, error)
	Commit(ctx context.Context, c store.Commit) (int64, error)
}

// Config is what a runner is made of.
type Config struct {
	Store Store
	// Pools is the configuration of every pool; each app is in exactly one.
	Pools []rollout.Configured
	// NodeTimeout is how long a node may be silent before it counts as lost. It
	// must be well over the long poll of the agents.
	NodeTimeout time.Duration
	Log         *slog.Logger
	// Committed, if set, is called after each step that was stored.
	Committed func(pool string, effects []rollout.Effect)
}

// Runner runs every pool of a coordinator. Its methods are safe for concurrent
// use.
type Runner struct {
	cfg   Config
	pools []*pool
	nodes *nodes
	news  *bell.Bell // rung at every change that a watcher can see
}

// pool is one engine with its place in the store.
type pool struct {
	name string
	wake chan struct{} // the deadline may have changed

	mu      sync.Mutex
	version int64
	state   rollout.State
	// reports are the last ones stepped, by node: an equal one changes nothing.
	reports map[string]rollout.Reported
}

// New loads the pools and steps each with the news that the coordinator has
// started and with its configuration.
func New(ctx context.Context, cfg Config) (*Runner, error) {
	r := &Runner{cfg: cfg, news: bell.New()}
	var names []string
	for _, c := range cfg.Pools {
		p := &pool{name: c.Pool, wake: make(chan struct{}, 1), reports: map[string]rollout.Reported{}}
		r.pools = append(r.pools, p)
		for _, a := range c.Apps {
			names = append(names, a.Nodes...)
		}
	}
	r.nodes = newNodes(names)
	for i, p := range r.pools {
		if err := r.load(ctx, p); err != nil {
			return nil, err
		}
		// First of all, what was known is old: no turn may be given on it.
		if p.version > 0 {
			if _, err := r.step(ctx, p, rollout.Started{At: now()}); err != nil {
				return nil, err
			}
		}
		c := cfg.Pools[i]
		c.At = now()
		if _, err := r.step(ctx, p, c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Runner) load(ctx context.Context, p *pool) error {
	state, version, err := r.cfg.Store.Load(ctx, p.name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("cannot load pool %s: %w", p.name, err)
	}
	p.state, p.version = state, version
	return nil
}

// Run keeps the deadlines of the pools and watches the nodes until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range r.pools {
		g.Go(func() error { return r.keepTime(ctx, p) })
	}
	g.Go(func() error { return r.watchNodes(ctx) })
	return g.Wait()
}

// Apply steps the app's pool with the event that make returns for the present
// instant. It returns once the step is stored; a [*rollout.Refused] tells that
// the engine declined, and nothing changed.
func (r *Runner) Apply(ctx context.Context, app string, make func(at time.Time) rollout.Event) ([]rollout.Effect, error) {
	p := r.poolOf(app)
	if p == nil {
		return nil, &rollout.Refused{Code: rollout.RefusedUnknownApp, Text: fmt.Sprintf("there is no app %q; `deployctl status` lists them", app)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return r.step(ctx, p, make(now()))
}

// step must be called with p.mu held, or before the runner is shared.
func (r *Runner) step(ctx context.Context, p *pool, ev rollout.Event) ([]rollout.Effect, error) {
	next, effects, err := rollout.Step(p.state, ev)
	if err != nil {
		return nil, err
	}
	// A client that hangs up must not leave its step half known.
	ctx = context.WithoutCancel(ctx)
	version, err := r.cfg.Store.Commit(ctx, store.Commit{Version: p.version, State: next, Event: ev, Effects: effects})
	if err != nil {
		err = fmt.Errorf("cannot store a step of pool %s: %w", p.name, err)
		// Whether it was stored is not known: what the store holds is the truth.
		if again := r.load(ctx, p); again != nil {
			err = errors.Join(err, again)
		}
		clear(p.reports)
		r.tellAll(p)
		return nil, err
	}
	p.state, p.version = next, version
	r.act(p, effects)
	return effects, nil
}

// act carries out the effects of a stored step.
func (r *Runner) act(p *pool, effects []rollout.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case rollout.Assign:
			r.nodes.ring(e.Node)
		case rollout.Noted:
			r.cfg.Log.Info(e.Text, "app", e.App, "rollout", e.Rollout, "target", e.Target, "kind", e.Kind, "reason", e.Reason)
		}
	}
	if r.cfg.Committed != nil {
		r.cfg.Committed(p.name, effects)
	}
	r.tell(p)
}

// tell wakes those who watch, and the clock.
func (r *Runner) tell(p *pool) {
	r.news.Ring()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// tellAll wakes everyone who may wait for a pool that changed we know not how.
func (r *Runner) tellAll(p *pool) {
	for _, n := range p.state.Nodes {
		r.nodes.ring(n.Name)
	}
	r.tell(p)
}

// restBetweenTicks is how long a deadline waits that a tick did not move,
// because it could not be stored or because of a mistake in the engine: time
// must not be kept by spinning.
const restBetweenTicks = time.Second

// keepTime sends a tick when a deadline of the pool has come.
func (r *Runner) keepTime(ctx context.Context, p *pool) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var ticked time.Time // the deadline that the last tick was for
	for {
		p.mu.Lock()
		next, ok := p.state.NextDeadline()
		p.mu.Unlock()
		switch {
		case !ok:
			timer.Reset(time.Hour)
		case next.Equal(ticked):
			timer.Reset(restBetweenTicks)
		default:
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			continue
		case <-timer.C:
		}
		if !ok {
			continue
		}
		ticked = next
		p.mu.Lock()
		_, err := r.step(ctx, p, rollout.Tick{At: now()})
		p.mu.Unlock()
		if err != nil {
			// The store may be back at the next try; nothing is lost meanwhile.
			r.cfg.Log.Error("Cannot keep a deadline", "pool", p.name, "error", err)
		}
	}
}

// View returns the state of the pool that the app is in, which the caller must
// not change, and false when there is no such app.
func (r *Runner) View(app string) (rollout.State, bool) {
	p := r.poolOf(app)
	if p == nil {
		return rollout.State{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, true
}

// Views returns the states of all pools, in configured order.
func (r *Runner) Views() []rollout.State {
	states := make([]rollout.State, 0, len(r.pools))
	for _, p := range r.pools {
		p.mu.Lock()
		states = append(states, p.state)
		p.mu.Unlock()
	}
	return states
}

// News returns a channel that is closed at the next change. Take it before
// looking, so that no change falls between.
func (r *Runner) News() <-chan struct{} { return r.news.Wait() }

func (r *Runner) poolOf(app string) *pool {
	for i, c := range r.cfg.Pools {
		for _, a := range c.Apps {
			if a.Name == app {
				return r.pools[i]
			}
		}
	}
	return nil
}

// now is the present without what cannot be stored.
func now() time.Time { return time.Now().UTC().Round(0) }
