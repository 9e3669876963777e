package rollout

import (
	"fmt"
	"slices"
)

func (e DeployRequested) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	if err := e.check(m, a); err != nil {
		return err
	}
	known := a.Release(e.Release.ID)
	if a.Live == nil && a.Current == e.Release.ID {
		known.clear()
		return m.repair(a, e.By)
	}
	a.remember(e.Release)
	m.forgetOld(a)
	a.Release(e.Release.ID).clear()
	m.enqueue(a, m.newDeploy(a, e.Release.ID, e.By, e.Cause, e.Automatic))
	return nil
}

// check tells what stands against the request.
func (e DeployRequested) check(m *machine, a *App) error {
	id := e.Release.ID
	known := a.Release(id)
	if e.Automatic && known != nil && known.Bad != nil {
		return refuse(RefusedBad, "%s was marked bad by %s (%s: %s); push a newer commit, or `deployctl deploy %s --ref %s`",
			a.short(id), known.Bad.By, known.Bad.Reason, known.Bad.Text, a.Name, a.short(id))
	}
	switch l := a.Live; {
	case l != nil && l.Kind == Deploy && l.Status != RollingBack && l.Release == id:
		return refuse(RefusedSame, "%s is being deployed by %s", a.short(id), l.ID)
	case a.Waiting != nil && a.Waiting.Release == id:
		return refuse(RefusedSame, "%s waits to be deployed by %s", a.short(id), a.Waiting.ID)
	case l == nil && a.Current == id && (e.Automatic || m.Converged(a.Name)):
		return refuse(RefusedSame, "%s is the current release of %s", a.short(id), a.Name)
	}
	if !e.Automatic {
		return nil
	}
	if w := a.Waiting; w != nil && !w.Automatic && a.Hold != nil {
		return refuse(RefusedLive, "%s, asked for by %s, waits to be deployed, and automation of %s is on hold", w.ID, w.By, a.Name)
	}
	for _, newer := range e.ContainedIn {
		if newer == id {
			continue
		}
		rel := a.Release(newer)
		if newer == a.Current || (rel != nil && rel.Bad != nil) ||
			(a.Live != nil && a.Live.Status != RollingBack && newer == a.Live.Release) ||
			(a.Waiting != nil && newer == a.Waiting.Release) {
			return refuse(RefusedAncestor, "%s is older than %s; automation does not go back", short(e.Release), a.short(newer))
		}
	}
	if e.Diverged {
		return refuse(RefusedDiverged, "%s does not contain %s, which is deployed: the branch was force-pushed; `deployctl deploy %s` deploys it all the same",
			short(e.Release), a.short(a.Current), a.Name)
	}
	return nil
}

func (e RollbackRequested) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	if l := a.Live; l != nil && l.Status != Preparing {
		return refuse(RefusedLive, "%s is %s; `deployctl abort %s` takes it back", l.ID, l.Status, a.Name)
	}
	to := e.To
	if to == "" {
		to = a.StableBefore(a.Current)
	}
	rel := a.Release(to)
	switch {
	case a.Current == "" || (e.To == "" && to == ""):
		return refuse(RefusedNoStable, "%s has no earlier stable release to roll back to", a.Name)
	case rel == nil:
		return refuse(RefusedNoStable, "%s has never had a release %s; `deployctl rollouts %s` lists them", a.Name, to, a.Name)
	case to == a.Current:
		return refuse(RefusedSame, "%s is the current release of %s", a.short(to), a.Name)
	case !rel.Stable:
		return refuse(RefusedNoStable, "%s never served on all targets of %s; to deploy it all the same, `deployctl deploy %s --ref %s`", a.short(to), a.Name, a.Name, a.short(to))
	}
	text := fmt.Sprintf("rolled back to %s", a.short(to))
	rel.clear()
	r := m.newRollout(a, Rollback, to, m.order(a), e.By, "from "+a.short(a.Current))
	m.markBad(a, r, a.Current, e.By, ReasonRolledBackBy, text)
	// What was on its way is not what the person wants either.
	if w := a.Waiting; w != nil {
		a.Waiting = nil
		m.condemnByHand(a, w, e.By, text)
		m.drop(a, w, Superseded, ReasonSupersededBy, fmt.Sprintf("superseded by %s", r.ID))
	}
	if a.Live != nil {
		m.condemnByHand(a, a.Live, e.By, text)
		m.finish(a, Superseded, ReasonSupersededBy, fmt.Sprintf("superseded by %s before it touched anything", r.ID))
	}
	m.start(a, r)
	m.noteMissing(a, r)
	return nil
}

// noteMissing says at the beginning of a rollback which nodes cannot return
// without a build.
func (m *machine) noteMissing(a *App, r *Rollout) {
	for i := range m.Placements {
		p := &m.Placements[i]
		on := m.targetsOn(r, p.Node)
		if p.App != a.Name || len(on) == 0 || !m.present(on[0]) || m.held(p, r.Release) {
			continue
		}
		again := "it will be built again"
		if rel := a.Release(r.Release); a.Policy.BuildOnce && rel != nil && rel.Digest != "" && slices.Contains(a.Archives, rel.Digest) {
			again = "it takes the files that were built for all"
		}
		m.note(r, on[0], NoteMissing, "", "%s no longer has %s: %s", p.Node, a.short(r.Release), again)
	}
}

