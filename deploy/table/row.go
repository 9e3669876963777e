package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

// row is one balancer and what came of it.
type row struct {
	kind    fleet.Kind
	clients fleet.Result
	watch   *fleet.Rotation
	took    time.Duration // the deploy, from the push
	err     error
}

// nodes is enough to show that they go one at a time.
const nodes = 2

// measure runs a fleet behind the balancer.
func (r *row) measure(ctx context.Context, bin string) (err error) {
	f, err := fleet.New(fleet.Options{Bin: bin, Nodes: nodes, Soak: 300 * time.Millisecond, CheckEvery: 200 * time.Millisecond, Balancer: r.kind.Name})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Logs())
		}
		err = errors.Join(err, f.Stop())
	}()
	if err := f.Start(ctx); err != nil {
		return err
	}
	if err := f.Push(ctx, "v1", true); err != nil {
		return err
	}
	if _, err := f.Timeline(ctx, "hello-1", "succeeded"); err != nil {
		return err
	}
	loading, quiet := context.WithCancel(ctx)
	defer quiet()
	clients, watch := f.Load(loading, 25*time.Millisecond), f.Watch(loading)
	err = r.roll(ctx, f)
	quiet()
	clients.Wait()
	if watchErr := watch.Wait(); watchErr != nil {
		return errors.Join(err, fmt.Errorf("cannot watch %s: %w", r.kind.Product, watchErr))
	}
	r.clients, r.watch = clients.Result(), watch
	return errors.Join(err, r.judge())
}

// roll deploys a second version, and goes back to the first.
func (r *row) roll(ctx context.Context, f *fleet.Fleet) error {
	began := time.Now()
	if err := f.Push(ctx, "v2", true); err != nil {
		return err
	}
	if r.kind.Loses(fleet.Cut) {
		if _, err := f.Middle(ctx, "hello-2"); err != nil {
			return err
		}
		if err := f.FailOver(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	if _, err := f.Timeline(ctx, "hello-2", "succeeded"); err != nil {
		return err
	}
	r.took = time.Since(began)
	if err := f.Serves(ctx, "v2"); err != nil {
		return err
	}
	if err := f.Deployctl(ctx, io.Discard, "rollback", "hello", "--by", "table"); err != nil {
		return err
	}
	return f.Serves(ctx, "v1")
}

// judge is an error if the clients noticed anything, or a promise was not kept.
func (r *row) judge() error {
	c := r.clients
	switch {
	case c.All.Failed > 0:
		var all []string
		for _, f := range c.Failures {
			all = append(all, fmt.Sprintf("  %s (%s)", f, r.watch.Around(f.At)))
		}
		return fmt.Errorf("%d of %d requests failed:\n%s", c.All.Failed, c.All.Sent, strings.Join(all, "\n"))
	case c.Served["v1"] == 0 || c.Served["v2"] == 0:
		return fmt.Errorf("%d requests were answered by the first version and %d by the second: the load did not last", c.Served["v1"], c.Served["v2"])
	case r.watch.Most > 1:
		return fmt.Errorf("%d targets were out of rotation at the same time", r.watch.Most)
	case len(r.watch.Spans) < nodes:
		return fmt.Errorf("%d of %d targets were seen to leave rotation", len(r.watch.Spans), nodes)
	}
	return nil
}

func (r *row) word() string {
	if r.err != nil {
		return "failed"
	}
	return "done"
}
