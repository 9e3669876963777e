// Package agenttest is an agent for tests of the coordinator: it carries out
// whatever it is assigned at once and well, except for releases that it is told
// to find bad.
package agenttest

import (
	"slices"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
)

// Agent speaks for one node. It is not safe for concurrent use.
type Agent struct {
	Node string
	// Bad names the commits whose releases never become healthy.
	Bad map[string]bool

	seq  uint64
	apps []api.AppReport
}

// New returns the agent of a node on which nothing was ever deployed.
func New(node string) *Agent { return &Agent{Node: node, Bad: map[string]bool{}} }

// Report returns the agent's next report.
func (a *Agent) Report(wait bool) api.SyncRequest {
	a.seq++
	req := api.SyncRequest{Node: a.Node, Version: "1.0", Instance: "agenttest", Epoch: 1, Seq: a.seq, Wait: wait, Apps: []api.AppReport{}}
	for _, p := range a.apps {
		p.Present, p.Targets = slices.Clone(p.Present), slices.Clone(p.Targets)
		req.Apps = append(req.Apps, p)
	}
	return req
}

// Take carries out what is assigned and tells whether it changed anything.
func (a *Agent) Take(assigned []api.Assignment) bool {
	changed := false
	for _, as := range assigned {
		i := slices.IndexFunc(a.apps, func(p api.AppReport) bool { return p.App == as.App })
		if i < 0 {
			i, changed = len(a.apps), true
			a.apps = append(a.apps, api.AppReport{App: as.App, Present: []string{}})
			for _, g := range as.Targets {
				a.apps[i].Targets = append(a.apps[i].Targets, api.TargetReport{Target: g.Target, Rotation: api.RotationIn, Health: api.Healthy})
			}
		}
		p := &a.apps[i]
		if p.Generation == as.Generation {
			continue
		}
		p.Generation, changed = as.Generation, true
		if w := as.Prepare; w != nil && !slices.Contains(p.Present, w.Release) {
			p.Present = append(p.Present, w.Release)
		}
		for _, g := range as.Targets {
			a.activate(p, as, g)
		}
	}
	return changed
}

func (a *Agent) activate(p *api.AppReport, as api.Assignment, g api.Goal) {
	i := slices.IndexFunc(p.Targets, func(t api.TargetReport) bool { return t.Target == g.Target })
	t := &p.Targets[i]
	if g.Turn == 0 || (t.Outcome != nil && t.Outcome.Turn >= g.Turn) {
		return
	}
	t.Outcome = &api.Outcome{Turn: g.Turn, Release: g.Release, OK: true}
	t.Release = g.Release
	if a.Bad[sha(as, g.Release)] {
		t.Outcome = &api.Outcome{Turn: g.Turn, Release: g.Release, Reverted: true, Reason: api.ReasonUnhealthy, Text: "503 from /healthz"}
		t.Release = g.Fallback
	}
}

// Run makes the app's targets run a release that nobody assigned.
func (a *Agent) Run(app, release string) {
	for _, p := range a.apps {
		for i := range p.Targets {
			if p.App == app {
				p.Targets[i].Release = release
			}
		}
	}
}

func sha(as api.Assignment, release string) string {
	for _, r := range as.Releases {
		if r.ID == release {
			return r.SHA
		}
	}
	return release
}

// Assignments is what an agent is told of placements, apart from what the
// configuration says. Releases are named by their ids.
func Assignments(ps []runner.Placement) []api.Assignment {
	var all []api.Assignment
	for _, p := range ps {
		as := api.Assignment{App: p.App, Generation: p.Generation}
		if p.Wanted.Prepare != "" {
			as.Prepare = &api.Prepare{Release: string(p.Wanted.Prepare), Attempt: p.Wanted.Attempt}
		}
		for _, g := range p.Wanted.Targets {
			as.Targets = append(as.Targets, api.Goal{Target: string(g.Target), Release: string(g.Release), Fallback: string(g.Fallback), Turn: g.Turn})
		}
		all = append(all, as)
	}
	return all
}
