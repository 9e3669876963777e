package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// settlePreparing waits until every node that can be reached holds the release.
// Nothing is drained before.
func (m *machine) settlePreparing(a *App) {
	r := a.Live
	ready, waiting := 0, 0
	for _, t := range m.targets(r) {
		switch m.settlePrepare(a, t); {
		case a.Live == nil:
			return // it failed
		case t.Phase == TargetPrepared:
			ready++
		case t.Phase == TargetPreparing:
			waiting++
		}
	}
	if waiting == 0 && ready == 0 && r.Kind == CatchUp {
		m.finish(a, Failed, ReasonNodeFault, "nothing could catch up: "+strings.Join(m.left(r), "; "))
		return
	}
	if waiting > 0 || ready == 0 || r.Paused != nil {
		return
	}
	m.status(r, Rolling, "", "")
	r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
	m.settleRolling(a)
}

// settlePrepare follows one target's node in fetching and building.
func (m *machine) settlePrepare(a *App, t *Target) {
	r := a.Live
	p := m.Placement(t.App, t.Node)
	switch {
	case t.Phase == TargetUnreachable && m.present(t):
		m.rest(t, TargetPreparing)
	case t.Phase == TargetPreparing && m.Node(t.Node).Reach == Unreachable:
		m.rest(t, TargetUnreachable)
		t.Reason, t.Text = ReasonUnreachable, "its agent is not heard of"
		m.note(r, t, NoteLost, ReasonUnreachable, "%s cannot be reached; it catches up when it returns", t.Node)
	}
	if t.Phase == TargetPrepared && !m.holds(t, r.Release) {
		m.rest(t, TargetPreparing) // the node has lost it
	}
	if t.Phase != TargetPreparing {
		return
	}
	// What a node held before it knew that it is to hold it is no proof.
	if p.Accepted >= p.Asked && m.holds(t, r.Release) {
		m.rest(t, TargetPrepared)
		m.note(r, t, NotePrepared, "", "%s is prepared on %s", a.short(r.Release), t.Node)
		return
	}
	m.retryPrepare(a, p)
}

// retryPrepare asks again for what failed, when its time has come.
func (m *machine) retryPrepare(a *App, p *Placement) {
	if p.Failed == p.Attempt && p.Tries <= a.Policy.Retries && !m.now.Before(p.RetryAt) && a.Live.Paused == nil {
		p.Attempt++
		p.RetryAt = time.Time{}
	}
}

// prepareFailed judges a failed attempt to prepare.
func (m *machine) prepareFailed(a *App, p *Placement, f *PrepareReport) {
	r := a.Live
	p.Failed = f.Attempt
	p.Tries++
	if r == nil {
		return
	}
	var t *Target
	for _, x := range m.targets(r) {
		if x.Node == p.Node {
			t = x
		}
	}
	if t == nil || (t.Phase != TargetPreparing && t.Phase != TargetReverting) {
		return
	}
	t.Reason, t.Text = f.Reason, f.Text
	m.note(r, t, NoteFailed, f.Reason, "cannot prepare %s on %s: %s", a.short(p.Prepare), p.Node, f.Text)
	switch {
	case r.Kind == CatchUp && (f.Fault == ReleaseFault || p.Tries > a.Policy.Retries):
		m.quarantine(a, t)
	case f.Fault == ReleaseFault && r.Status == Preparing:
		if r.Kind == Deploy {
			m.markBad(a, r, r.Release, "lockstep", f.Reason, f.Text)
		}
		m.finish(a, Failed, f.Reason, fmt.Sprintf("cannot prepare %s on %s: %s; nothing was touched", a.short(r.Release), p.Node, f.Text))
	case p.Tries <= a.Policy.Retries:
		p.RetryAt = m.now.Add(a.Policy.RetryBackoff * time.Duration(p.Tries))
		m.note(r, t, NoteRetry, f.Reason, "%s tries again in %s", p.Node, p.RetryAt.Sub(m.now))
	default:
		m.pause(r, "lockstep", ReasonNodeFault, fmt.Sprintf("cannot prepare %s on %s: %s; mend the node, then `deployctl retry %s`", a.short(p.Prepare), p.Node, f.Text, a.Name))
	}
}

