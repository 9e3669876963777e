package sim

import (
	"slices"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// checkTurns judges every turn that the step gave.
func (c *coordinator) checkTurns(before *rollout.State, ev rollout.Event) {
	s := &c.state
	for i := range s.Targets {
		t := &s.Targets[i]
		old := was(before, i, t.ID)
		if t.Turn == 0 {
			if old != nil && old.Turn != 0 {
				c.checkLeft(t)
			}
			continue
		}
		if old != nil && old.Turn == t.Turn {
			continue
		}
		c.turns++
		if t.Turn <= before.LastTurn {
			c.w.fail("turn-number", "%s got turn %d, which was given before", t.ID, t.Turn)
		}
		if rel := s.App(t.App).Release(t.Release); rel != nil && rel.Bad != nil && s.App(t.App).Live.Automatic {
			c.w.fail("bad-release", "automation gives %s a turn to %s, which is bad", t.ID, t.Release)
		}
		c.checkHasRelease(t)
		c.checkMigrated(t)
		if old != nil && old.Turn != 0 {
			c.free[t.Turn], c.fallen[t.Turn] = c.free[old.Turn], c.fallen[old.Turn]
			continue // turned round: the same leave
		}
		c.checkLeave(t)
		c.checkLast(t)
	}
	_, config := ev.(rollout.Configured)
	turns := 0
	for i := range s.Targets {
		if s.Targets[i].Turn != 0 {
			turns++
		}
	}
	if turns > s.MaxUnavailable && !config {
		c.w.fail("max-unavailable", "%d turns are out", turns)
	}
}

// was is the target as it stood before a step after which it is the i-th.
func was(before *rollout.State, i int, id rollout.TargetID) *rollout.Target {
	if i < len(before.Targets) && before.Targets[i].ID == id {
		return &before.Targets[i] // always so, unless the configuration changed
	}
	return before.Target(id)
}

// checkLeft judges that a target whose turn left it out has somebody in charge.
func (c *coordinator) checkLeft(t *rollout.Target) {
	lost := false
	c.eachTarget(func(o *target) { lost = lost || o.id == t.ID && c.knows(o).lost })
	if !lost || t.Phase == rollout.TargetQuarantined {
		return
	}
	if r := c.state.App(t.App).Live; r != nil && slices.Contains(r.Order, t.ID) {
		switch t.Phase {
		case rollout.TargetPreparing, rollout.TargetPrepared, rollout.TargetUnreachable, rollout.TargetActivating, rollout.TargetReverting:
			return
		}
	}
	c.w.fail("nobody-in-charge", "the turn of %s failed, it was not brought back, and it is %s", t.ID, t.Phase)
}

// checkLeave judges a turn by what the engine was told.
func (c *coordinator) checkLeave(t *rollout.Target) {
	var self *knowledge
	var real *target
	others, names := 0, ""
	c.eachTarget(func(o *target) {
		k := c.knows(o)
		if o.id == t.ID {
			self, real = k, o
			return
		}
		// A later turn of the same step was judged against this one.
		if turn := c.state.Target(o.id).Turn; (turn != 0 && turn < t.Turn) || (k.missed && k.now != serving) {
			others++
			names += " " + string(o.id)
		}
	})
	if self.now == silent {
		c.w.fail("max-unavailable", "%s got a turn, but nothing is known of it", t.ID)
	}
	if self.now == outside || !self.missed {
		c.free[t.Turn], c.fallen[t.Turn] = true, !real.n.agent.out(real)
		return
	}
	if others+1 > c.state.MaxUnavailable {
		c.w.fail("max-unavailable", "%s got a turn while these are out or unknown:%s", t.ID, names)
	}
}

// checkLast judges by what the engine was told that a target which asks to be
// last leaves after all others of its rollout.
func (c *coordinator) checkLast(t *rollout.Target) {
	asks := func(k *knowledge) bool { return k.last && k.now == serving && k.missed }
	order := c.state.App(t.App).Live.Order
	asked := false
	c.eachTarget(func(o *target) { asked = asked || o.id == t.ID && asks(c.knows(o)) })
	if !asked {
		return
	}
	c.eachTarget(func(o *target) {
		st, k := c.state.Target(o.id), c.knows(o)
		if o.id == t.ID || st.App != t.App || !slices.Contains(order, o.id) || asks(k) || k.now == silent {
			return
		}
		switch st.Phase {
		case rollout.TargetQuarantined, rollout.TargetUnreachable, rollout.TargetWaiting:
			return
		case rollout.TargetActive, rollout.TargetReverted:
			if k.now != serving || k.own {
				return // it went, and is down by itself now, or a person's
			}
		}
		if st.Turn != 0 || k.runs != t.Release {
			c.w.fail("asked-to-be-last", "%s got turn %d before %s is through, and asks to be last", t.ID, t.Turn, o.id)
		}
	})
}

// out tells whether the agent took the target out and has not brought it back.
func (a *agent) out(t *target) bool {
	j := a.journal.targets[t.k]
	if t.drained || j.work == nil {
		return t.drained
	}
	switch j.work.step {
	case stepSnapshot, stepBeforeDrain, stepDrain, stepAfterRejoin, stepSoak, undoAfterRejoin:
		return false
	}
	return !t.serves()
}

// turn is the one that the agent works on or has finished last.
func (a *agent) turn(t *target) uint64 {
	switch j := a.journal.targets[t.k]; {
	case j.work != nil:
		return j.work.turn
	case j.outcome != nil:
		return j.outcome.Turn
	}
	return 0
}

// checkDrain judges a drain by what is, at the moment when it begins.
func (c *coordinator) checkDrain(t *target, turn uint64) {
	if !t.serves() || c.free[turn] || !c.configured(t) || t.strange {
		return
	}
	others, names := 0, ""
	c.eachTarget(func(o *target) {
		if o != t && !o.strange && c.knows(o).missed && o.n.agent.out(o) && !c.fallen[o.n.agent.turn(o)] {
			others++
			names += " " + string(o.id)
		}
	})
	if others+1 > c.w.plan.MaxUnavailable {
		c.w.fail("max-unavailable", "%s is drained in turn %d while we keep these out:%s", t.id, turn, names)
	}
}

// checkHasRelease judges that everything was prepared before the first turn.
func (c *coordinator) checkHasRelease(t *rollout.Target) {
	r := c.state.App(t.App).Live
	if r == nil {
		c.w.fail("turn-without-rollout", "%s got a turn in no rollout", t.ID)
		return
	}
	if r.Status != rollout.Rolling {
		return
	}
	c.eachTarget(func(o *target) {
		st := c.state.Target(o.id)
		if st.App != t.App || !slices.Contains(r.Order, o.id) || o.n.wiped != 0 {
			return
		}
		if o.has(r.Release) {
			c.checkSameBuild(t, o, r)
			return
		}
		if st.Phase == rollout.TargetUnreachable || st.Phase == rollout.TargetQuarantined || c.returned(o.id, r) {
			return
		}
		c.w.fail("prepared-first", "%s got a turn to %s, which %s does not have", t.ID, r.Release, o.n.name)
	})
}

// checkSameBuild judges that a target that gets a turn has the same files as
// another that was prepared, where one node builds for all, or all must build alike.
func (c *coordinator) checkSameBuild(t *rollout.Target, o *target, r *rollout.Rollout) {
	if (!c.w.plan.BuildOnce && !c.w.plan.RefuseSkew) || r.Kind != rollout.Deploy {
		return
	}
	switch c.state.Target(o.id).Phase {
	case rollout.TargetPrepared, rollout.TargetActivating, rollout.TargetActive:
	default:
		return
	}
	for _, n := range c.w.nodes {
		for _, x := range n.targets {
			if x.id == t.ID && n.wiped == 0 && x.has(r.Release) && x.built(r.Release) != o.built(r.Release) {
				c.w.fail("one-build", "%s got a turn to %s built as %s, and %s has %s", t.ID, r.Release, x.built(r.Release), o.id, o.built(r.Release))
			}
		}
	}
}

// returned tells whether the target came back in the middle of the rollout.
func (c *coordinator) returned(id rollout.TargetID, r *rollout.Rollout) bool {
	return slices.Contains(c.late[r.ID], id)
}
