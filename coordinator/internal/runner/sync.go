package runner

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Placement is the desired state of one app on one node.
type Placement struct {
	App        string
	Generation uint64
	Wanted     rollout.Wanted
}

// Sync takes a node's report and returns what the node should hold: at once
// when that differs from what the report says it holds, else after a change or
// when wait is over.
func (r *Runner) Sync(ctx context.Context, name string, req *api.SyncRequest, wait time.Duration) ([]Placement, error) {
	n := r.nodes.get(name)
	if n == nil {
		return nil, pause(ctx, wait) // a node without apps
	}
	r.nodes.arrive(n)
	defer r.nodes.leave(n)
	if err := r.take(ctx, n, name, req); err != nil {
		return nil, err
	}
	held := map[string]uint64{}
	for _, a := range req.Apps {
		held[a.App] = a.Generation
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := n.bell.Wait()
		placements := r.placements(name)
		if wait == 0 || differs(held, placements) {
			return placements, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return placements, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take steps every pool with a report, unless it came late: then a newer one
// was taken already. One that could not be stored may be sent again.
func (r *Runner) take(ctx context.Context, n *node, name string, req *api.SyncRequest) error {
	n.taking.Lock()
	defer n.taking.Unlock()
	if r.nodes.late(n, req) {
		return nil
	}
	for _, p := range r.pools {
		if err := r.report(ctx, p, name, req); err != nil {
			return err
		}
	}
	r.nodes.took(n, req)
	r.news.Ring() // steps of a turn are shown, though they change no state
	return nil
}

func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func differs(held map[string]uint64, placements []Placement) bool {
	if len(held) != len(placements) {
		return true
	}
	for _, p := range placements {
		if g, ok := held[p.App]; !ok || g != p.Generation {
			return true
		}
	}
	return false
}

func (r *Runner) placements(node string) []Placement {
	var ps []Placement
	for _, s := range r.Views() {
		for _, a := range s.Apps {
			if w, generation, ok := s.Wanted(a.Name, node); ok {
				ps = append(ps, Placement{App: a.Name, Generation: generation, Wanted: w})
			}
		}
	}
	return ps
}

// report steps a pool with a node's report, unless it says what the last said.
func (r *Runner) report(ctx context.Context, p *pool, name string, req *api.SyncRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.state.Node(name)
	if n == nil {
		return nil
	}
	ev := reported(&p.state, name, req)
	last, ok := p.reports[name]
	if ok && n.Reach == rollout.Reachable && reflect.DeepEqual(last, ev) {
		return nil
	}
	stamped := ev
	stamped.At = now()
	if _, err := r.step(ctx, p, stamped); err != nil {
		return fmt.Errorf("cannot take the report of %s: %w", name, err)
	}
	p.reports[name] = ev
	return nil
}

// reported maps the apps of a report that are in the pool.
func reported(s *rollout.State, name string, req *api.SyncRequest) rollout.Reported {
	ev := rollout.Reported{Node: name}
	for _, a := range req.Apps {
		if s.App(a.App) == nil {
			continue
		}
		pr := rollout.PlacementReport{App: a.App, Generation: a.Generation}
		for _, id := range a.Present {
			pr.Present = append(pr.Present, rollout.ReleaseID(id))
		}
		if a.Prepare != nil {
			pr.Attempt = a.Prepare.Attempt
		}
		for id, d := range a.Digests {
			if pr.Digests == nil {
				pr.Digests = map[rollout.ReleaseID]string{}
			}
			pr.Digests[rollout.ReleaseID(id)] = d
		}
		if f := a.Prepare; f != nil && f.Failed {
			pr.Prepare = &rollout.PrepareReport{
				Release: rollout.ReleaseID(f.Release), Attempt: f.Attempt,
				Fault: fault(f.Reason), Reason: rollout.Reason(f.Reason), Text: f.Text,
			}
		}
		if c := a.Command; c != nil {
			pr.Command = &rollout.CommandReport{Number: c.Number, Running: c.Running, OK: c.OK, Reason: rollout.Reason(c.Reason), Text: c.Text}
			if c.Reason != "" {
				pr.Command.Fault = fault(c.Reason)
			}
		}
		for _, t := range a.Targets {
			pr.Targets = append(pr.Targets, targetReported(t))
		}
		ev.Placements = append(ev.Placements, pr)
	}
	return ev
}

func targetReported(t api.TargetReport) rollout.TargetReport {
	tr := rollout.TargetReport{
		Target: rollout.TargetID(t.Target), Release: rollout.ReleaseID(t.Release),
		Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown, Last: t.Last,
	}
	if t.Current != t.Release {
		tr.Linked = rollout.ReleaseID(t.Current)
	}
	// A word that this version does not know is not good news.
	switch t.Rotation {
	case api.RotationIn, api.RotationOut, api.RotationDraining:
		tr.Rotation = rollout.Rotation(t.Rotation)
	}
	switch t.Health {
	case api.Healthy, api.Unhealthy:
		tr.Health = rollout.Health(t.Health)
	}
	if o := t.Outcome; o != nil {
		tr.Outcome = &rollout.Outcome{Turn: o.Turn, OK: o.OK, Reverted: o.Reverted, Reason: rollout.Reason(o.Reason), Text: o.Text}
		switch {
		case o.OK && o.Text == "" && o.Out > 0:
			tr.Outcome.Text = fmt.Sprintf("out of rotation for %s", o.Out.D().Round(time.Millisecond))
		case !o.OK:
			tr.Outcome.Fault = fault(o.Reason)
		}
		for _, s := range o.Steps {
			if s.Note != "" {
				tr.Outcome.Text = strings.TrimPrefix(tr.Outcome.Text+"; "+s.Note, "; ")
			}
		}
	}
	return tr
}

func fault(r api.Reason) rollout.Fault {
	switch {
	case r == api.ReasonRevoked:
		return rollout.Revoked
	case r.CondemnsRelease():
		return rollout.ReleaseFault
	}
	return rollout.NodeFault
}
