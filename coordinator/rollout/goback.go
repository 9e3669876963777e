package rollout

import (
	"fmt"
	"strings"
)

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
			m.note(r, t, NoteReturned, "", "%s is back", t.Place())
			if t.Proved(r.From) {
				m.rest(t, TargetReverted)
				t.Release = r.From
			} else {
				m.rest(t, TargetReverting)
			}
		}
		if t.Phase == TargetWaiting && m.present(t) && m.down(t) {
			// It would catch up when this is over, and until then keeps others from leaving.
			m.rest(t, TargetReverting)
			m.note(r, t, NoteReturned, "", "%s is out of rotation as it is, and is brought to %s, too", t.Place(), a.short(r.From))
		}
		if m.strayed(t, r.From) {
			m.rest(t, TargetReverting)
			m.note(r, t, NoteLost, "", "%s does not run %s any more", t.Place(), a.short(r.From))
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
