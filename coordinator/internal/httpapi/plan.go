package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// plan tells what a deploy would do, by stepping a copy of the pool with the
// request: what it shows is what the engine would do.
func (s *server) plan(w http.ResponseWriter, r *http.Request) {
	app := chi.URLParam(r, "app")
	v, err := s.view(r.Context(), app)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	req, commit, recipe, err := s.Trigger.Preview(r.Context(), app, r.URL.Query().Get("ref"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	req.At, req.By = time.Now().UTC(), "plan"
	p := api.Plan{
		App: app, Build: recipe.Build, Steps: []api.PlanStep{},
		Release: api.ReleaseRef{ID: string(req.Release.ID), SHA: commit.SHA, Subject: commit.Subject, Committed: instant(commit.Committed)},
		From:    v.release(v.app.Current),
	}
	next, effects, err := rollout.Step(v.state, req)
	var refused *rollout.Refused
	if errors.As(err, &refused) {
		p.Refused = refused.Text
		s.answer(w, http.StatusOK, p)
		return
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	a, ro := next.App(app), changed(effects, trigger.Concerned(app, effects))
	switch {
	case ro.Status.Final():
		p.Notes = append(p.Notes, fmt.Sprintf("it would end at once: %s", ro.Text))
	case a.Waiting != nil && a.Waiting.ID == ro.ID && a.Live != nil:
		p.Notes = append(p.Notes, fmt.Sprintf("it would wait for %s, which is %s", a.Live.ID, a.Live.Status))
	}
	if l := v.app.Live; l != nil && (a.Live == nil || a.Live.ID != l.ID) {
		p.Notes = append(p.Notes, fmt.Sprintf("it would take the place of %s, which has not touched anything", l.ID))
	}
	if s.Survey != nil {
		p.Notes = append(p.Notes, s.Survey.Notes(app)...)
	}
	if rel := v.app.Release(req.Release.ID); rel != nil && rel.Bad != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("the release is marked bad (%s); deploying it clears the mark", rel.Bad.Text))
	}
	if c := recipe.ReleaseCommand; len(c) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("before the first turn one node runs the release command: `%s`", strings.Join(c, "`, `")))
	}
	if ro.From != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("if it fails, every target returns to %s", v.short(ro.From)))
	} else {
		p.Notes = append(p.Notes, "there is no stable release to return to if it fails")
	}
	if h := v.app.Hold; h != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("automation is on hold by %s (%s); a person's deploy goes ahead", h.By, h.Reason))
	}
	// Those that ask now to be last come last; who asks then is what counts.
	var last []rollout.TargetID
	for _, id := range ro.Order {
		if v.state.Target(id).Seen.Last {
			last = append(last, id)
			continue
		}
		p.Steps = append(p.Steps, s.planStep(v, a, id, req.Release.ID))
	}
	for _, id := range last {
		p.Steps = append(p.Steps, s.planStep(v, a, id, req.Release.ID))
	}
	planUnits(v, &p, s.apps[app].Recipe.Run)
	if s.apps[app].LastIf != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("a node on which `%s` succeeds when its turn could come goes last", s.apps[app].LastIf))
	}
	s.answer(w, http.StatusOK, p)
}

// changed returns a rollout as it is after a step that changed it.
func changed(effects []rollout.Effect, id rollout.RolloutID) rollout.Rollout {
	for _, e := range effects {
		if c, ok := e.(rollout.Changed); ok && c.Rollout.ID == id {
			return c.Rollout
		}
	}
	return rollout.Rollout{}
}

// canary is the target that goes first, "" when none does.
func canary(state rollout.State, a *rollout.App) rollout.TargetID {
	for _, t := range state.Targets {
		if t.App == a.Name && t.Node == a.Policy.Canary {
			return t.ID
		}
	}
	return ""
}

func (s *server) planStep(v *view, a *rollout.App, id rollout.TargetID, release rollout.ReleaseID) api.PlanStep {
	t := v.state.Target(id)
	ts := v.target(t)
	st := api.PlanStep{
		Target: string(id), Node: t.Node, Instance: t.Instance, Rotation: ts.Rotation, Health: ts.Health,
		Prepared: slices.Contains(v.state.Placement(t.App, t.Node).Present, release),
		Soak:     api.Duration(a.Policy.Soak),
	}
	if id == canary(v.state, a) {
		st.Soak = api.Duration(max(a.Policy.Soak, a.Policy.CanarySoak))
	}
	if ts.Release != nil {
		st.Release = v.short(rollout.ReleaseID(ts.Release.ID))
	}
	switch {
	case !ts.Reachable:
		st.Problem = "its agent has not been heard of"
	case ts.Rotation != api.RotationIn || ts.Health == api.Unhealthy:
		st.Problem = ts.Text
	}
	return st
}
