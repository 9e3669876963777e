package sim

import (
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// hooks are those of a commit.
type hooks struct {
	At    uint // which of [hookSteps] it has, as a bit set
	Fails step // the one that fails where the commit is bad, "" for none
	Hangs bool // it does so by not ending
}

// hookSteps are the steps of a turn that are hooks, on the way there.
var hookSteps = []step{stepBeforeDrain, stepAfterDrain, stepBeforeRejoin, stepAfterRejoin}

// hookLimit is how long a hook may take.
const hookLimit = 15 * time.Second

// hookRun is a hook that runs.
type hookRun struct {
	turn   uint64
	step   step
	ends   time.Duration
	failed bool
}

// hook is the name of the hook that the step is, "" if it is none.
func (s step) hook() step {
	switch s {
	case undoBeforeRejoin:
		return stepBeforeRejoin
	case undoAfterRejoin:
		return stepAfterRejoin
	}
	if slices.Contains(hookSteps, s) {
		return s
	}
	return ""
}

func (h hooks) has(s step) bool {
	i := slices.Index(hookSteps, s.hook())
	return i >= 0 && h.At&(1<<i) != 0
}

func (h hooks) String() string {
	s := ""
	for _, k := range hookSteps {
		if h.has(k) {
			s += ", " + string(k)
			if h.Fails == k {
				s += " (which fails)"
			}
		}
	}
	if h.Hangs {
		s += ", by hanging"
	}
	return s
}

// next is the step after s, without the hooks that the release which the turn is
// on its way to does not have.
func (a *agent) next(t *target, s step) step {
	wk := a.journal.targets[t.k].work
	id := wk.release
	if wk.undo {
		id = wk.fallback
	}
	c := a.n.w.commit(t.app, id)
	for s = next(s); s.hook() != "" && (c == nil || !c.hooks.has(s)); {
		s = next(s)
	}
	return s
}

// beginHook begins the hook that the step is, or goes on with one that an agent
// before this one began, and returns how long it still takes.
func (a *agent) beginHook(t *target, s step) time.Duration {
	wk, w := a.journal.targets[t.k].work, a.n.w
	if r := t.hook; r != nil && r.turn == wk.turn && r.step == s {
		return max(0, r.ends-w.now)
	}
	id := wk.release
	if wk.undo {
		id = wk.fallback
	}
	c, d := w.commit(t.app, id), w.between(200*time.Millisecond, 8*time.Second)
	bad := c.hooks.Fails == s.hook() && c.on&(1<<a.n.index) != 0
	hangs := (bad && c.hooks.Hangs) || w.now < a.n.hooksHang
	if hangs {
		d = hookLimit
	}
	t.hook = &hookRun{turn: wk.turn, step: s, ends: w.now + d, failed: bad || hangs || w.now < a.n.hooksFail}
	return d
}

// endHook is what a turn makes of its hook: one that fails when the target serves
// the new release already, or on the way back, changes nothing.
func (a *agent) endHook(t *target, s step) step {
	wk, r := a.journal.targets[t.k].work, t.hook
	t.hook = nil
	if r != nil && r.failed && !wk.undo && s != stepAfterRejoin {
		return a.undo(t, rollout.ReleaseFault, "hook_failed", "the hook "+string(s)+" failed")
	}
	return a.next(t, s)
}
