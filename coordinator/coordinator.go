// Package coordinator composes the coordinator of a fleet: it starts its parts
// in order, serves until it is told to stop, and stops them in reverse.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/depot"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/metrics"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store/sqlite"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/survey"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/webhook"
)

const (
	// stopTimeout bounds the wait for requests under way when stopping.
	stopTimeout = 10 * time.Second
	// history is how long timelines, logs, and finished rollouts are kept.
	history = 90 * 24 * time.Hour
)

// Options say how to run a coordinator.
type Options struct {
	Config  string // path of fleet.yaml
	Version string
	Log     *slog.Logger
	// Listener takes the place of coordinator.listen, as with socket activation.
	Listener net.Listener
	// Ready, if set, is called with the address once requests are answered.
	Ready func(addr net.Addr)
}

// Run runs a coordinator until ctx ends, then stops it: requests under way are
// answered, the step under way is stored. Agents keep their targets serving and
// finish their turns meanwhile. It returns nil after an orderly stop.
func Run(ctx context.Context, o Options) (err error) {
	fleet, err := config.Load(o.Config)
	if err != nil {
		return err
	}
	for _, w := range fleet.Warnings {
		o.Log.Warn(w.String())
	}
	st, err := sqlite.Open(ctx, fleet.Coordinator.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	if err := keepsTheWayBack(ctx, st, fleet, o.Config); err != nil {
		return err
	}
	m := metrics.New(o.Version)
	run, err := runner.New(ctx, runner.Config{
		Store: st, Pools: pools(fleet), NodeTimeout: fleet.Coordinator.NodeTimeout, Log: o.Log, Committed: m.Committed,
	})
	if err != nil {
		return err
	}
	m.Watch(run.Views)
	apps, inside, err := triggerApps(fleet)
	if err != nil {
		return err
	}
	trig := trigger.New(trigger.Config{
		Apps: apps, Engine: run, Store: st, PollInterval: fleet.Coordinator.PollInterval, Log: o.Log,
	})
	commits, err := openSources(fleet)
	if err != nil {
		return err
	}
	lbs, err := newBroker(fleet, run, o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lbs.Close()) }()
	built := depot.Open(fleet.Coordinator.Archives)
	for _, a := range fleet.Apps {
		if err := tellArchives(ctx, built, run, a.Name); err != nil {
			return err
		}
	}
	look := survey.New(survey.Config{
		Fleet: fleet, Engine: run, Broker: lbs, Head: heads(apps), Recipe: recipesIn(st), Version: o.Version,
		Modules: func(ctx context.Context, app, sha string) ([]survey.Module, error) { return inside[app].Try(ctx, sha) },
		Reload:  func() (*config.Fleet, error) { return config.Load(o.Config) },
	})
	hook, err := webhook.New(webhook.Options{Secrets: secrets(fleet), Sink: trig, Log: o.Log})
	if err != nil {
		return err
	}
	ln := o.Listener
	if ln == nil {
		if ln, err = net.Listen("tcp", fleet.Coordinator.Listen); err != nil {
			return fmt.Errorf("cannot listen on coordinator.listen %s: %w", fleet.Coordinator.Listen, err)
		}
	}

	handler := httpapi.New(httpapi.Config{
		Apps: httpApps(fleet), Runner: run, Trigger: trig, Store: st, Webhook: hook, Broker: lbs, Depot: built,
		Archived: func(ctx context.Context, app string) error { return tellArchives(ctx, built, run, app) }, Survey: look, Sources: commits,
		Metrics: m.Handler(), Tokens: tokens(fleet), Version: o.Version, Log: o.Log,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return run.Run(ctx) })
	g.Go(func() error { return trig.Run(ctx) })
	g.Go(func() error { return prune(ctx, st, o.Log) })
	g.Go(func() error { return keepArchives(ctx, built, run, o.Log) })
	g.Go(func() error { return serve(ctx, ln, handler, o.Log) })
	o.Log.Info("Coordinator ready", "address", ln.Addr().String(), "apps", len(fleet.Apps), "nodes", len(fleet.Nodes), "version", o.Version)
	if o.Ready != nil {
		o.Ready(ln.Addr())
	}
	return g.Wait()
}

// serve answers requests until ctx ends, and then those under way.
func serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		// Long polls end when the coordinator stops.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("cannot serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("cannot stop serving in %s: %w", stopTimeout, err), srv.Close())
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("cannot serve on %s: %w", ln.Addr(), e))
	}
	return err
}

// prune forgets old history once a day.
func prune(ctx context.Context, st store.Store, log *slog.Logger) error {
	ticker := time.NewTicker(24 * time.Hour)
	defer ticker.Stop()
	for {
		if err := st.Prune(ctx, time.Now().Add(-history)); err != nil && ctx.Err() == nil {
			log.Error("Cannot prune old history", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
