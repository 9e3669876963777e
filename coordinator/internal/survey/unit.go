package survey

import (
	"context"
	"slices"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// units compares the units that the agents wrote for apps without one of their own
// with what they would write now for the release that runs.
func (s *Survey) units(ctx context.Context) []api.DoctorCheck {
	c := checks{area: areaUnit}
	for _, a := range s.cfg.Fleet.Apps {
		state, ok := s.cfg.Engine.View(a.Name)
		app := state.App(a.Name)
		if !a.Generated() || !ok || app == nil || app.Current == "" {
			continue
		}
		recipe, err := s.cfg.Recipe(ctx, a.Name, app.Current)
		if err != nil {
			c.add(api.CheckUnknown, a.Name, "what its units should be is not known: %v", err)
			continue
		}
		if recipe.Run == nil {
			continue // the release is from when the app had a unit of its own
		}
		s.unitsOf(&c, a, state, app.Current, *recipe.Run)
	}
	return c.list
}

func (s *Survey) unitsOf(c *checks, a *config.App, state rollout.State, current rollout.ReleaseID, run api.Run) {
	name := unitfile.Name(a.Name, len(a.Instances) > 0)
	fine, looked := 0, 0
	for _, node := range a.Nodes {
		contact := s.cfg.Engine.Contact(node)
		i := slices.IndexFunc(contact.Apps, func(r api.AppReport) bool { return r.App == a.Name && r.Unit != nil })
		// Other versions may write it otherwise, which is said of the node.
		if i < 0 || contact.Version != s.cfg.Version || !settled(state, a, node, current) {
			continue
		}
		looked++
		told, subject := contact.Apps[i].Unit, a.Name+" on "+node
		switch want := unitfile.Digest(unitfile.Text(a.Name, len(a.Instances) > 0, run, told.Host)); {
		case told.Refused != "":
			c.add(api.CheckProblem, subject, "%s", told.Refused)
		case told.Installed == "":
			c.add(api.CheckProblem, subject, "%s is missing, so what runs would not start again; the app's next turn there writes it", name)
		case told.Installed != want:
			c.add(api.CheckWarning, subject, "%s is not what Lockstep would write for the current release: it was edited by hand, or agent.yaml was changed since; "+
				"the app's next turn there writes it anew, so make the change in fleet.yaml, or in a drop-in (systemctl edit %s)", name, name)
		default:
			fine++
		}
	}
	if fine > 0 && fine == looked {
		c.add(api.CheckOK, a.Name, "%s is as Lockstep writes it on %s", name, count(fine, "node"))
	}
}

// settled tells whether a target of the node runs the release, none has a turn, and
// so whether the unit should be the release's.
func settled(state rollout.State, a *config.App, node string, current rollout.ReleaseID) bool {
	runs := false
	for _, p := range a.Places() {
		if p.Node != node {
			continue
		}
		t := state.Target(rollout.TargetName(a.Name, node, p.Instance))
		if t == nil || t.Turn != 0 {
			return false
		}
		runs = runs || t.Seen.Release == current
	}
	return runs
}
