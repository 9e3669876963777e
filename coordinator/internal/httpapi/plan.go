package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// plan tells what a deploy or a rollback would do, by stepping a copy of the pool
// with the request: what it shows is what the engine would do.
func (s *server) plan(w http.ResponseWriter, r *http.Request) error {
	app := chi.URLParam(r, "app")
	v, err := s.view(r.Context(), app)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	var p api.Plan
	switch kind := q.Get("kind"); kind {
	case "", string(rollout.Deploy):
		p, err = s.planDeploy(r, v, q.Get("ref"))
	case string(rollout.Rollback):
		p, err = s.planRollback(v, q.Get("to"))
	default:
		err = &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf("there is no plan of kind %.100q; ask for deploy or rollback", kind)}
	}
	var refused *rollout.Refused
	if errors.As(err, &refused) && p.Release.SHA != "" {
		p.Refused, err = refused.Text, nil
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, p)
}

func (s *server) planDeploy(r *http.Request, v *view, ref string) (api.Plan, error) {
	req, commit, recipe, err := s.Trigger.Preview(r.Context(), v.app.Name, ref)
	if err != nil {
		recipe = s.apps[v.app.Name].Recipe // its own is not known
	}
	p := s.planOf(v, rollout.Deploy, recipe)
	p.Release = api.ReleaseRef{ID: string(req.Release.ID), SHA: commit.SHA, Subject: commit.Subject, Committed: instant(commit.Committed)}
	if err != nil {
		return p, err
	}
	req.At, req.By = time.Now().UTC(), "plan"
	next, effects, err := rollout.Step(v.state, req)
	if err != nil {
		return p, err
	}
	ro := changed(effects, trigger.Concerned(v.app.Name, effects))
	s.planTurns(v, &p, next, ro, s.apps[v.app.Name].Recipe.Run)
	if rel := v.app.Release(req.Release.ID); rel != nil && rel.Bad != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("the release is marked bad (%s); deploying it clears the mark", rel.Bad.Text))
	}
	if ro.From != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("if it fails, every target returns to %s", v.short(ro.From)))
	} else {
		p.Notes = append(p.Notes, "there is no stable release to return to if it fails")
	}
	return p, nil
}

func (s *server) planRollback(v *view, name string) (api.Plan, error) {
	to, err := v.match(name)
	if err != nil {
		return api.Plan{}, err
	}
	if to == "" { // whichever the engine chooses, and a refusal must name something
		to = v.app.Current
	}
	p := s.planOf(v, rollout.Rollback, api.Recipe{})
	if ref := v.release(to); ref != nil {
		p.Release = *ref
	}
	req := rollout.RollbackRequested{At: time.Now().UTC(), App: v.app.Name, By: "plan"}
	if name != "" {
		req.To = to
	}
	next, effects, err := rollout.Step(v.state, req)
	if err != nil {
		return p, err
	}
	ro := changed(effects, trigger.Concerned(v.app.Name, effects))
	recipe := v.recorded[string(ro.Release)].Recipe
	// No build is planned for, and a rollback runs no release command.
	p.Release, p.Missing = *v.release(ro.Release), missing(effects)
	p.Hooks, p.HealthPath = recipe.Hooks, recipe.HealthPath
	s.planTurns(v, &p, next, ro, recipe.Run)
	return p, nil
}

// missing says which nodes do not have what is rolled back to.
func missing(effects []rollout.Effect) []string {
	var texts []string
	for _, e := range effects {
		if n, ok := e.(rollout.Noted); ok && n.Kind == rollout.NoteMissing {
			texts = append(texts, n.Text)
		}
	}
	return texts
}

// planOf is what a plan shows of the app and of the release's recipe, whatever
// the engine makes of it.
func (s *server) planOf(v *view, kind rollout.Kind, recipe api.Recipe) api.Plan {
	p := api.Plan{
		App: v.app.Name, Kind: string(kind), From: v.release(v.app.Current), Steps: []api.PlanStep{},
		Build: recipe.Build, Artifact: recipe.Artifact, Shared: recipe.Shared, ReleaseCommand: recipe.ReleaseCommand, Hooks: recipe.Hooks,
		HealthPath: recipe.HealthPath,
	}
	if kind != rollout.Deploy {
		return p
	}
	switch {
	case !v.app.Policy.BuildOnce:
		p.BuildOn = "each"
	case v.app.Policy.Builder == "":
		p.BuildOn = "first"
	default:
		p.BuildOn = v.app.Policy.Builder
	}
	if a := s.apps[v.app.Name]; a.RecipeFile != "" {
		p.Recipe = &api.PlanRecipe{File: a.RecipeFile, MaySet: a.MaySet, Sets: differs(a.MaySet, recipe, a.Recipe)}
	}
	return p
}

// differs names those of keys, as recipes have them on the wire, in which two
// recipes are not the same.
func differs(keys []string, a, b api.Recipe) []string {
	fields := func(r api.Recipe) map[string]any {
		var m map[string]any
		if text, err := json.Marshal(r); err != nil || json.Unmarshal(text, &m) != nil {
			panic("httpapi: a recipe cannot be written as JSON")
		}
		return m
	}
	one, other := fields(a), fields(b)
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return reflect.DeepEqual(one[k], other[k]) })
}

// planTurns adds the turns of a rollout as it would begin in the state next, and
// what people should know of it.
func (s *server) planTurns(v *view, p *api.Plan, next rollout.State, ro rollout.Rollout, run *api.Run) {
	app := v.app.Name
	a := next.App(app)
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
	if h := v.app.Hold; h != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("automation is on hold by %s (%s); a person's request goes ahead", h.By, h.Reason))
	}
	// Those that ask now to be last come last; who asks then is what counts.
	var last []rollout.TargetID
	for _, id := range ro.Order {
		if v.state.Target(id).Seen.Last {
			last = append(last, id)
			continue
		}
		p.Steps = append(p.Steps, s.planStep(v, a, id, ro.Release))
	}
	for _, id := range last {
		p.Steps = append(p.Steps, s.planStep(v, a, id, ro.Release))
	}
	planUnits(v, p, run)
	if s.apps[app].LastIf != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("a node on which `%s` succeeds when its turn could come goes last", s.apps[app].LastIf))
	}
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
