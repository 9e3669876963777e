package httpapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// view renders one app: the engine's state joined with what the store and the
// agents' last reports know beyond it.
type view struct {
	state    rollout.State
	app      *rollout.App
	recorded map[string]store.Release
	contacts map[string]runner.Contact
}

// view returns an app as it is configured, or an error that there is none.
func (s *server) view(ctx context.Context, app string) (*view, error) {
	state, ok := s.Runner.View(app)
	if !ok {
		return nil, &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("there is no app %q; `deployctl status` lists them", app)}
	}
	return s.render(ctx, state, state.App(app))
}

// past returns an app for its history, which outlives its configuration.
func (s *server) past(ctx context.Context, app string) (*view, error) {
	if state, ok := s.Runner.View(app); ok {
		return s.render(ctx, state, state.App(app))
	}
	return s.render(ctx, rollout.State{}, &rollout.App{Name: app})
}

func (s *server) render(ctx context.Context, state rollout.State, app *rollout.App) (*view, error) {
	v := &view{state: state, app: app, recorded: map[string]store.Release{}, contacts: map[string]runner.Contact{}}
	rels, err := s.Store.Releases(ctx, app.Name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the releases of %s: %w", app.Name, err)
	}
	for _, r := range rels {
		v.recorded[r.ID] = r
	}
	for _, n := range state.Nodes {
		v.contacts[n.Name] = s.Runner.Contact(n.Name)
	}
	return v, nil
}

func (v *view) release(id rollout.ReleaseID) *api.ReleaseRef {
	if id == "" {
		return nil
	}
	ref := &api.ReleaseRef{ID: string(id)}
	if r, ok := v.recorded[string(id)]; ok {
		ref.SHA, ref.Subject, ref.Committed = r.SHA, r.Subject, instant(r.Committed)
	}
	if r := v.app.Release(id); r != nil {
		ref.SHA, ref.Subject, ref.Stable = r.SHA, r.Subject, r.Stable
		if r.Bad != nil {
			ref.Bad = fmt.Sprintf("%s: %s", r.Bad.By, r.Bad.Text)
		}
	}
	return ref
}

// instant returns nil for the zero time, so that it is left out of answers.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (v *view) rollout(c rollout.Changed) *api.Rollout {
	r := c.Rollout
	out := &api.Rollout{
		ID: string(r.ID), App: r.App, Kind: string(r.Kind), Status: string(r.Status), Done: r.Status.Final(),
		Reason: string(r.Reason), Text: r.Text, Blocked: r.Blocked,
		From: v.release(r.From), By: r.By, Cause: r.Cause,
		Created: r.Created, Started: instant(r.Started), Finished: instant(r.Finished),
		Targets: []api.RolloutTarget{},
	}
	if rel := v.release(r.Release); rel != nil {
		out.Release = *rel
	}
	if p := r.Paused; p != nil {
		out.Paused = &api.Pause{By: p.By, Reason: string(p.Reason), Text: p.Text, At: p.At}
	}
	for _, t := range c.Targets {
		rt := api.RolloutTarget{Target: string(t.Target), Node: t.Node, Instance: t.Instance, Phase: string(t.Phase), Reason: string(t.Reason), Text: t.Text}
		if !r.Status.Final() {
			rt.Step, rt.Since = v.step(r.App, t.Node, string(t.Target))
		}
		out.Targets = append(out.Targets, rt)
	}
	return out
}

// step tells what the node's agent is doing for the target, as last reported.
func (v *view) step(app, node, target string) (string, *time.Time) {
	for _, a := range v.contacts[node].Apps {
		if a.App != app {
			continue
		}
		for _, t := range a.Targets {
			if t.Target == target && t.Turn != 0 {
				return string(t.Step), t.Since
			}
		}
		if p := a.Prepare; p != nil && !p.Failed && p.Step != "" {
			return string(p.Step), nil
		}
	}
	return "", nil
}

func (v *view) detail(app, node, target string) string {
	for _, a := range v.contacts[node].Apps {
		if a.App != app {
			continue
		}
		for _, t := range a.Targets {
			if t.Target == target {
				return t.Detail
			}
		}
	}
	return ""
}

