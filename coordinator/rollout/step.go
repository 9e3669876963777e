package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// maxReleases bounds what an app remembers; releases in use are never forgotten.
const maxReleases = 100

// Step applies one event. It returns the state after it and what is to be done
// once that state is stored. On an error, which is a [*Refused] when the event
// was a request, the state is returned as it was and there are no effects.
func Step(s State, ev Event) (State, []Effect, error) {
	m := &machine{State: s.clone(), now: ev.at()}
	if m.now.Before(s.Now) {
		m.now = s.Now
	}
	m.Now = m.now
	if err := ev.apply(m); err != nil {
		return s, nil, err
	}
	m.settle()
	m.forgetPast()
	return m.State, m.finishEffects(&s), nil
}

// machine is one step under way.
type machine struct {
	State
	now   time.Time
	notes []Effect
	gone  []Changed // rollouts that ended in this step
}

func (m *machine) note(r *Rollout, t *Target, kind Note, reason Reason, format string, a ...any) {
	n := Noted{At: m.now, Kind: kind, Reason: reason, Text: fmt.Sprintf(format, a...)}
	if r != nil {
		n.Rollout, n.App = r.ID, r.App
	}
	if t != nil {
		n.Target, n.App = t.ID, t.App
	}
	m.notes = append(m.notes, n)
}

// noteApp records what concerns an app but none of its rollouts.
func (m *machine) noteApp(a *App, kind Note, reason Reason, format string, args ...any) {
	m.notes = append(m.notes, Noted{At: m.now, App: a.Name, Kind: kind, Reason: reason, Text: fmt.Sprintf(format, args...)})
}

// settle does everything that the state allows, oldest rollout first.
func (m *machine) settle() {
	// Whatever one rollout's end lets another begin is begun in the same step;
	// each pass ends a rollout or starts one, so the passes are few.
	for range 2*len(m.Apps) + 2 {
		busy := false
		for _, a := range m.byAge() {
			busy = m.settleApp(a) || busy
		}
		if !busy {
			break
		}
	}
	for i := range m.Apps {
		if a := &m.Apps[i]; a.Live != nil {
			m.settleBuild(a) // what was asked for in this step
		}
	}
}

// forgetPast drops the instants of retrying that have come, whether or not
// anything could be retried, so that no clock is set to them again.
func (m *machine) forgetPast() {
	for i := range m.Targets {
		if t := &m.Targets[i]; !m.now.Before(t.RetryAt) {
			t.RetryAt = time.Time{}
		}
	}
	for i := range m.Placements {
		if p := &m.Placements[i]; !m.now.Before(p.RetryAt) {
			p.RetryAt = time.Time{}
		}
	}
}

func (m *machine) byAge() []*App {
	apps := make([]*App, len(m.Apps))
	for i := range m.Apps {
		apps[i] = &m.Apps[i]
	}
	started := func(a *App) int64 {
		if a.Live == nil {
			return math.MaxInt64
		}
		return a.Live.Started.UnixNano()
	}
	slices.SortStableFunc(apps, func(x, y *App) int { return cmp.Compare(started(x), started(y)) })
	return apps
}

// settleApp advances one app and tells whether a rollout ended or began.
func (m *machine) settleApp(a *App) bool {
	if a.Hold != nil && !a.Hold.Until.IsZero() && !m.now.Before(a.Hold.Until) {
		m.noteApp(a, NoteUnheld, "", "the hold by %s expired", a.Hold.By)
		a.Hold = nil
	}
	m.watchDrift(a)
	if a.Live == nil {
		m.markStable(a)
		return m.startWaiting(a) || m.startCatchUp(a)
	}
	m.settleBuild(a)
	switch a.Live.Status {
	case Preparing, Migrating:
		m.settlePreparing(a)
	case Rolling:
		m.settleRolling(a)
	case RollingBack:
		m.settleReturn(a)
	}
	if a.Live != nil {
		m.checkDeadlines(a)
	}
	return a.Live == nil
}

// markStable records that all targets serve the app's current release.
func (m *machine) markStable(a *App) {
	r := a.Release(a.Current)
	serves := func(t *Target) bool { return !m.down(t) && t.Proved(a.Current) }
	if r == nil || r.Stable || r.Bad != nil || !m.everyTarget(a.Name, serves) {
		return
	}
	r.Stable = true
	m.note(a.Last, nil, NoteReleaseStab, "", "%s is stable: every target serves it", a.short(r.ID))
}

// startWaiting makes the waiting rollout live, unless automation is on hold.
func (m *machine) startWaiting(a *App) bool {
	w := a.Waiting
	if w == nil || (w.Automatic && a.Hold != nil) {
		return false
	}
	a.Waiting = nil
	if rel := a.Release(w.Release); w.Automatic && (w.Release == a.Current || rel == nil || rel.Bad != nil) {
		m.drop(a, w, Superseded, ReasonSupersededBy, fmt.Sprintf("%s is the current release by now, or was marked bad", a.short(w.Release)))
		return true
	}
	m.start(a, w)
	return true
}

// startCatchUp brings targets that were away, or are new, to the current release.
func (m *machine) startCatchUp(a *App) bool {
	if a.Waiting != nil || a.Hold != nil || a.Current == "" {
		return false
	}
	if rel := a.Release(a.Current); rel == nil || rel.Bad != nil {
		return false
	}
	var order []TargetID
	for i := range m.Targets {
		t := &m.Targets[i]
		if t.App != a.Name || t.Turn != 0 || !m.present(t) || (t.Phase != TargetUnreachable && t.Phase != TargetWaiting && !m.strayed(t, a.Current)) {
			continue
		}
		hand := m.strayed(t, a.Current) && m.byHand(a, t, t.Seen.Release)
		if hand && t.Mended {
			continue
		}
		if t.Proved(a.Current) {
			m.rest(t, TargetActive)
			t.Release, t.InService = a.Current, true
			continue
		}
		order = append(order, t.ID)
		t.Mended = t.Mended || hand
	}
	if len(order) == 0 {
		return false
	}
	m.start(a, m.newRollout(a, CatchUp, a.Current, order, "lockstep", "not on the current release"))
	return true
}

// strayed tells whether a target that was left well on a release runs something
// else now: its disk was replaced, or another hand changed it. One that is
// merely down is not brought back by another activation.
func (m *machine) strayed(t *Target, from ReleaseID) bool {
	if (t.Phase != TargetActive && t.Phase != TargetReverted) || t.Turn != 0 || !m.present(t) {
		return false
	}
	if t.Seen.Release == "" {
		return !t.Seen.elsewhere() && (t.Seen.Health == HealthUnknown || !m.holds(t, from))
	}
	return t.Seen.Release != from
}
