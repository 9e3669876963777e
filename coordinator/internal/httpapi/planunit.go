package httpapi

import (
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// planUnits says what would become of the app's generated unit on each node, equal
// ones together, and what stands against it as the problem of the node's targets.
func planUnits(v *view, p *api.Plan, run *api.Run) {
	if run == nil {
		return
	}
	var unknown []string
	done := map[string]bool{}
	for i := range p.Steps {
		st := &p.Steps[i]
		told := v.unit(st.Node)
		if told != nil && told.Refused != "" && st.Problem == "" {
			st.Problem = told.Refused
		}
		if done[st.Node] {
			continue
		}
		done[st.Node] = true
		switch {
		case told == nil:
			unknown = append(unknown, st.Node)
		case told.Refused == "":
			u := api.PlanUnit{Name: unitfile.Name(p.App, st.Instance != ""), Change: api.UnitReplace}
			u.Text = unitfile.Text(p.App, st.Instance != "", *run, told.Host)
			switch told.Installed {
			case "":
				u.Change = api.UnitInstall
			case unitfile.Digest(u.Text):
				u.Change = api.UnitStays
			}
			same := func(o api.PlanUnit) bool { return o.Text == u.Text && o.Change == u.Change }
			at := slices.IndexFunc(p.Units, same)
			if at < 0 {
				at = len(p.Units)
				p.Units = append(p.Units, u)
			}
			p.Units[at].Nodes = append(p.Units[at].Nodes, st.Node)
		}
	}
	for _, n := range unknown {
		p.Notes = append(p.Notes, fmt.Sprintf("what unit %s would get is not known: its agent has not told yet, or is too old for run:", n))
	}
}

// unit is what the node's agent told of the app's generated unit, nil for nothing.
func (v *view) unit(node string) *api.UnitReport {
	if n := v.state.Node(node); n == nil || n.Reach != rollout.Reachable {
		return nil
	}
	for _, a := range v.contacts[node].Apps {
		if a.App == v.app.Name {
			return a.Unit
		}
	}
	return nil
}
