package rollout

import (
	"slices"
	"time"
)

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
