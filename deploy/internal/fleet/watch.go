package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Rotation is what the balancer itself shows of its servers over time.
type Rotation struct {
	Spans map[string][]time.Duration // times out of rotation, by node
	Most  int                        // servers out at the same time
	First time.Time                  // when the first server went out

	done chan struct{}
	err  error
}

// Watch looks at the balancer often, until ctx ends.
func (f *Fleet) Watch(ctx context.Context) *Rotation {
	r := &Rotation{done: make(chan struct{}), Spans: map[string][]time.Duration{}}
	go func() {
		defer close(r.done)
		r.err = r.look(ctx, f)
	}()
	return r
}

func (r *Rotation) look(ctx context.Context, f *Fleet) error {
	p, err := f.watcher()
	if err != nil {
		return err
	}
	defer p.Close()
	since := map[string]time.Time{}
	for ctx.Err() == nil {
		pool, err := p.Observe(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		out := 0
		for _, m := range pool.Members {
			name := f.node(m.Name)
			began, was := since[name]
			switch serving := m.Phase == lbclient.PhaseServing; {
			case !serving && !was:
				since[name] = pool.At
				if r.First.IsZero() {
					r.First = pool.At
				}
			case serving && was:
				r.Spans[name] = append(r.Spans[name], pool.At.Sub(began))
				delete(since, name)
			}
			if m.Phase != lbclient.PhaseServing {
				out++
			}
		}
		r.Most = max(r.Most, out)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Wait returns once watching has ended; only then may the fields be read.
func (r *Rotation) Wait() error {
	<-r.done
	return r.err
}

// Rollout reads a rollout as deployctl gives it.
func (f *Fleet) Rollout(ctx context.Context, id string) (api.Rollout, error) {
	var out bytes.Buffer
	var page api.EventPage
	if err := f.Deployctl(ctx, &out, "show", id, "--json"); err != nil {
		return page.Rollout, err
	}
	return page.Rollout, json.Unmarshal(out.Bytes(), &page)
}

// Follow prints a rollout's timeline as it happens and checks how it ends.
func (f *Fleet) Follow(ctx context.Context, id, status string) error {
	if err := f.Await(ctx, id); err != nil {
		return err
	}
	// The exit code says whether the rollout succeeded; one that is to be
	// rolled back does not.
	err := f.Deployctl(ctx, os.Stdout, "show", "--follow", id)
	r, showErr := f.Rollout(ctx, id)
	if showErr != nil {
		return showErr
	}
	if r.Status != status {
		return fmt.Errorf("%s is %s (%s), expected %s", id, r.Status, r.Text, status)
	}
	if status == "succeeded" {
		return err
	}
	return nil
}

// Await waits for a rollout to exist.
func (f *Fleet) Await(ctx context.Context, id string) error {
	app, _, _ := strings.Cut(id, "-")
	for {
		var out bytes.Buffer
		var rs []api.Rollout
		if err := f.Deployctl(ctx, &out, "rollouts", app, "--json"); err != nil {
			return err
		}
		if err := json.Unmarshal(out.Bytes(), &rs); err != nil {
			return err
		}
		for _, r := range rs {
			if r.ID == id {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rollout %s did not begin: %w", id, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// KillDuring kills a daemon with SIGKILL once the second target of the rollout
// is being activated, so that one is done, one is out, and one is to come.
func (f *Fleet) KillDuring(ctx context.Context, what, id string) error {
	if err := f.Await(ctx, id); err != nil {
		return err
	}
	for {
		r, err := f.Rollout(ctx, id)
		if err != nil {
			return err
		}
		if len(r.Targets) == len(Nodes) && r.Targets[1].Phase == "activating" && r.Targets[1].Step != "" {
			name := what
			if what == "agent" {
				name = r.Targets[1].Node
			}
			fmt.Printf("$ kill -9 (%s of %s, at step %q of %s)\n", what, name, r.Targets[1].Step, r.Targets[1].Node)
			return f.daemons[name].signal(syscall.SIGKILL)
		}
		if r.Done {
			return fmt.Errorf("%s was over before anything could be killed", id)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
