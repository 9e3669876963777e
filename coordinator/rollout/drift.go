package rollout

import (
	"fmt"
	"time"
)

// Drift is a target that runs, or would run after its next start, something else
// than it was left on, though no rollout is under way: somebody restarted it on
// another release, moved its current link, or runs something of their own.
type Drift struct {
	Since   time.Time `json:"since"`             // when it was first reported
	Release ReleaseID `json:"release,omitempty"` // what runs; "" for what is no release
	// Linked would run after its next start, if that is another.
	Linked ReleaseID `json:"linked,omitempty"`
}

// watchDrift compares what targets were left on with what they run. A drift to
// another release is brought back once (see startCatchUp); all else is left to
// people, and every drift is shown for as long as it lasts.
func (m *machine) watchDrift(a *App) {
	for i := range m.Targets {
		t := &m.Targets[i]
		if t.App != a.Name {
			continue
		}
		d := m.drift(a, t)
		if d != nil && t.Drift != nil && d.Release == t.Drift.Release && d.Linked == t.Drift.Linked {
			continue // since then
		}
		if t.Drift = d; d != nil {
			m.noteApp(a, NoteDrift, "", "%s", m.DriftText(t))
		}
	}
}

func (m *machine) drift(a *App, t *Target) *Drift {
	left := t.Phase == TargetActive || t.Phase == TargetReverted
	if a.Live != nil || a.Current == "" || !left || t.Turn != 0 || !m.present(t) {
		return nil
	}
	s := t.Seen
	if s.elsewhere() || m.byHand(a, t, s.Linked) || m.byHand(a, t, s.Release) {
		return &Drift{Since: m.now, Release: s.Release, Linked: s.Linked}
	}
	return nil
}

// elsewhere tells whether something serves that is no release: a person's own. What
// is merely down proves nothing.
func (s Sighting) elsewhere() bool {
	return s.Release == "" && s.Rotation == RotationIn && s.Health == Healthy
}

// byHand tells whether a release is neither the current one, nor what we left the
// target on when a rollout stopped where it was.
func (m *machine) byHand(a *App, t *Target, id ReleaseID) bool {
	return id != "" && id != a.Current && id != t.Release
}

// DriftText says how a target drifted, "" if it did not.
func (s *State) DriftText(t *Target) string {
	a, d := s.App(t.App), t.Drift
	if a == nil || d == nil {
		return ""
	}
	next := fmt.Sprintf("%s after its next start", a.short(d.Linked))
	var runs string
	switch {
	case d.Release != "":
		runs = "runs " + a.short(d.Release)
	case t.Seen.Rotation == RotationIn:
		runs = "runs from no release"
	default:
		runs, next = "is down", "would run "+next
	}
	if d.Linked != "" {
		runs += ", and " + next
	}
	text := fmt.Sprintf("%s %s, by another hand; it should run %s", t.Place(), runs, a.short(a.Current))
	switch {
	case a.Hold != nil:
		return text + "; it is left so while automation is on hold"
	case t.Mended:
		return text + fmt.Sprintf("; it was brought back once and is left now: `deployctl retry %s` brings it back again", a.Name)
	case d.Release == "" || d.Release == a.Current:
		return text + fmt.Sprintf("; `deployctl retry %s` brings it back", a.Name)
	}
	return text
}
