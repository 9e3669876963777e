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

// finishEffects gives a new generation to every placement whose assignment
// differs from before, and collects what changed.
func (m *machine) finishEffects(before *State) []Effect {
	effects := m.notes
	kept, app := false, ""
	for i := range m.Placements {
		p := &m.Placements[i]
		if p.App != app {
			app, kept = p.App, m.sameKeep(p.App, before)
		}
		old := before.Placement(p.App, p.Node)
		if !kept || old == nil || old.Generation != p.Generation || !m.sameWanted(p, before, old) {
			m.Generation++
			p.Generation = m.Generation
			effects = append(effects, Assign{App: p.App, Node: p.Node, Generation: p.Generation})
		}
	}
	for _, c := range m.gone {
		effects = append(effects, c)
	}
	for i := range m.Apps {
		a := &m.Apps[i]
		for _, r := range []*Rollout{a.Live, a.Waiting} {
			if r != nil && !m.sameRollout(r, before) {
				effects = append(effects, m.Changed(r))
			}
		}
	}
	return effects
}

// sameRollout tells whether the rollout, and where its targets stand, are as before.
func (m *machine) sameRollout(r *Rollout, before *State) bool {
	a := before.App(r.App)
	if a == nil {
		return false
	}
	old := a.Live
	if old == nil || old.ID != r.ID {
		old = a.Waiting
	}
	if old == nil || !old.equal(r) {
		return false
	}
	for i := range m.Targets {
		t := &m.Targets[i]
		if t.App != r.App {
			continue
		}
		var was *Target
		if i < len(before.Targets) && before.Targets[i].ID == t.ID {
			was = &before.Targets[i] // always so, unless the configuration changed
		} else {
			was = before.Target(t.ID)
		}
		if was == nil || t.Phase != was.Phase || t.Reason != was.Reason || t.Text != was.Text {
			if slices.Contains(r.Order, t.ID) {
				return false
			}
		}
	}
	return true
}

// sameKeep tells whether the app's nodes are to keep what they kept before.
func (m *machine) sameKeep(app string, before *State) bool {
	var x, y [16]ReleaseID // enough for almost all, without an allocation
	return slices.Equal(m.appendKeep(x[:0], app), before.appendKeep(y[:0], app))
}

// Changed returns the rollout with where its targets stand now.
func (s *State) Changed(r *Rollout) Changed {
	c := Changed{Rollout: *r.clone(), Targets: make([]Progress, 0, len(r.Order))}
	for _, id := range r.Order {
		if t := s.Target(id); t != nil {
			c.Targets = append(c.Targets, Progress{Target: t.ID, Node: t.Node, Instance: t.Instance, Phase: t.Phase, Reason: t.Reason, Text: t.Text})
		}
	}
	return c
}

// Wanted is what a placement's assignment says, apart from the configuration
// that its app's revision stands for.
type Wanted struct {
	Revision string
	Rollout  RolloutID // that step logs belong to
	Prepare  ReleaseID
	Attempt  int
	Share    bool   // hand its files to the coordinator
	Archive  string // digest of the files to take from there
	Command  CommandGoal
	Keep     []ReleaseID
	Targets  []Goal
}

// Goal is the desired state of one target.
type Goal struct {
	Target            TargetID
	Instance          string
	Release, Fallback ReleaseID
	Turn              uint64
	Soak              time.Duration
}

// Wanted returns what the assignment of the app's placement on the node says,
// with its generation, and false when there is no such placement.
func (s *State) Wanted(app, node string) (Wanted, uint64, bool) {
	p := s.Placement(app, node)
	if p == nil {
		return Wanted{}, 0, false
	}
	w := s.wanted(p)
	w.Keep = s.Keep(app)
	for i := range s.Targets {
		if t := &s.Targets[i]; t.App == app && t.Node == node {
			w.Targets = append(w.Targets, t.goal())
		}
	}
	return w, p.Generation, true
}

// wanted returns what the placement's assignment says, without what it keeps and
// its targets.
func (s *State) wanted(p *Placement) Wanted {
	a := s.App(p.App)
	w := Wanted{Revision: a.Revision, Command: a.command(p.Node)}
	if p.How != HowWait {
		w.Prepare, w.Attempt, w.Share, w.Archive = p.Prepare, p.Attempt, p.How == HowShare, p.Archive
	}
	if a.Live != nil {
		w.Rollout = a.Live.ID
	} else if a.Last != nil {
		w.Rollout = a.Last.ID
	}
	return w
}

func (t *Target) goal() Goal {
	return Goal{Target: t.ID, Instance: t.Instance, Release: t.Release, Fallback: t.Fallback, Turn: t.Turn, Soak: t.Soak}
}

// sameWanted tells whether the placement's assignment, apart from what it keeps,
// is as it was before, when the placement was old. It is asked of every placement
// in every step, and so compares without making the two assignments.
func (s *State) sameWanted(p *Placement, before *State, old *Placement) bool {
	w, o := s.wanted(p), before.wanted(old)
	if w.Revision != o.Revision || w.Rollout != o.Rollout || w.Prepare != o.Prepare || w.Attempt != o.Attempt ||
		w.Share != o.Share || w.Archive != o.Archive || w.Command != o.Command {
		return false
	}
	i, j := s.nextOn(p, 0), before.nextOn(p, 0)
	for i < len(s.Targets) && j < len(before.Targets) {
		if s.Targets[i].goal() != before.Targets[j].goal() {
			return false
		}
		i, j = s.nextOn(p, i+1), before.nextOn(p, j+1)
	}
	return i == len(s.Targets) && j == len(before.Targets)
}

// nextOn returns the index of the placement's next target, from i on.
func (s *State) nextOn(p *Placement, i int) int {
	for i < len(s.Targets) && (s.Targets[i].Node != p.Node || s.Targets[i].App != p.App) {
		i++
	}
	return i
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
	if r == nil || r.Stable || r.Bad != nil || !m.Converged(a.Name) {
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
		if t.Proved(a.Current) {
			m.rest(t, TargetActive)
			t.Release, t.InService = a.Current, true
			continue
		}
		order = append(order, t.ID)
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
		return t.Seen.Health == HealthUnknown || !m.holds(t, from)
	}
	return t.Seen.Release != from
}

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
