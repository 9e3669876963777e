package sim

import (
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// step is one step of a turn.
type step string

// Steps, and those that undo them.
const (
	stepSnapshot step = "snapshot"
	stepDrain    step = "drain"
	stepSwitch   step = "switch"
	stepRestart  step = "restart"
	stepVerify   step = "verify"
	stepRejoin   step = "rejoin"
	stepSoak     step = "soak"
	undoDrain    step = "undo-drain"
	undoSwitch   step = "undo-switch"
	undoRestart  step = "undo-restart"
	undoVerify   step = "undo-verify"
	undoRejoin   step = "undo-rejoin"
	done         step = "done"

	stepBeforeDrain  step = "before-drain"
	stepAfterDrain   step = "after-drain"
	stepBeforeRejoin step = "before-rejoin"
	stepAfterRejoin  step = "after-rejoin"
	undoBeforeRejoin step = "undo-before-rejoin"
	undoAfterRejoin  step = "undo-after-rejoin"
)

var (
	forward = []step{
		stepSnapshot, stepBeforeDrain, stepDrain, stepAfterDrain, stepSwitch, stepRestart, stepVerify,
		stepBeforeRejoin, stepRejoin, stepAfterRejoin, stepSoak, done,
	}
	backward = []step{undoDrain, undoSwitch, undoRestart, undoVerify, undoBeforeRejoin, undoRejoin, undoAfterRejoin, done}
)

func next(s step) step {
	for _, list := range [][]step{forward, backward} {
		for i, x := range list[:len(list)-1] {
			if x == s {
				return list[i+1]
			}
		}
	}
	return done
}

func before(s step) step {
	if s == undoRejoin {
		return undoVerify
	}
	return stepVerify
}

// work is the journaled turn in progress.
type work struct {
	turn              uint64
	release, fallback rollout.ReleaseID
	soak              time.Duration
	step              step
	left              bool // an earlier turn had left it out
	switched          bool
	undo              bool
	revoked           bool
	waited            time.Duration // in this step, for what is not yet so
	fault             rollout.Fault
	reason            rollout.Reason
	text              string
}

// step takes the next step of the turn: it is begun, done after a while, and
// journaled a moment later, so that a crash can fall between any two of these.
func (a *agent) step(t *target) {
	j, w := a.journal.targets[t.k], a.n.w
	s := j.work.step
	a.busy[t.k] = true
	var d time.Duration
	switch {
	case s.hook() != "":
		d = a.beginHook(t, s) // a crash at its beginning falls in its middle
	case s == stepSoak:
		d = j.work.soak
	case s == stepVerify, s == undoVerify:
		d = startup + w.between(0, 2*time.Second)
	default:
		d = w.between(200*time.Millisecond, 2*time.Second)
	}
	if a.crashes(s, false) {
		return
	}
	a.after(d, func() {
		then := a.act(t, s)
		if a.crashes(s, true) {
			return
		}
		a.after(10*time.Millisecond, func() {
			a.busy[t.k] = false
			if wk := j.work; wk.step == s && then != s {
				wk.step, wk.waited = then, 0
			}
			if j.work.step == done {
				a.finishTurn(t)
			}
			a.advance(t.app)
			a.changed()
		})
	})
}

// crashes ends the agent if the plan says so at this step.
func (a *agent) crashes(s step, late bool) bool {
	if a.crashS != s || a.crashL != late {
		return false
	}
	a.n.w.log("%s: crash at %s", a.n.name, s)
	d := a.crashF
	a.crash()
	a.n.w.after(d, a.start)
	return true
}

// act does the step and returns the one that comes then: the same one again if
// what it waits for is not so yet.
func (a *agent) act(t *target, s step) step {
	j, w := a.journal.targets[t.k], a.n.w
	wk := j.work
	if wk.step != s {
		return wk.step
	}
	away := w.now < w.awayTil || w.now < t.refuses
	if s.hook() != "" {
		return a.endHook(t, s)
	}
	switch s {
	case stepSnapshot:
		switch wk.left = t.drained; {
		case !t.has(wk.release):
			return a.undo(t, rollout.NodeFault, "release_missing", "the release is not on the disk")
		case t.running == wk.release && t.link == wk.release && t.healthy() && t.says() == rollout.RotationIn:
			return done // nothing is to be done
		case !t.has(wk.fallback):
			wk.fallback = "" // there is nothing to go back to
		}
	case stepDrain:
		switch {
		case w.now < t.refuses:
			return a.undo(t, rollout.NodeFault, "balancer_refused", "the balancer refuses to drain it")
		case away:
			return a.undo(t, rollout.NodeFault, "balancer_failed", "the balancer does not answer")
		}
		a.drain(t, wk)
	case stepSwitch:
		if !t.has(wk.release) {
			return a.undo(t, rollout.NodeFault, "release_missing", "the release is not on the disk")
		}
		t.link, wk.switched = wk.release, true
	case stepRestart:
		t.restart()
		if t.running == "" {
			return a.undo(t, rollout.ReleaseFault, "start_failed", "the unit does not start")
		}
	case stepVerify:
		if t.running != wk.release || !t.healthy() {
			if wk.patient(12*time.Second, 2*time.Second) {
				return s
			}
			return a.undo(t, rollout.ReleaseFault, "unhealthy", "no health check passed in 12s")
		}
	case stepRejoin:
		if t.running != wk.release || !t.healthy() {
			return stepVerify
		}
		if !away {
			a.rejoin(t, wk.release)
		}
		if t.says() != rollout.RotationIn {
			if wk.patient(20*time.Second, 2*time.Second) {
				return s
			}
			return a.undo(t, rollout.NodeFault, "rejoin_timeout", "the balancer does not call it healthy")
		}
	case stepSoak:
		if t.running != wk.release || !t.healthy() {
			return a.undo(t, rollout.ReleaseFault, "soak_failed", "it became unhealthy in rotation")
		}
		if t.says() != rollout.RotationIn {
			return stepRejoin
		}
	case undoDrain:
		if wk.fallback != "" && t.running != "" && t.healthy() && (!wk.switched || (t.running == wk.fallback && t.link == wk.fallback)) {
			return a.next(t, undoVerify) // it goes back in as it is
		}
		if !away {
			a.drain(t, wk)
		}
		if wk.fallback == "" {
			return done
		}
	case undoSwitch:
		if !t.has(wk.fallback) {
			wk.text += "; the fallback is missing"
			return done
		}
		t.link = wk.fallback
	case undoRestart:
		t.restart()
	case undoVerify:
		if t.running != wk.fallback || !t.healthy() {
			if wk.patient(12*time.Second, 2*time.Second) {
				return s
			}
			wk.text += "; the fallback is not healthy"
			return done
		}
	case undoRejoin:
		switch {
		case away:
		case !wk.switched && !wk.left:
			t.drained = false // as it stood, whatever it runs
		case t.running != "" && t.healthy():
			a.rejoin(t, t.running)
		}
		if t.says() != rollout.RotationIn && wk.patient(20*time.Second, 2*time.Second) {
			return s
		}
	}
	return a.next(t, s)
}

// patient tells whether the step may still wait.
func (wk *work) patient(limit, more time.Duration) bool {
	wk.waited += more
	return wk.waited < limit
}

// drain tells the balancer to give the target no more work.
func (a *agent) drain(t *target, wk *work) {
	if t.drained {
		return
	}
	a.n.w.co.checkDrain(t, wk.turn)
	if a.n.w.now >= t.lies {
		t.drained = true
	}
	a.n.w.log("%s: drained in turn %d", t.id, wk.turn)
}

// rejoin puts the target back into rotation.
func (a *agent) rejoin(t *target, id rollout.ReleaseID) {
	if t.running != id || !t.healthy() {
		a.n.w.fail("rejoin-unproved", "%s rejoins on %q, which is not what is proved there", t.id, id)
	}
	t.drained = false
}

// undo turns the turn round.
func (a *agent) undo(t *target, fault rollout.Fault, reason rollout.Reason, text string) step {
	wk := a.journal.targets[t.k].work
	if !wk.undo {
		a.n.w.log("%s: turn %d is undone: %s", t.id, wk.turn, text)
		wk.undo, wk.fault, wk.reason, wk.text, wk.waited = true, fault, reason, text, 0
	}
	switch wk.step {
	case stepSnapshot, stepBeforeDrain:
		wk.step = done // nothing was touched
	case stepDrain, stepAfterDrain:
		switch {
		case !wk.left:
			wk.step = a.next(t, undoVerify)
		case wk.fallback == "":
			wk.step = done // out it was, and out it stays
		default:
			wk.step = undoVerify
		}
	default:
		wk.step = undoDrain
	}
	return wk.step
}

// finishTurn journals the outcome of the turn.
func (a *agent) finishTurn(t *target) {
	j := a.journal.targets[t.k]
	wk := j.work
	o := &rollout.Outcome{Turn: wk.turn, OK: !wk.undo}
	if wk.undo {
		o.Fault, o.Reason, o.Text = wk.fault, wk.reason, wk.text
		o.Reverted = wk.fallback != "" && t.running == wk.fallback && t.healthy() && t.says() == rollout.RotationIn
	}
	j.outcome, j.work = o, nil
	t.hook = nil
	t.strange = t.strange && t.drained
	t.hand = t.hand && !(o.OK && t.running == wk.release && t.link == wk.release)
	a.n.w.log("%s: turn %d ends: ok %t reverted %t %s", t.id, o.Turn, o.OK, o.Reverted, o.Text)
}