// live returns the rollout as the state has it now.
func (v *view) live(r *rollout.Rollout) *api.Rollout {
	if r == nil {
		return nil
	}
	return v.rollout(v.state.Changed(r))
}

func (v *view) status() api.AppStatus {
	a := v.app
	st := api.AppStatus{
		App: a.Name, Pool: v.state.Pool, Release: v.release(a.Current), Converged: v.state.Converged(a.Name),
		Live: v.live(a.Live), Waiting: v.live(a.Waiting), Targets: []api.TargetStatus{},
	}
	if a.Last != nil && a.Live == nil {
		st.Since = instant(a.Last.Finished)
	}
	if h := a.Hold; h != nil {
		st.Hold = &api.Hold{By: h.By, Reason: h.Reason, At: h.At, Until: instant(h.Until)}
	}
	for i := range v.state.Targets {
		if t := &v.state.Targets[i]; t.App == a.Name {
			st.Targets = append(st.Targets, v.target(t))
		}
	}
	st.Skew = v.skew()
	st.BuildSkew = v.state.BuildSkew(a.Name, a.Current)
	for _, n := range v.state.Nodes {
		st.Left = append(st.Left, v.contacts[n.Name].Left(a.Name, n.Name)...)
	}
	return st
}

func (v *view) target(t *rollout.Target) api.TargetStatus {
	c := v.contacts[t.Node]
	n := v.state.Node(t.Node)
	ts := api.TargetStatus{
		Target: string(t.ID), Node: t.Node, Instance: t.Instance, Reachable: n.Reach == rollout.Reachable,
		LastSeen: instant(c.Seen), Agent: c.Version,
		Rotation: api.RotationUnknown, Health: api.HealthUnknown,
		Phase: string(t.Phase), Reason: string(t.Reason), Text: t.Text,
	}
	if d := t.Drift; d != nil {
		ts.Drift = &api.Drift{Since: d.Since, Release: v.release(d.Release), Current: v.release(d.Linked), Text: v.state.DriftText(t)}
	}
	ts.Step, _ = v.step(t.App, t.Node, string(t.ID))
	if !ts.Reachable || !t.Seen.Known {
		if ts.Text == "" {
			ts.Text = "its agent has not been heard of"
		}
		return ts
	}
	ts.Release = v.release(t.Seen.Release)
	ts.Rotation, ts.Health, ts.Last = api.Rotation(t.Seen.Rotation), api.Health(t.Seen.Health), t.Seen.Last
	if ts.Text == "" {
		ts.Text = v.detail(t.App, t.Node, string(t.ID))
	}
	return ts
}

// skew says in one sentence which releases serve.
func (v *view) skew() string {
	a := v.app
	total, unknown, out := 0, 0, 0
	var order []rollout.ReleaseID
	count := map[rollout.ReleaseID]int{}
	for i := range v.state.Targets {
		t := &v.state.Targets[i]
		if t.App != a.Name {
			continue
		}
		total++
		switch n := v.state.Node(t.Node); {
		case n.Reach != rollout.Reachable || !t.Seen.Known || t.Seen.Rotation == rollout.RotationUnknown:
			unknown++
		case t.Seen.Rotation != rollout.RotationIn:
			out++
		default:
			if count[t.Seen.Release] == 0 {
				order = append(order, t.Seen.Release)
			}
			count[t.Seen.Release]++
		}
	}
	var parts []string
	for _, id := range order {
		parts = append(parts, fmt.Sprintf("%d of %d targets on %s", count[id], total, v.short(id)))
	}
	if out > 0 {
		parts = append(parts, fmt.Sprintf("%d out of rotation", out))
	}
	if unknown > 0 {
		parts = append(parts, fmt.Sprintf("%d unknown", unknown))
	}
	if len(parts) == 0 {
		return "no targets"
	}
	line := strings.Join(parts, ", ")
	if len(order) > 1 {
		return "skew: " + line
	}
	return line
}

func (v *view) short(id rollout.ReleaseID) string {
	if id == "" {
		return "something that is no release"
	}
	if ref := v.release(id); len(ref.SHA) >= 7 {
		return ref.SHA[:7]
	}
	return string(id)
}