// settleRolling gives turns, judges what is active, and sees the end.
func (m *machine) settleRolling(a *App) {
	r := a.Live
	done, active := true, 0
	for _, t := range m.targets(r) {
		m.settleReturned(a, t)
		switch t.Phase {
		case TargetActive:
			if t.Turn == 0 && t.Seen.Known && t.Seen.Release == r.Release && t.Seen.Health == Unhealthy && r.Kind == Deploy {
				text := fmt.Sprintf("%s became unhealthy on %s", t.Node, a.short(r.Release))
				if a.Policy.AutoRollback {
					m.condemn(a, "unhealthy", text)
				} else {
					m.pause(r, "lockstep", "unhealthy", text+rollBackHint(a))
				}
				return
			}
			active++
			done = done && t.Turn == 0 && m.present(t) && t.Proved(r.Release)
		case TargetQuarantined, TargetUnreachable:
		default:
			done = false
		}
	}
	switch {
	case done && active == 0:
		m.finish(a, Failed, ReasonCapacity, "no target could go on: "+strings.Join(m.left(r), "; "))
	case done:
		m.succeed(a, active, m.left(r))
	case r.Paused == nil:
		m.giveTurns(a)
	}
}

// settleReturned lets a target whose node was lost take part again.
func (m *machine) settleReturned(a *App, t *Target) {
	r := a.Live
	if t.Phase == TargetUnreachable && m.present(t) && t.Turn == 0 {
		if t.Proved(r.Release) {
			m.rest(t, TargetActive)
			t.Release = r.Release
		} else {
			m.rest(t, TargetPreparing)
			m.prepare(t, r.Release)
		}
		m.note(r, t, NoteReturned, "", "%s is back", t.Node)
	}
	if m.strayed(t, r.Release) {
		m.rest(t, TargetPreparing)
		m.prepare(t, r.Release)
		m.note(r, t, NoteLost, "", "%s no longer runs %s, and activates it again", t.Node, a.short(r.Release))
	}
	m.settlePrepare(a, t)
}

// holds tells whether the release is on the disk of the target's node.
func (m *machine) holds(t *Target, id ReleaseID) bool {
	return slices.Contains(m.Placement(t.App, t.Node).Present, id)
}

// left names the targets that the rollout ends without.
func (m *machine) left(r *Rollout) []string {
	var out []string
	for _, t := range m.targets(r) {
		switch {
		case t.Phase == TargetQuarantined:
			out = append(out, fmt.Sprintf("%s is quarantined: %s", t.Node, t.Text))
		case t.Phase == TargetUnreachable:
			out = append(out, t.Node+" is unreachable")
		case r.Status == RollingBack && t.Phase != TargetReverted && (!m.present(t) || !t.Proved(r.From)):
			out = append(out, fmt.Sprintf("%s was not touched, but is not proved on it", t.Node))
		}
	}
	return out
}

func (m *machine) succeed(a *App, active int, out []string) {
	r := a.Live
	if r.Kind == CatchUp && len(out) > 0 {
		m.finish(a, Failed, ReasonNodeFault, strings.Join(out, "; "))
		return
	}
	a.Current = r.Release
	if r.Kind == Deploy {
		a.moveLast(r.Release)
	}
	text := fmt.Sprintf("%s serves on all %d targets", a.short(r.Release), active)
	switch {
	case r.Kind == CatchUp:
		var nodes []string
		for _, t := range m.targets(r) {
			nodes = append(nodes, t.Node)
		}
		text = fmt.Sprintf("%s caught up with %s", strings.Join(nodes, ", "), a.short(r.Release))
	case len(r.Order) == 1:
		text = fmt.Sprintf("%s serves on the only target", a.short(r.Release))
	case len(out) > 0:
		text = fmt.Sprintf("%s serves on %d of %d targets; %s", a.short(r.Release), active, len(r.Order), strings.Join(out, "; "))
	}
	m.finish(a, Succeeded, "", text)
}

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
		why := m.mayLeave(t)
		if r.Status == RollingBack && !m.holds(t, r.From) {
			m.retryPrepare(a, m.Placement(t.App, t.Node))
			why = fmt.Sprintf("%s no longer has %s and prepares it again", t.Node, a.short(r.From))
		}
		if why != "" {
			if blocked == "" {
				blocked = why
			}
			continue
		}
		m.giveTurn(a, t)
		pending, blocked = true, ""
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
	return ts
}

