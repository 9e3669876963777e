package rollout

import (
	"slices"
	"time"
)

// newRollout numbers a rollout; the caller puts it in its place.
func (m *machine) newRollout(a *App, kind Kind, release ReleaseID, order []TargetID, by, cause string) *Rollout {
	a.Number++
	r := &Rollout{
		ID: rolloutName(a.Name, a.Number), App: a.Name, Kind: kind, Release: release,
		Status: Queued, By: by, Cause: cause, Created: m.now, Order: order,
	}
	m.note(r, nil, NoteRequested, ReasonRequested, "%s %s, asked for by %s%s", kind.noun(), a.short(release), by, inBrackets(cause))
	return r
}

// order returns the app's targets as they are to be rolled: the canary first,
// then as configured.
func (m *machine) order(a *App) []TargetID {
	var order []TargetID
	canary := m.canary(a)
	for i := range m.Targets {
		if t := &m.Targets[i]; t.App == a.Name {
			if t.ID == canary {
				order = slices.Insert(order, 0, t.ID)
			} else {
				order = append(order, t.ID)
			}
		}
	}
	return order
}

// canary is the target that goes first: the first one of the node that the
// policy names, "" when it names none.
func (m *machine) canary(a *App) TargetID {
	for i := range m.Targets {
		if t := &m.Targets[i]; t.App == a.Name && t.Node == a.Policy.Canary {
			return t.ID
		}
	}
	return ""
}

// start makes a rollout live: every node is asked to prepare its release.
func (m *machine) start(a *App, r *Rollout) {
	a.Live = r
	r.Started = m.now
	if r.Kind == Deploy {
		r.From = a.fallback(r.Release)
	}
	for _, t := range m.targets(r) {
		t.Before = &Standing{Phase: t.Phase, Reason: t.Reason, Text: t.Text}
		t.Mended = t.Mended && r.By == "lockstep"
		m.rest(t, TargetPreparing)
		m.prepare(t, r.Release)
	}
	m.status(r, Preparing, "", "")
	r.Deadline = m.now.Add(a.Policy.PrepareTimeout)
}

// prepare asks the target's node for a release.
func (m *machine) prepare(t *Target, id ReleaseID) {
	if p := m.Placement(t.App, t.Node); p.Prepare != id {
		m.prepareOn(p, id)
	}
}

func (m *machine) prepareOn(p *Placement, id ReleaseID) {
	p.stopPreparing()
	p.Prepare = id
	p.Attempt++
	p.Asked = m.Generation + 1 // what this step will give it is no lower
}

// rest puts a target in a phase with nothing held against it.
func (m *machine) rest(t *Target, phase Phase) {
	t.Phase, t.Reason, t.Text, t.Tries, t.RetryAt = phase, "", "", 0, time.Time{}
}

// targets returns the rollout's targets in its order.
func (m *machine) targets(r *Rollout) []*Target {
	ts := make([]*Target, 0, len(r.Order))
	for _, id := range r.Order {
		if t := m.Target(id); t != nil {
			ts = append(ts, t)
		}
	}
	return ts
}

// present tells whether the target's agent is heard of and has reported it.
func (m *machine) present(t *Target) bool {
	n := m.Node(t.Node)
	return n != nil && n.Reach == Reachable && t.Seen.Known
}

func (m *machine) status(r *Rollout, s Status, reason Reason, text string) {
	r.Status, r.Reason, r.Text, r.Blocked = s, reason, text, ""
	if text == "" {
		text = string(s)
	}
	m.note(r, nil, NoteStatus, reason, "%s", text)
}

func (m *machine) pause(r *Rollout, by string, reason Reason, text string) {
	if r.Paused != nil {
		return
	}
	r.Paused = &Mark{By: by, Reason: reason, Text: text, At: m.now}
	m.note(r, nil, NotePaused, reason, "paused: %s", text)
}

func (m *machine) unpause(a *App, r *Rollout, by string) {
	r.Paused = nil
	r.Deadline = m.now.Add(a.timeout(r))
	m.note(r, nil, NoteResumed, ReasonRequested, "resumed by %s", by)
}

// finish ends the app's live rollout.
func (m *machine) finish(a *App, s Status, reason Reason, text string) {
	r := a.Live
	r.Finished, r.Deadline, r.Paused = m.now, time.Time{}, nil
	m.status(r, s, reason, text)
	for _, t := range m.targets(r) {
		if t.Phase == TargetPreparing || t.Phase == TargetPrepared {
			m.restUntouched(a, t)
		}
		t.Before = nil
	}
	for i := range m.Placements {
		if p := &m.Placements[i]; p.App == a.Name {
			p.stopPreparing()
		}
	}
	// The record is made now: the next rollout may begin in this same step.
	m.gone = append(m.gone, m.Changed(r))
	a.Last, a.Live = r, nil
}

// drop ends a rollout that was never live.
func (m *machine) drop(a *App, r *Rollout, s Status, reason Reason, text string) {
	r.Finished = m.now
	m.status(r, s, reason, text)
	m.gone = append(m.gone, Changed{Rollout: *r.clone()})
}

// restUntouched returns a target that waits for a turn to where it stood before
// the live rollout. One that a failed turn has left out is left for a person.
func (m *machine) restUntouched(a *App, t *Target) {
	b := t.Before
	switch {
	case b == nil && (!t.Seen.Known || t.Seen.Rotation != RotationIn):
		m.quarantine(a, t)
	case b != nil && b.Phase == TargetQuarantined:
		t.Phase, t.Reason, t.Text = b.Phase, b.Reason, b.Text
	case t.Proved(a.Current), b != nil && t.Release == a.Current && (b.Phase == TargetActive || b.Phase == TargetReverted):
		m.rest(t, TargetActive)
	default:
		m.rest(t, TargetWaiting)
	}
}

func (p *Placement) stopPreparing() {
	p.Prepare, p.How, p.Archive, p.Tries, p.RetryAt = "", HowBuild, "", 0, time.Time{}
}

// markBad keeps automation from deploying a release again.
func (m *machine) markBad(a *App, r *Rollout, id ReleaseID, by string, reason Reason, text string) {
	if rel := a.Release(id); rel != nil {
		rel.Bad = &Mark{By: by, Reason: reason, Text: text, At: m.now}
		m.note(r, nil, NoteReleaseBad, reason, "%s will not be deployed again by automation until a newer commit or a person clears it", a.short(id))
	}
}

// fallback returns the release to return to when the given one fails: the
// current one, which every target that could be reached has served, or, if that
// is the same or bad, the last stable one before it.
func (a *App) fallback(release ReleaseID) ReleaseID {
	if rel := a.Release(a.Current); rel != nil && rel.Bad == nil && rel.ID != release {
		return rel.ID
	}
	id := a.StableBefore(a.Current)
	if id == release {
		id = a.StableBefore(release)
	}
	return id
}

// short renders a release for a sentence.
func (a *App) short(id ReleaseID) string {
	if r := a.Release(id); r != nil && len(r.SHA) >= 7 {
		return r.SHA[:7]
	}
	if id == "" {
		return "nothing"
	}
	return string(id)
}

func (k Kind) noun() string {
	switch k {
	case Rollback:
		return "rollback to"
	case CatchUp:
		return "catch-up to"
	}
	return "deployment of"
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