func (e AbortRequested) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	text := "aborted by " + e.By + inBrackets(e.Reason)
	r := a.Live
	if r == nil {
		if w := a.Waiting; w != nil {
			a.Waiting = nil
			m.condemnByHand(a, w, e.By, text)
			m.drop(a, w, Aborted, ReasonRequested, text)
			return nil
		}
		return refuse(RefusedNotLive, "%s has no rollout under way", a.Name)
	}
	if r.Status == RollingBack {
		return refuse(RefusedState, "%s is rolling back already", r.ID)
	}
	m.condemnByHand(a, r, e.By, text)
	switch {
	case r.Status == Preparing, r.Status == Migrating:
		m.finish(a, Aborted, ReasonRequested, text+"; "+r.untouched())
	case r.Kind == Deploy && r.From != "":
		m.startReturn(a, Aborted, ReasonRequested, text)
	default:
		m.finish(a, Aborted, ReasonRequested, text+"; it stopped where it was")
	}
	if r.Kind == CatchUp {
		for _, t := range m.targets(r) {
			if t.Turn == 0 && !t.Proved(r.Release) && m.present(t) {
				t.Phase, t.Reason, t.Text = TargetQuarantined, ReasonRequested, text
			}
		}
	}
	return nil
}

// condemnByHand keeps automation from deploying what a person aborted.
func (m *machine) condemnByHand(a *App, r *Rollout, by, text string) {
	if r.Kind == Deploy {
		m.markBad(a, r, r.Release, by, ReasonRequested, text)
	}
}

func (e RetryRequested) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	if r := a.Live; r != nil {
		m.adopt(a)
		m.anotherChance(a, true)
		m.anotherCommand(a, e.By)
		if r.Paused != nil {
			m.unpause(a, r, e.By)
		} else {
			m.note(r, nil, NoteRetry, ReasonRequested, "every node gets another chance, asked for by %s", e.By)
		}
		return nil
	}
	if err := m.repair(a, e.By); err == nil {
		return nil
	}
	last := a.Last
	if last == nil || last.Kind != Deploy || last.Status == Succeeded || a.Release(last.Release) == nil {
		return refuse(RefusedState, "nothing of %s is left to be retried", a.Name)
	}
	a.Release(last.Release).clear()
	m.enqueue(a, m.newDeploy(a, last.Release, e.By, fmt.Sprintf("retry of %s", last.ID), false))
	return nil
}

// adopt takes into the live rollout what was configured since it began and is
// out by now: while it is, others cannot leave, and nothing else would mend it
// before the rollout is over.
func (m *machine) adopt(a *App) {
	r := a.Live
	for i := range m.Targets {
		t := &m.Targets[i]
		if t.App != a.Name || t.Turn != 0 || slices.Contains(r.Order, t.ID) || !m.present(t) || !m.down(t) {
			continue
		}
		r.Order = append(r.Order, t.ID)
		if r.Status == RollingBack {
			m.rest(t, TargetReverting)
			m.prepare(t, r.From)
		} else {
			m.rest(t, TargetPreparing)
			m.prepare(t, r.Release)
		}
		m.note(r, t, NoteRetry, ReasonRequested, "%s takes part from now on: it is out of rotation", t.Place())
	}
}

// repair brings targets that are not proved on the current release to it.
func (m *machine) repair(a *App, by string) error {
	var order []TargetID
	for _, id := range m.order(a) {
		if t := m.Target(id); !t.stays(a.Current) || t.Phase == TargetQuarantined {
			order = append(order, id)
		}
	}
	if a.Current == "" || len(order) == 0 {
		return refuse(RefusedState, "every target of %s is where it should be", a.Name)
	}
	m.start(a, m.newRollout(a, CatchUp, a.Current, order, by, "targets that are not on the current release"))
	return nil
}

func (m *machine) newDeploy(a *App, id ReleaseID, by, cause string, automatic bool) *Rollout {
	r := m.newRollout(a, Deploy, id, m.order(a), by, cause)
	r.Automatic = automatic
	return r
}

// enqueue puts a deployment in the one place for the next, where the latest
// wins. It also takes the place of a live one that has touched nothing yet,
// unless a person asked for that one and a machine asks for this.
func (m *machine) enqueue(a *App, r *Rollout) {
	if w := a.Waiting; w != nil {
		m.drop(a, w, Superseded, ReasonSupersededBy, fmt.Sprintf("superseded by %s", r.ID))
	}
	a.Waiting = r
	l := a.Live
	held := r.Automatic && a.Hold != nil
	if l != nil && l.Status == Preparing && l.Kind != Rollback && !held && (l.Automatic || !r.Automatic || l.Kind == CatchUp) {
		m.finish(a, Superseded, ReasonSupersededBy, fmt.Sprintf("superseded by %s before it touched anything", r.ID))
	}
}

// remember adds a release to those that the app remembers.
func (a *App) remember(r Release) {
	if a.Release(r.ID) == nil {
		a.Releases = append(a.Releases, Release{ID: r.ID, SHA: r.SHA, Subject: r.Subject, Command: r.Command})
	}
}

// moveLast makes a release the newest, so that a rollback from it finds the
// one that it replaced.
func (a *App) moveLast(id ReleaseID) {
	if r := a.Release(id); r != nil {
		last := *r
		a.Releases = append(slices.DeleteFunc(a.Releases, func(r Release) bool { return r.ID == id }), last)
	}
}

// forgetOld drops the oldest releases beyond maxReleases, never one in use.
func (m *machine) forgetOld(a *App) {
	keep := m.Keep(a.Name)
	for i := 0; len(a.Releases) > maxReleases && i < len(a.Releases)-1; {
		if slices.Contains(keep, a.Releases[i].ID) {
			i++
			continue
		}
		a.Releases = slices.Delete(a.Releases, i, i+1)
	}
}

// clear takes back that the release was marked bad. There may be none.
func (r *Release) clear() {
	if r != nil {
		r.Bad = nil
	}
}

func short(r Release) string { return r.SHA[:min(7, len(r.SHA))] }