// mayLeave tells why the target may not be out of rotation now, or "".
func (m *machine) mayLeave(t *Target) string {
	if !m.present(t) {
		return t.Node + " has not been heard of"
	}
	turns, others := 0, 0
	var names []string
	for i := range m.Targets {
		o := &m.Targets[i]
		if o.Turn != 0 {
			turns++
		}
		if o.ID != t.ID && m.down(o) {
			others++
			names = append(names, m.whyDown(o))
		}
	}
	switch {
	case turns >= m.MaxUnavailable:
		return strings.Join(names, ", ")
	case !t.InService || t.Seen.out():
		return "" // it is out as it is: the pool loses nothing
	case others+1 > m.MaxUnavailable:
		return strings.Join(names, ", ")
	}
	return ""
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
		m.note(r, t, NoteTurn, "", "%s returns to %s", t.Node, a.short(t.Release))
		return
	}
	t.Phase = TargetActivating
	t.Release, t.Fallback, t.Soak = r.Release, r.From, a.Policy.Soak
	if r.Kind != Deploy {
		t.Fallback = ""
		if t.Seen.Rotation == RotationIn && t.Seen.Release != r.Release {
			t.Fallback = t.Seen.Release
		}
	} else if t.Node == a.Policy.Canary {
		t.Soak = max(t.Soak, a.Policy.CanarySoak)
	}
	m.note(r, t, NoteTurn, "", "%s activates %s", t.Node, a.short(t.Release))
}

// finishTurn takes the outcome of the turn that the target holds.
func (m *machine) finishTurn(a *App, t *Target, o *Outcome) {
	goal := t.Release
	t.Turn, t.TurnBy = 0, time.Time{}
	if !o.OK && o.Reverted {
		t.Release = t.Seen.Release
	}
	r := a.Live
	mine := r != nil && slices.Contains(r.Order, t.ID) && (t.Phase == TargetActivating || t.Phase == TargetReverting)
	if o.OK {
		t.InService = true
	}
	switch {
	case !mine && o.OK:
		if t.Phase == TargetActivating || t.Phase == TargetReverting {
			m.rest(t, TargetActive)
		}
	case !mine:
		if t.Phase == TargetActivating || t.Phase == TargetReverting {
			if o.Reverted {
				m.rest(t, TargetWaiting)
				return
			}
			t.Phase, t.Reason, t.Text = TargetQuarantined, o.Reason, o.Text
			m.note(a.Last, t, NoteQuarantined, o.Reason, "%s is left for a person: %s", t.Node, o.Text)
		}
	case o.OK:
		r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
		if r.Status == RollingBack {
			m.rest(t, TargetReverted)
			m.note(r, t, NoteReverted, "", "%s is back on %s, in rotation%s", t.Node, a.short(goal), inBrackets(o.Text))
		} else {
			m.rest(t, TargetActive)
			m.note(r, t, NoteActive, "", "%s serves %s, in rotation%s", t.Node, a.short(goal), inBrackets(o.Text))
		}
	default:
		t.Reason, t.Text = o.Reason, o.Text
		m.note(r, t, NoteFailed, o.Reason, "%s on %s: %s", a.short(goal), t.Node, o.Text)
		m.turnFailed(a, t, o)
	}
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
		m.condemn(a, o.Reason, fmt.Sprintf("%s failed on %s: %s", a.short(r.Release), t.Node, o.Text))
		return
	}
	t.Tries++
	if o.Fault == ReleaseFault {
		t.Tries = a.Policy.Retries + 1 // trying the same again proves nothing
	}
	if t.Tries <= a.Policy.Retries {
		t.RetryAt = m.now.Add(a.Policy.RetryBackoff * time.Duration(t.Tries))
		if r.Status == Rolling {
			t.Phase = TargetPrepared
		}
		m.note(r, t, NoteRetry, o.Reason, "%s tries again in %s", t.Node, t.RetryAt.Sub(m.now))
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
		m.pause(r, "lockstep", o.Reason, fmt.Sprintf("%s failed on %s: %s", a.short(r.Release), t.Node, o.Text)+rollBackHint(a))
		return
	}
	m.pause(r, "lockstep", ReasonNodeFault, fmt.Sprintf("%s still serves %s: %s; mend it, then `deployctl retry %s`", t.Node, a.short(t.Release), o.Text, a.Name))
}

func rollBackHint(a *App) string {
	return fmt.Sprintf("; `deployctl abort %s` rolls back, `deployctl retry %s` tries again", a.Name, a.Name)
}

// quarantine leaves a target for a person, with the reason that it carries.
func (m *machine) quarantine(a *App, t *Target) {
	t.Phase, t.RetryAt = TargetQuarantined, time.Time{}
	m.note(a.Live, t, NoteQuarantined, t.Reason, "%s is left for a person: %s; mend it, then `deployctl retry %s`", t.Node, t.Text, a.Name)
}

// condemn ends the attempt to deploy the live rollout's release.
func (m *machine) condemn(a *App, reason Reason, text string) {
	r := a.Live
	m.markBad(a, r, r.Release, "lockstep", reason, text)
	if r.From == "" {
		m.finish(a, Failed, reason, text+"; there is no stable release to return to")
		return
	}
	m.startReturn(a, RolledBack, reason, text)
}

