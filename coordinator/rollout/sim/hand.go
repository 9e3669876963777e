package sim

import (
	"slices"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// foreign is what a person runs who runs no release.
const foreign rollout.ReleaseID = "something else"

// byHand does what a person does on a node itself, whatever Lockstep is at.
func (w *world) byHand(o Op) {
	n := w.nodes[o.Node]
	if !n.powered {
		return
	}
	t := n.target(o.App, o.Inst)
	switch o.Kind {
	case OpHandRollNode:
		for _, t := range n.agent.of(o.App) {
			t.roll(o.Back)
		}
	case OpHandRoll:
		t.roll(o.Back)
	case OpHandLink:
		t.relink(o.Back)
	case OpHandRestart:
		t.restart()
	case OpHandStop:
		t.stop()
	case OpHandForeign:
		t.running, t.since, t.hand = foreign, w.now, true
	}
}

// relink moves the target's current link to another release on the disk, if
// there is one.
func (t *target) relink(k int) {
	others := slices.DeleteFunc(slices.Clone(t.n.disks[t.app].releases), func(id rollout.ReleaseID) bool { return id == t.link })
	if len(others) > 0 {
		t.link, t.hand = others[k%len(others)], true
	}
}

func (t *target) roll(k int) {
	t.relink(k)
	t.restart()
}

// linked is what a report says that the target would run after its next start.
func (a *agent) linked(t *target) rollout.ReleaseID {
	switch {
	case t.running == foreign, t.link == t.running, a.journal.targets[t.k].work != nil:
		return ""
	case t.running == "" && t.link == a.journal.apps[t.app].left(t):
		return "" // it is merely down
	}
	return t.link
}

// checkBegun judges a rollout that has just begun by what people did on the nodes.
func (c *coordinator) checkBegan(before *rollout.State, a *rollout.App, r *rollout.Rollout) {
	idle := before.App(a.Name).Live == nil
	c.eachTarget(func(t *target) {
		if !slices.Contains(r.Order, t.id) {
			return
		}
		if r.By != "lockstep" {
			delete(c.mended, t.id)
			return
		}
		k, o := c.knows(t), before.Target(t.id)
		if o == nil || !idle || (o.Phase != rollout.TargetActive && o.Phase != rollout.TargetReverted) {
			return
		}
		switch {
		case k.own:
			c.w.fail("by-hand", "%s takes %s away from what a person runs there, and nobody asked for that", r.ID, t.id)
		case k.runs == "" || k.runs == a.Current || k.runs == o.Release:
		case c.mended[t.id]:
			c.w.fail("by-hand", "%s brings %s back from %s again, and nobody asked for that", r.ID, t.id, k.runs)
		default:
			c.mended[t.id] = true
		}
	})
}

// checkBlamed judges that nothing is taken for another hand's work but that.
func (c *coordinator) checkBlamed(before *rollout.State) {
	for i := range c.state.Targets {
		st := &c.state.Targets[i]
		if st.Drift == nil {
			continue
		}
		if old := was(before, i, st.ID); old != nil && old.Drift != nil {
			continue
		}
		c.eachTarget(func(t *target) {
			if t.id == st.ID && !t.hand {
				c.w.fail("by-hand", "%s, and nobody did anything: %q runs, %q is linked", c.state.DriftText(st), t.running, t.link)
			}
		})
	}
}

// checkDrift judges, of a target of an app of which nothing is under way, that
// what a person did is shown for as long as it lasts.
func (c *coordinator) checkDrift(t *target, a *rollout.App, st *rollout.Target, final bool) {
	other := func(id rollout.ReleaseID) bool { return id != "" && id != a.Current && id != st.Release }
	drifted := (t.running == foreign && t.serves()) || other(t.release()) || (t.running != foreign && other(t.link))
	left := st.Phase == rollout.TargetActive || st.Phase == rollout.TargetReverted
	switch {
	case t.hand && left && drifted && st.Drift == nil:
		c.w.fail("drift-shown", "a person has %s run %q, with %q linked, which nothing tells", t.id, t.running, t.link)
	case c.state.Converged(a.Name) && (t.running != a.Current || t.link != a.Current):
		c.w.fail("drift-shown", "all is said to be well, and %s runs %q, with %q linked", t.id, t.running, t.link)
	case final && st.Drift != nil:
		c.w.fail("by-hand", "a person asks for another chance, and yet: %s", c.state.DriftText(st))
	}
}

// leftAlone tells whether a target is as a person made it, and only a person may
// change that again: it was brought back already, or runs no release, or is down on
// what it was linked to.
func (c *coordinator) leftAlone(t *target, st *rollout.Target) bool {
	return st.Drift != nil && (st.Mended || t.running == foreign || t.running == "")
}
