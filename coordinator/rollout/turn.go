package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// giveTurns gives every turn that may be given to the live rollout's targets.
func (m *machine) giveTurns(a *App) {
	r := a.Live
	blocked, pending := "", false
	for _, t := range m.candidates(r) {
		if t.Turn != 0 {
			pending = true
			continue
		}
		if m.now.Before(t.RetryAt) {
			pending = true
			continue
		}
		t.RetryAt = time.Time{}
		if t.Tries > a.Policy.Retries {
			continue
		}
		may := m.mayLeave(t)
		var others []string // that it waits for
		if may {
			others = m.before(r, t)
		}
		lacks := r.Status == RollingBack && !m.holds(t, r.From)
		if lacks {
			m.retryPrepare(a, m.Placement(t.App, t.Node))
		}
		switch {
		case may && len(others) == 0 && !lacks:
			m.giveTurn(a, t)
			pending, blocked = true, ""
		case blocked != "":
		case lacks:
			blocked = fmt.Sprintf("%s no longer has %s and prepares it again", t.Node, a.short(r.From))
		case !may:
			blocked = m.whyNot(t)
		default:
			blocked = fmt.Sprintf("%s asks to be last and waits for %s", t.Place(), strings.Join(others, ", "))
		}
	}
	if pending {
		blocked = ""
	}
	if blocked != "" && blocked != r.Blocked {
		m.note(r, nil, NoteBlocked, ReasonCapacity, "waiting: %s", blocked)
	}
	r.Blocked = blocked
}

// candidates are the targets that still need a turn, in the order of giving.
func (m *machine) candidates(r *Rollout) []*Target {
	var ts []*Target
	for _, t := range m.targets(r) {
		switch t.Phase {
		case TargetActivating, TargetReverting:
			ts = append(ts, t)
		case TargetPrepared:
			if r.Status == Rolling {
				ts = append(ts, t)
			}
		}
	}
	if r.Status == RollingBack {
		// What is out anyway first, then what was updated last.
		slices.Reverse(ts)
		slices.SortStableFunc(ts, func(x, y *Target) int {
			switch dx, dy := m.down(x), m.down(y); {
			case dx && !dy:
				return -1
			case dy && !dx:
				return 1
			}
			return 0
		})
	}
	// Those that ask to be last come after all others, canary or not.
	slices.SortStableFunc(ts, func(x, y *Target) int {
		switch lx, ly := m.last(x), m.last(y); {
		case ly && !lx:
			return -1
		case lx && !ly:
			return 1
		}
		return 0
	})
	return ts
}

// last tells whether the target asks to leave after all others. One that does
// not serve has nothing to keep, and may be what the others wait for.
func (m *machine) last(t *Target) bool { return t.Seen.Last && t.InService && !m.down(t) }

// before names the rollout's targets that a target which asks to be last waits
// for: all others that are still to go or on their way, unless they are lost.
func (m *machine) before(r *Rollout, t *Target) []string {
	if !m.last(t) {
		return nil
	}
	var names []string
	for _, o := range m.targets(r) {
		switch o.Phase {
		case TargetPreparing, TargetPrepared, TargetActivating, TargetReverting:
			if o.ID != t.ID && !m.last(o) && m.Node(o.Node).Reach != Unreachable {
				names = append(names, o.Place())
			}
		}
	}
	return names
}

// mayLeave tells whether the target may be out of rotation now.
func (m *machine) mayLeave(t *Target) bool {
	if !m.present(t) {
		return false
	}
	turns, others := 0, 0
	for i := range m.Targets {
		o := &m.Targets[i]
		if o.Turn != 0 {
			turns++
		}
		if o.ID != t.ID && m.down(o) {
			others++
		}
	}
	switch {
	case turns >= m.MaxUnavailable:
		return false
	case !t.InService || t.Seen.out():
		return true // it is out as it is: the pool loses nothing
	case others+1 > m.MaxUnavailable:
		return false
	}
	return true
}