// startReturn rolls everything that the live rollout touched back to the
// release it came from.
func (m *machine) startReturn(a *App, ending Status, reason Reason, text string) {
	r := a.Live
	r.Ending, r.Paused = ending, nil
	m.status(r, RollingBack, reason, fmt.Sprintf("%s; rolling back to %s", text, a.short(r.From)))
	r.Text = text
	r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
	for _, t := range m.targets(r) {
		m.prepare(t, r.From)
		switch t.Phase {
		case TargetActivating:
			// The turn that is out is turned round; it stays the same leave.
			m.rest(t, TargetReverting)
			if t.Turn != 0 {
				m.giveTurn(a, t)
			}
		case TargetActive, TargetQuarantined:
			m.rest(t, TargetReverting)
		case TargetReverted:
			if t.Seen.Release != r.From {
				m.rest(t, TargetReverting)
			}
		case TargetPreparing, TargetPrepared:
			switch {
			case t.Before != nil && (t.Release == r.From || t.Release == ""):
				m.restUntouched(a, t)
			case t.Proved(r.From):
				m.rest(t, TargetReverted) // a turn failed here and was undone
			default:
				m.rest(t, TargetReverting) // left out, or on another release before
			}
		}
	}
}

// settleReturn gives turns back to the stable release and sees the end.
func (m *machine) settleReturn(a *App) {
	r := a.Live
	done := true
	for _, t := range m.targets(r) {
		if t.Phase == TargetUnreachable && m.present(t) && t.Turn == 0 {
			m.note(r, t, NoteReturned, "", "%s is back", t.Node)
			if t.Proved(r.From) {
				m.rest(t, TargetReverted)
				t.Release = r.From
			} else {
				m.rest(t, TargetReverting)
			}
		}
		if m.strayed(t, r.From) {
			m.rest(t, TargetReverting)
			m.note(r, t, NoteLost, "", "%s does not run %s any more", t.Node, a.short(r.From))
		}
		switch t.Phase {
		case TargetReverting:
			done = false
		case TargetReverted:
			done = done && t.Turn == 0 && m.present(t) && t.Proved(r.From)
		}
	}
	switch {
	case done:
		a.Current = r.From
		text := r.Text + fmt.Sprintf("; %s serves again", a.short(r.From))
		if out := m.left(r); len(out) > 0 {
			text += "; " + strings.Join(out, "; ")
		}
		for _, t := range m.targets(r) {
			if t.Phase == TargetActive && !t.Proved(r.From) {
				m.rest(t, TargetWaiting) // it catches up
			}
		}
		m.finish(a, r.Ending, r.Reason, text)
	case r.Paused == nil || r.alarmed():
		m.giveTurns(a)
	}
}

// alarmed tells whether the rollout is a return that is paused only because it
// took too long. It goes on by itself as soon as it can: a bad release is not
// left to serve until a person looks.
func (r *Rollout) alarmed() bool {
	return r.Status == RollingBack && r.Paused != nil &&
		(r.Paused.Reason == ReasonProgressDeadline || r.Paused.Reason == ReasonTargetDeadline)
}

// checkDeadlines pauses the live rollout when time ran out for it.
func (m *machine) checkDeadlines(a *App) {
	r := a.Live
	for _, t := range m.targets(r) {
		if t.Turn != 0 && !t.TurnBy.IsZero() && !m.now.Before(t.TurnBy) {
			t.TurnBy = time.Time{}
			m.pause(r, "lockstep", ReasonTargetDeadline, fmt.Sprintf("%s did not finish its turn in %s; it may be out of rotation", t.Node, a.Policy.TargetTimeout))
		}
	}
	if r.Paused != nil || m.now.Before(r.Deadline) {
		return
	}
	for i := range m.Targets {
		o := &m.Targets[i]
		if l := m.App(o.App).Live; o.App != a.Name && o.Turn != 0 && l != nil && l.Paused == nil {
			// It waits for another app of the pool, which has deadlines of its own.
			r.Deadline = m.now.Add(a.Policy.timeout(r.Status))
			return
		}
	}
	if r.Status == Preparing {
		var late []string
		for _, t := range m.targets(r) {
			if t.Phase != TargetPrepared {
				late = append(late, t.Node)
			}
		}
		m.pause(r, "lockstep", ReasonPrepareDeadline, fmt.Sprintf("not prepared in %s on %s", a.Policy.PrepareTimeout, strings.Join(late, ", ")))
		return
	}
	text := fmt.Sprintf("no target made progress in %s", a.Policy.ProgressTimeout)
	if r.Blocked != "" {
		text += ": " + r.Blocked
	}
	m.pause(r, "lockstep", ReasonProgressDeadline, text)
}
