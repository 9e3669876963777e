package main

import (
	"slices"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func target(node string, r *api.ReleaseRef) api.TargetStatus {
	return api.TargetStatus{
		Target: "hello@" + node, Node: node, Reachable: true, LastSeen: ago(2 * time.Second), Agent: "1.0.0",
		Release: r, Rotation: api.RotationIn, Health: api.Healthy, Phase: "active",
	}
}

func convergedApp() api.AppStatus {
	return api.AppStatus{
		App: "hello", Pool: "web", Release: &oldRelease, Since: ago(3 * time.Hour), Converged: true, Skew: "3 of 3 targets on 3f2a91c",
		Targets: []api.TargetStatus{target("web1", &oldRelease), target("web2", &oldRelease), target("web3", &oldRelease)},
	}
}

// skewedApp is in the middle of a rollout that is stuck in every way.
func skewedApp() api.AppStatus {
	r := liveRollout()
	r.Status = "rolling"
	r.Paused = &api.Pause{By: "lockstep", Reason: "capacity", Text: "no target left that could go on", At: noon}
	a := api.AppStatus{
		App: "hello", Pool: "web", Release: &newRelease, Since: ago(2 * time.Minute), Skew: "9c1d2e3 on web1, 3f2a91c on web3, unknown on web2",
		Live: &r, Waiting: &api.Rollout{ID: "hello-4", App: "hello", Kind: "deploy", Status: "queued", Release: api.ReleaseRef{SHA: "aaaabbbbcccc", Subject: "Try again"}},
		Hold: &api.Hold{By: "bob", Reason: "quarter end", At: noon.Add(-time.Hour), Until: ago(-47 * time.Hour)},
		Targets: []api.TargetStatus{target("web1", &newRelease), target("web2", &oldRelease), target("web3", &oldRelease), target("web4", nil), {Target: "hello@web5", Node: "web5"},
			{Target: "hello@web6", Node: "web6", Reachable: true, LastSeen: ago(0), Rotation: api.RotationUnknown, Health: api.HealthUnknown, Phase: "active"}},
	}
	lost := &a.Targets[1]
	lost.Reachable, lost.LastSeen, lost.Rotation, lost.Health, lost.Phase = false, ago(4*time.Minute), api.RotationUnknown, api.HealthUnknown, "unreachable"
	lost.Reason, lost.Text = "unreachable", "no sync for 4m"
	busy := &a.Targets[2]
	busy.Rotation, busy.Phase, busy.Step, busy.Text = api.RotationDraining, "activating", "drain", "waiting for 3 requests"
	down := &a.Targets[3]
	down.Rotation, down.Health, down.Phase, down.Reason, down.Text = api.RotationOut, api.Unhealthy, "quarantined", "unhealthy", "GET /healthz answered 500\n5 times"
	return a
}

func TestStatus(t *testing.T) {
	f := newFake(t)
	f.status = api.Status{At: noon, Version: "1.0.0", Apps: []api.AppStatus{convergedApp()}}
	golden(t, "status-converged", f, "status")
	golden(t, "status-json", f, "status", "--json")

	f.status.Apps = []api.AppStatus{skewedApp(), {App: "fresh", Pool: "web", Skew: "unknown: no node has reported", Targets: []api.TargetStatus{{Target: "fresh@web1", Node: "web1"}}}}
	golden(t, "status-skew", f, "status")
	golden(t, "status-one-app", f, "status", "fresh")
	golden(t, "status-no-such-app", f, "status", "hallo")

	drifted := convergedApp()
	drifted.Converged = false
	drifted.Targets = slices.Clone(drifted.Targets)
	drifted.Targets[1].Release = &newRelease
	drifted.Targets[1].Drift = &api.Drift{Since: noon.Add(-3 * time.Minute), Release: &newRelease, Text: "web2 runs 9c1d2e3, by another hand; it should run 3f2a91c"}
	f.status.Apps = []api.AppStatus{drifted}
	golden(t, "status-drift", f, "status")

	f.status.Apps = nil
	golden(t, "status-no-apps", f, "status")
}

func TestRollouts(t *testing.T) {
	f := newFake(t)
	golden(t, "rollouts-none", f, "rollouts", "hello")
	done := liveRollout()
	end("rolled_back", "unhealthy", "web1 did not become healthy on 9c1d2e3")(&done)
	done.ID, done.Created, done.Started, done.Finished = "hello-2", noon.Add(-25*time.Hour), ago(25*time.Hour), ago(25*time.Hour-83*time.Second)
	queued := liveRollout()
	queued.ID, queued.Status, queued.Started, queued.By = "hello-4", "queued", nil, ""
	paused := liveRollout()
	paused.Paused = &api.Pause{By: "ann"}
	f.rollouts = []api.Rollout{queued, paused, done}
	golden(t, "rollouts", f, "rollouts", "hello")
}

func TestShow(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	golden(t, "show-new", f, "show", "hello-3")

	happen("", "deploy of 9c1d2e3, asked for by ann", nil)(f)
	happen("web1", "web1 activates 9c1d2e3", phase(0, "active", ""))(f)
	happen("web2", "9c1d2e3 on web2: GET /healthz answered 500", phase(1, "reverting", "restart"))(f)
	happen("web3", "named in no text", phase(2, "", ""))(f)
	r := &f.rollouts[0]
	r.Status, r.Blocked = "rolling", "web2 is out of rotation"
	r.Paused = &api.Pause{By: "bob", Reason: "requested", Text: "lunch", At: noon.Add(-10 * time.Second)}
	golden(t, "show-live", f, "show", "hello-3")
	golden(t, "show-json", f, "show", "hello-3", "--json")
	golden(t, "show-by-app", f, "show", "hello")
	golden(t, "show-no-such", f, "show", "hello-9")
}

func TestPlan(t *testing.T) {
	f := newFake(t)
	step := func(node string) api.PlanStep {
		return api.PlanStep{Target: "hello@" + node, Node: node, Release: oldRelease.ID, Rotation: api.RotationIn, Health: api.Healthy, Soak: api.Duration(30 * time.Second)}
	}
	f.plan = api.Plan{
		App: "hello", Kind: "deploy", BuildOn: "each", Release: newRelease, From: &oldRelease, Build: []string{"npm ci", "npm run build"},
		Steps: []api.PlanStep{step("web1"), step("web2")}, Notes: []string{"web1 goes first: it is the canary"},
	}
	f.plan.Steps[0].Prepared = true
	golden(t, "plan", f, "plan", "hello", "--ref", "v2")

	f.plan.Steps = append(f.plan.Steps, api.PlanStep{Target: "hello@web3", Node: "web3", Problem: "no sync for 4m"})
	f.plan.From, f.plan.Notes = nil, nil
	golden(t, "plan-problem", f, "plan", "hello")
	golden(t, "plan-json", f, "plan", "hello", "--json")

	f.plan.Notes = nil
	text := "[Service]\nExecStart=/bin/sh -c \"bin/server --port 8080\"\n\n[Install]\nWantedBy=multi-user.target\n"
	f.plan.Units = []api.PlanUnit{
		{Name: "lockstep-hello.service", Nodes: []string{"web1", "web2"}, Change: api.UnitInstall, Text: text},
		{Name: "lockstep-hello.service", Nodes: []string{"web3"}, Change: api.UnitReplace, Text: text},
		{Name: "lockstep-hello.service", Nodes: []string{"web4"}, Change: api.UnitStays, Text: text},
	}
	golden(t, "plan-units", f, "plan", "hello")
	f.plan.Units = nil

	f.plan.Refused, f.plan.Steps = "9c1d2e3 is the current release of hello", nil
	golden(t, "plan-refused", f, "plan", "hello")
}

// All that a deploy would do besides fetching and building.
func TestPlanOfWhatIsRun(t *testing.T) {
	f := newFake(t)
	f.plan = api.Plan{
		App: "hello", Kind: "deploy", Release: newRelease, From: &oldRelease, Build: []string{"npm ci", "npm run build"}, BuildOn: "first",
		Recipe:   &api.PlanRecipe{File: "lockstep.yaml", MaySet: []string{"build", "hooks", "shared"}, Sets: []string{"build", "hooks"}},
		Artifact: []string{"dist", "bin/app"}, Shared: []string{".env", "public/uploads/"}, ReleaseCommand: []string{"bin/migrate up"},
		Hooks:      &api.Hooks{BeforeDrain: []string{"bin/announce"}, AfterDrain: []string{"bin/hand-over", "bin/wait"}, WhileStopped: []string{"bin/convert"}, AfterRejoin: []string{"bin/warm"}},
		HealthPath: "/readyz",
	}
	for _, instance := range []string{"8000", "8001"} {
		f.plan.Steps = append(f.plan.Steps, api.PlanStep{
			Target: "hello@web1:" + instance, Node: "web1", Instance: instance, Release: oldRelease.ID, Rotation: api.RotationIn, Health: api.Healthy,
		})
	}
	golden(t, "plan-recipe", f, "plan", "hello")
	f.plan.Recipe.Sets, f.plan.BuildOn = nil, "web2"
	golden(t, "plan-recipe-unset", f, "plan", "hello")
}

// Who cannot return without a build is told before a rollback, and as it begins.
func TestRollbackPreflight(t *testing.T) {
	f := newFake(t)
	f.plan = api.Plan{App: "hello", Kind: "rollback", Release: oldRelease, From: &newRelease, Steps: []api.PlanStep{{
		Target: "hello@web1", Node: "web1", Release: newRelease.ID, Rotation: api.RotationIn, Health: api.Healthy, Prepared: true,
	}}}
	golden(t, "plan-rollback", f, "plan", "hello", "--rollback")
	f.plan.Missing = []string{"web3 no longer has 3f2a91c: it will be built again"}
	golden(t, "plan-rollback-missing", f, "plan", "hello", "--rollback", "--to", "3f2a91c")

	r := liveRollout()
	r.Kind, r.Release, r.From, r.Warnings = "rollback", oldRelease, nil, f.plan.Missing
	f.rollouts = []api.Rollout{r}
	golden(t, "rollback-missing", f, "rollback", "hello", "--no-wait")
	f.script = []func(*fake){func(f *fake) {
		end("succeeded", "", "", "active", "active", "active")(&f.rollouts[0])
		f.rollouts[0].Warnings = nil // only the answer to the request has them
	}}
	golden(t, "rollback-missing-json", f, "rollback", "hello", "--json")
}