// whyNot tells why the target may not be out of rotation now.
func (m *machine) whyNot(t *Target) string {
	if !m.present(t) {
		return t.Node + " has not been heard of"
	}
	return m.othersDown(t)
}

// othersDown names the other targets that are out, and why.
func (m *machine) othersDown(t *Target) string {
	var names []string
	for i := range m.Targets {
		if o := &m.Targets[i]; o.ID != t.ID && m.down(o) {
			names = append(names, m.whyDown(o))
		}
	}
	return strings.Join(names, ", ")
}

func (m *machine) whyDown(t *Target) string {
	n := m.Node(t.Node)
	switch {
	case t.Turn != 0:
		return fmt.Sprintf("%s holds the turn", t.ID)
	case n == nil || n.Reach == Unreachable:
		return fmt.Sprintf("%s is unreachable", t.ID)
	case n.Reach != Reachable || !t.Seen.Known:
		return fmt.Sprintf("%s has not reported yet", t.ID)
	case t.Seen.Health == Unhealthy:
		return fmt.Sprintf("%s is unhealthy", t.ID)
	}
	return fmt.Sprintf("%s is not in rotation (%s)", t.ID, t.Seen.Rotation)
}

// giveTurn gives the target leave to be out of rotation until its agent
// reports an outcome.
func (m *machine) giveTurn(a *App, t *Target) {
	r := a.Live
	m.LastTurn++
	t.Turn, t.TurnBy, t.Before = m.LastTurn, m.now.Add(a.Policy.TargetTimeout), nil
	r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
	if r.alarmed() {
		m.unpause(a, r, "lockstep")
	}
	if r.Status == RollingBack {
		// Never undone: what cannot return stays out, quarantined.
		t.Release, t.Fallback, t.Soak = r.From, "", 0
		m.note(r, t, NoteTurn, "", "%s returns to %s", t.Place(), a.short(t.Release))
		return
	}
	t.Phase = TargetActivating
	t.Release, t.Fallback, t.Soak = r.Release, r.From, a.Policy.Soak
	if r.Kind != Deploy {
		t.Fallback = ""
		if t.Seen.Rotation == RotationIn && t.Seen.Release != r.Release {
			t.Fallback = t.Seen.Release
		}
	} else if t.ID == m.canary(a) {
		t.Soak = max(t.Soak, a.Policy.CanarySoak)
	}
	m.note(r, t, NoteTurn, "", "%s activates %s", t.Place(), a.short(t.Release))
}

// finishTurn takes the outcome of the turn that the target holds.
func (m *machine) finishTurn(a *App, t *Target, o *Outcome) {
	goal := t.Release
	t.Turn, t.TurnBy = 0, time.Time{}
	if !o.OK && o.Reverted {
		t.Release = t.Seen.Release
	}
	r := a.Live
	turning := t.Phase == TargetActivating || t.Phase == TargetReverting
	live := r != nil && slices.Contains(r.Order, t.ID)
	if o.OK {
		t.InService = true
	}
	switch {
	case live && turning:
		m.judgeTurn(a, t, goal, o)
	case o.OK && turning:
		m.rest(t, TargetActive)
	case o.OK:
	case o.Reverted && turning:
		m.rest(t, TargetWaiting)
	case o.Reverted:
	case live:
		// The turn was of a rollout before this one, which brings it back, or else
		// leaves it as that would have.
		t.Before = &Standing{Phase: TargetQuarantined, Reason: o.Reason, Text: o.Text}
		m.note(r, t, NoteFailed, o.Reason, "%s on %s: %s", a.short(goal), t.Place(), o.Text)
	default:
		t.Phase, t.Reason, t.Text = TargetQuarantined, o.Reason, o.Text
		m.note(a.Last, t, NoteQuarantined, o.Reason, "%s is left for a person: %s", t.Place(), o.Text)
	}
}

