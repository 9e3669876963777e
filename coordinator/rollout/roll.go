package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// settleRolling gives turns, judges what is active, and sees the end.
func (m *machine) settleRolling(a *App) {
	r := a.Live
	done, active := true, 0
	for _, t := range m.targets(r) {
		m.settleReturned(a, t)
		switch t.Phase {
		case TargetActive:
			if t.Turn == 0 && t.Seen.Known && t.Seen.Release == r.Release && t.Seen.Health == Unhealthy && r.Kind == Deploy {
				text := fmt.Sprintf("%s became unhealthy on %s", t.Place(), a.short(r.Release))
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
		m.note(r, t, NoteReturned, "", "%s is back", t.Place())
	}
	if m.strayed(t, r.Release) {
		m.rest(t, TargetPreparing)
		m.prepare(t, r.Release)
		m.note(r, t, NoteLost, "", "%s no longer runs %s, and activates it again", t.Place(), a.short(r.Release))
	}
	m.settlePrepare(a, t)
}

// holds tells whether the release is on the disk of the target's node.
func (m *machine) holds(t *Target, id ReleaseID) bool {
	return m.held(m.Placement(t.App, t.Node), id)
}

// left names the targets that the rollout ends without.
func (m *machine) left(r *Rollout) []string {
	var out []string
	for _, t := range m.targets(r) {
		switch {
		case t.Phase == TargetQuarantined:
			out = append(out, fmt.Sprintf("%s is quarantined: %s", t.Place(), t.Text))
		case t.Phase == TargetUnreachable:
			out = append(out, t.Place()+" is unreachable")
		case r.Status == RollingBack && t.Phase != TargetReverted && (!m.present(t) || !t.Proved(r.From)):
			out = append(out, fmt.Sprintf("%s was not touched, but is not proved on it", t.Place()))
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
		var places []string
		for _, t := range m.targets(r) {
			places = append(places, t.Place())
		}
		text = fmt.Sprintf("%s caught up with %s", strings.Join(places, ", "), a.short(r.Release))
	case len(r.Order) == 1:
		text = fmt.Sprintf("%s serves on the only target", a.short(r.Release))
	case len(out) > 0:
		text = fmt.Sprintf("%s serves on %d of %d targets; %s", a.short(r.Release), active, len(r.Order), strings.Join(out, "; "))
	}
	m.finish(a, Succeeded, "", text)
}

// checkDeadlines pauses the live rollout when time ran out for it.
func (m *machine) checkDeadlines(a *App) {
	r := a.Live
	for _, t := range m.targets(r) {
		if t.Turn != 0 && !t.TurnBy.IsZero() && !m.now.Before(t.TurnBy) {
			t.TurnBy = time.Time{}
			m.pause(r, "lockstep", ReasonTargetDeadline, fmt.Sprintf("%s did not finish its turn in %s; it may be out of rotation", t.Place(), a.Policy.TargetTimeout))
		}
	}
	if r.Paused != nil || m.now.Before(r.Deadline) || m.checkCommand(a) {
		return
	}
	for i := range m.Targets {
		o := &m.Targets[i]
		if l := m.App(o.App).Live; o.App != a.Name && o.Turn != 0 && l != nil && l.Paused == nil {
			// It waits for another app of the pool, which has deadlines of its own.
			r.Deadline = m.now.Add(a.timeout(r))
			return
		}
	}
	if r.Status == Preparing || r.Status == Migrating {
		var late []string
		for _, t := range m.targets(r) {
			if t.Phase != TargetPrepared && !slices.Contains(late, t.Node) {
				late = append(late, t.Node)
			}
		}
		m.pause(r, "lockstep", ReasonPrepareDeadline, fmt.Sprintf("not prepared in %s on %s", a.Policy.PrepareTimeout, strings.Join(late, ", ")))
		return
	}
	text := fmt.Sprintf("no target made progress in %s", a.Policy.ProgressTimeout)
	if r.Blocked != "" {
		text += ": " + r.Blocked
	} else if names := m.unproved(r); len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	m.pause(r, "lockstep", ReasonProgressDeadline, text)
}

// unproved says of the targets whose turn went well why they are not proved.
func (m *machine) unproved(r *Rollout) []string {
	goal := r.Release
	if r.Status == RollingBack {
		goal = r.From
	}
	var names []string
	for _, t := range m.targets(r) {
		switch {
		case t.Phase != TargetActive && t.Phase != TargetReverted, t.Proved(goal) && m.present(t):
		case m.down(t):
			names = append(names, m.whyDown(t))
		case t.Seen.Release == "":
			names = append(names, fmt.Sprintf("%s runs from no release, by another hand (`deployctl retry %s` takes it back)", t.ID, t.App))
		default:
			names = append(names, fmt.Sprintf("%s runs %s", t.ID, m.App(t.App).short(t.Seen.Release)))
		}
	}
	return names
}
