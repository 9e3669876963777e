package httpapi_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// forget reports for a node that it has none of the app's releases but keep.
func (s *stage) forget(i int, keep string) {
	s.t.Helper()
	req := s.agents[i].Report(false)
	for j := range req.Apps {
		req.Apps[j].Present = []string{keep}
	}
	if _, err := s.agent(s.agents[i].Node).Sync(s.t.Context(), req); err != nil {
		s.t.Fatal(err)
	}
}

// Which nodes have to build again is known before a rollback begins, by its plan,
// and at once from the answer to it.
func TestARollbackNamesWhoDoesNotHaveTheRelease(t *testing.T) {
	s := newStage(t)
	plan := func(to string) api.Plan {
		t.Helper()
		p, err := s.admin.PlanRollback(t.Context(), "hello", to)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s.deploy("hello", "")
	s.work()
	if p := plan(""); !strings.Contains(p.Refused, "no earlier stable release") || p.Kind != "rollback" {
		t.Errorf("with nothing to return to: %+v", p)
	}
	s.repo.push("b")
	s.deploy("hello", "")
	s.work()
	p := plan("")
	if p.Refused != "" || p.Release.SHA != sha("a") || p.From.SHA != sha("b") || len(p.Missing) > 0 || len(p.Build) > 0 {
		t.Errorf("everybody has it: %+v", p)
	}
	if len(p.Steps) != 2 || !p.Steps[0].Prepared || p.Steps[0].Problem != "" || p.Steps[0].Release != sha("b")[:7] {
		t.Errorf("steps: %+v", p.Steps)
	}

	s.forget(1, sha("b")[:12]+"-111111")
	want := []string{"web2 no longer has " + sha("a")[:7] + ": it will be built again"}
	for _, to := range []string{"", "aaaaaaa"} {
		p = plan(to)
		i := slices.IndexFunc(p.Steps, func(st api.PlanStep) bool { return st.Node == "web2" })
		if !slices.Equal(p.Missing, want) || i < 0 || p.Steps[i].Prepared {
			t.Errorf("to %q: %+v", to, p)
		}
	}
	if n := len(s.list("hello")); n != 2 {
		t.Errorf("planning made %d rollouts of 2", n)
	}
	r, err := s.admin.Rollback(t.Context(), "hello", api.RollbackRequest{By: "ann"})
	if err != nil || !slices.Equal(r.Warnings, want) {
		t.Errorf("%+v, %v", r, err)
	}
	if p := plan("bbbbbbb"); p.Release.SHA != sha("b") || !strings.Contains(p.Refused, "is the current release") {
		t.Errorf("to what runs: %+v", p)
	}
	_, err = s.admin.PlanRollback(t.Context(), "hello", "ddddddd")
	expectError(t, err, api.ErrorNotFound, `has no release "ddddddd"`)
	code, e := s.ask("GET", "/v1/apps/hello/plan?kind=catch_up", "Bearer "+adminToken, "")
	if code != 400 || !strings.Contains(e.Text, "ask for deploy or rollback") {
		t.Errorf("another kind: %d %+v", code, e)
	}
}

// A plan shows all that a deploy would run, and whose word it is.
func TestPlanShowsTheRecipe(t *testing.T) {
	own := api.Recipe{
		Build: []string{"npm ci"}, Artifact: []string{"dist"}, Shared: []string{".env"}, ReleaseCommand: []string{"bin/migrate"},
		Hooks: &api.Hooks{AfterDrain: []string{"bin/hand-over"}}, HealthPath: "/readyz",
	}
	var refusal error
	s := newStage(t)
	s.watched = func(a *trigger.App) {
		a.RecipeOf = func(context.Context, string) (api.Recipe, error) { return own, refusal }
	}
	s.restart(func(c *httpapi.Config) {
		c.Apps[0].RecipeFile, c.Apps[0].MaySet = "lockstep.yaml", []string{"build", "hooks", "env"}
	})
	p, err := s.admin.Plan(t.Context(), "hello", "")
	if err != nil {
		t.Fatal(err)
	}
	want := &api.PlanRecipe{File: "lockstep.yaml", MaySet: []string{"build", "hooks", "env"}, Sets: []string{"build", "hooks"}}
	if !reflect.DeepEqual(p.Recipe, want) {
		t.Errorf("recipe: %+v", p.Recipe)
	}
	if got := (api.Recipe{Build: p.Build, Artifact: p.Artifact, Shared: p.Shared, ReleaseCommand: p.ReleaseCommand, Hooks: p.Hooks, HealthPath: p.HealthPath}); !reflect.DeepEqual(got, own) {
		t.Errorf("got %+v, want %+v", got, own)
	}
	if p.BuildOn != "each" || p.Kind != "deploy" {
		t.Errorf("%+v", p)
	}

	refusal = &rollout.Refused{Code: rollout.RefusedRecipe, Text: "lockstep.yaml:3: fleet.yaml does not let the repository set it"}
	p, err = s.admin.Plan(t.Context(), "hello", "")
	if err != nil || !strings.Contains(p.Refused, "lockstep.yaml:3") || p.Release.SHA != sha("a") || len(p.Recipe.Sets) > 0 {
		t.Errorf("of a commit whose recipe is not permitted: %+v, %v", p, err)
	}
}