// finishForgotten takes the outcome of a turn that went with its target when that was
// taken out of the configuration. One that is configured again may have been seen to
// serve while its agent still worked on it, and is out by now.
func (m *machine) finishForgotten(a *App, t *Target, o *Outcome) {
	left := t.Phase == TargetActive || t.Phase == TargetReverted
	live := a.Live != nil && slices.Contains(a.Live.Order, t.ID) // which does not end before it is proved
	if !o.OK && !o.Reverted && t.Turn == 0 && left && !live && t.Seen.Rotation != RotationIn {
		m.rest(t, TargetWaiting) // it catches up
	}
}

// judgeTurn takes the outcome of a turn that the live rollout gave.
func (m *machine) judgeTurn(a *App, t *Target, goal ReleaseID, o *Outcome) {
	r := a.Live
	if !o.OK {
		t.Reason, t.Text = o.Reason, o.Text
		m.note(r, t, NoteFailed, o.Reason, "%s on %s: %s", a.short(goal), t.Place(), o.Text)
		m.turnFailed(a, t, o)
		return
	}
	r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
	if r.Status == RollingBack {
		m.rest(t, TargetReverted)
		m.note(r, t, NoteReverted, "", "%s is back on %s, in rotation%s", t.Place(), a.short(goal), inBrackets(o.Text))
		return
	}
	m.rest(t, TargetActive)
	m.note(r, t, NoteActive, "", "%s serves %s, in rotation%s", t.Place(), a.short(goal), inBrackets(o.Text))
}

// turnFailed decides what a failed turn of the live rollout condemns.
func (m *machine) turnFailed(a *App, t *Target, o *Outcome) {
	r := a.Live
	if r.Status == Rolling && r.Kind == Deploy && o.Fault == ReleaseFault && a.Policy.AutoRollback {
		switch {
		case o.Reverted:
			t.Phase = TargetReverted
		case r.From == "":
			m.quarantine(a, t)
		} // else it is returned first of all, for it is out as it is
		m.condemn(a, o.Reason, fmt.Sprintf("%s failed on %s: %s", a.short(r.Release), t.Place(), o.Text))
		return
	}
	t.Tries++
	// Trying the same again proves nothing, save for a hook on the way back: it is of a
	// release that has served, and depends on more than that.
	if o.Fault == ReleaseFault && !(r.Status == RollingBack && o.Reason == ReasonHookFailed) {
		t.Tries = a.Policy.Retries + 1
	}
	if t.Tries <= a.Policy.Retries {
		t.RetryAt = m.now.Add(a.Policy.RetryBackoff * time.Duration(t.Tries))
		if r.Status == Rolling {
			t.Phase = TargetPrepared
		}
		m.note(r, t, NoteRetry, o.Reason, "%s tries again in %s", t.Place(), t.RetryAt.Sub(m.now))
		return
	}
	switch {
	case !o.Reverted || r.Kind == CatchUp:
		m.quarantine(a, t)
		if o.Fault != ReleaseFault || r.Status != Rolling || r.Kind != Deploy {
			return // the others may go on
		}
	case r.Status == Rolling:
		// It still serves what it served: going on would leave it behind.
		t.Phase = TargetPrepared
	}
	if o.Fault == ReleaseFault && r.Kind == Deploy {
		m.pause(r, "lockstep", o.Reason, fmt.Sprintf("%s failed on %s: %s", a.short(r.Release), t.Place(), o.Text)+rollBackHint(a))
		return
	}
	m.pause(r, "lockstep", ReasonNodeFault, fmt.Sprintf("%s still serves %s: %s; mend it, then `deployctl retry %s`", t.Place(), a.short(t.Release), o.Text, a.Name))
}

func rollBackHint(a *App) string {
	return fmt.Sprintf("; `deployctl abort %s` rolls back, `deployctl retry %s` tries again", a.Name, a.Name)
}

// quarantine leaves a target for a person, with the reason that it carries.
func (m *machine) quarantine(a *App, t *Target) {
	t.Phase, t.RetryAt = TargetQuarantined, time.Time{}
	m.note(a.Live, t, NoteQuarantined, t.Reason, "%s is left for a person: %s; mend it, then `deployctl retry %s`", t.Place(), t.Text, a.Name)
}
