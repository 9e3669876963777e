package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Rotation is what the balancer itself shows of its servers over time.
type Rotation struct {
	Spans map[string][]time.Duration // times out of rotation, by node
	Most  int                        // servers out at the same time
	First time.Time                  // when the first server went out
	Turns []Turn                     // each leaving and each return, in order

	done chan struct{}
	err  error
}

// Turn is one change that the balancer showed.
type Turn struct {
	At   time.Time
	Node string
	Out  bool
}

func (t Turn) String() string {
	if t.Out {
		return t.Node + " went out"
	}
	return t.Node + " came back"
}

// Around says what changed before and after a moment, for people.
func (r *Rotation) Around(at time.Time) string {
	before, after := "nothing had changed", "nothing changed after"
	for _, t := range r.Turns {
		if t.At.After(at) {
			after = fmt.Sprintf("%s %.2f s later", t, t.At.Sub(at).Seconds())
			break
		}
		before = fmt.Sprintf("%s %.2f s before", t, at.Sub(t.At).Seconds())
	}
	return before + ", " + after
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

// A balancer that takes on a new configuration may cut off whoever is looking.
const lookAgain = 3 * time.Second

func (r *Rotation) look(ctx context.Context, f *Fleet) error {
	since, seen := map[string]time.Time{}, time.Now()
	for ctx.Err() == nil {
		at := time.Now()
		in, err := f.front.serving(ctx)
		switch {
		case err == nil:
			seen = at
			r.note(f.Nodes, at, in, since)
		case ctx.Err() == nil && time.Since(seen) > lookAgain:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// note adds one look. Since are the nodes that are out, and since when.
func (r *Rotation) note(nodes []string, at time.Time, in map[string]bool, since map[string]time.Time) {
	for _, name := range nodes {
		began, was := since[name]
		switch {
		case !in[name] && !was:
			since[name] = at
			r.Turns = append(r.Turns, Turn{at, name, true})
			if r.First.IsZero() {
				r.First = at
			}
		case in[name] && was:
			r.Spans[name] = append(r.Spans[name], at.Sub(began))
			r.Turns = append(r.Turns, Turn{at, name, false})
			delete(since, name)
		}
	}
	r.Most = max(r.Most, len(since))
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

// Serves returns an error unless every target is proved on the version and in
// rotation, as the coordinator knows.
func (f *Fleet) Serves(ctx context.Context, version string) error {
	st, err := f.Status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range st.Apps[0].Targets {
		if t.Release == nil || t.Release.Subject != "hello "+version || t.Rotation != api.RotationIn {
			errs = append(errs, fmt.Errorf("%s is not on %s, in rotation: %+v", t.Target, version, t))
		}
	}
	return errors.Join(errs...)
}

// Status is what deployctl shows of the fleet.
func (f *Fleet) Status(ctx context.Context) (st api.Status, err error) {
	var out bytes.Buffer
	if err := f.Deployctl(ctx, &out, "status", "--json"); err != nil {
		return st, err
	}
	return st, json.Unmarshal(out.Bytes(), &st)
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

// KillDuring kills a daemon with SIGKILL in the middle of the rollout.
func (f *Fleet) KillDuring(ctx context.Context, what, id string) error {
	t, err := f.Middle(ctx, id)
	if err != nil {
		return err
	}
	name := what
	if what == "agent" {
		name = t.Node
	}
	fmt.Printf("$ kill -9 (%s of %s, at step %q of %s)\n", what, name, t.Step, t.Node)
	return f.daemons[name].signal(syscall.SIGKILL)
}

// Middle waits until the second target of the rollout is being activated, so
// that one is done and one is out, and returns that target.
func (f *Fleet) Middle(ctx context.Context, id string) (api.RolloutTarget, error) {
	if err := f.Await(ctx, id); err != nil {
		return api.RolloutTarget{}, err
	}
	for {
		r, err := f.Rollout(ctx, id)
		if err != nil {
			return api.RolloutTarget{}, err
		}
		if len(r.Targets) == len(f.Nodes) && r.Targets[1].Phase == "activating" && r.Targets[1].Step != "" {
			return r.Targets[1], nil
		}
		if r.Done {
			return api.RolloutTarget{}, fmt.Errorf("%s was over before its middle was seen", id)
		}
		select {
		case <-ctx.Done():
			return api.RolloutTarget{}, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
