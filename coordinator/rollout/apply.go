package rollout

import (
	"maps"
	"slices"
	"time"
)

func (e Configured) apply(m *machine) error {
	m.Pool, m.MaxUnavailable = e.Pool, e.MaxUnavailable
	old := m.State
	m.Apps, m.Nodes, m.Placements, m.Targets = nil, nil, nil, nil
	for _, c := range e.Apps {
		a := App{Name: c.Name, Number: old.Retired[c.Name]}
		if o := old.App(c.Name); o != nil {
			a = *o
		}
		a.Policy, a.Revision = c.Policy, c.Revision
		m.Apps = append(m.Apps, a)
		for _, name := range c.Nodes {
			if m.Node(name) == nil {
				n := Node{Name: name, Reach: ReachUnknown}
				if o := old.Node(name); o != nil {
					n = *o
				}
				m.Nodes = append(m.Nodes, n)
			}
			p := Placement{App: c.Name, Node: name}
			if o := old.Placement(c.Name, name); o != nil {
				p = *o
			}
			m.Placements = append(m.Placements, p)
			for _, instance := range c.instances() {
				id := TargetName(c.Name, name, instance)
				t := Target{ID: id, App: c.Name, Node: name, Instance: instance, Phase: TargetWaiting}
				if o := old.Target(id); o != nil {
					t = *o
				}
				m.Targets = append(m.Targets, t)
			}
		}
	}
	for i := range m.Apps {
		for _, r := range []*Rollout{m.Apps[i].Live, m.Apps[i].Waiting} {
			if r != nil {
				r.Order = slices.DeleteFunc(r.Order, func(id TargetID) bool { return m.Target(id) == nil })
			}
		}
	}
	for i := range old.Apps {
		a := &old.Apps[i]
		if m.App(a.Name) != nil {
			continue
		}
		m.Retired = maps.Clone(m.Retired)
		if m.Retired == nil {
			m.Retired = map[string]int{}
		}
		m.Retired[a.Name] = a.Number
		for _, r := range []*Rollout{a.Live, a.Waiting} {
			if r != nil {
				m.drop(a, r, Aborted, ReasonRemoved, a.Name+" was taken out of the configuration")
			}
		}
	}
	m.commandsGone()
	return nil
}

// instances are the names of the targets on each node.
func (c AppConfig) instances() []string {
	if len(c.Instances) == 0 {
		return []string{""}
	}
	return c.Instances
}

func (e Started) apply(m *machine) error {
	for i := range m.Nodes {
		m.Nodes[i].Reach = ReachUnknown
	}
	for i := range m.Targets {
		t := &m.Targets[i]
		t.Seen.Known = false
		if a := m.App(t.App); t.Turn != 0 && !t.TurnBy.IsZero() {
			t.TurnBy = later(t.TurnBy, m.now.Add(a.Policy.TargetTimeout))
		}
	}
	for i := range m.Apps {
		if a := &m.Apps[i]; a.Live != nil {
			a.Live.Deadline = later(a.Live.Deadline, m.now.Add(a.timeout(a.Live)))
		}
	}
	return nil
}

func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

func (e Tick) apply(*machine) error { return nil }

func (e NodeLost) apply(m *machine) error {
	n := m.Node(e.Node)
	if n == nil || n.Reach == Unreachable {
		return nil
	}
	n.Reach = Unreachable
	for i := range m.Apps {
		m.commandLost(&m.Apps[i], e.Node)
	}
	for i := range m.Targets {
		t := &m.Targets[i]
		if t.Node != e.Node {
			continue
		}
		t.Seen.Known = false
		a := m.App(t.App)
		live := a.Live != nil && slices.Contains(a.Live.Order, t.ID)
		switch {
		case t.Turn != 0:
			m.note(a.Live, t, NoteLost, ReasonUnreachable, "%s was lost while it holds the turn; it finishes or undoes it by itself", t.Place())
			continue
		case live && t.Phase == TargetReverting:
			// It is still to be returned; settleReturn waits for it by name.
			m.note(a.Live, t, NoteLost, ReasonUnreachable, "%s was lost before it returned to %s", t.Place(), a.short(a.Live.From))
		case live:
			m.note(a.Live, t, NoteLost, ReasonUnreachable, "%s was lost", t.Place())
		}
		if t.Phase != TargetQuarantined && t.Phase != TargetWaiting {
			m.rest(t, TargetUnreachable)
			t.Reason, t.Text = ReasonUnreachable, "its agent is not heard of"
		}
	}
	return nil
}

func (e Reported) apply(m *machine) error {
	n := m.Node(e.Node)
	if n == nil {
		return nil
	}
	n.Reach = Reachable
	for _, pr := range e.Placements {
		p := m.Placement(pr.App, e.Node)
		if p == nil {
			continue
		}
		if pr.Generation > p.Generation {
			// The agent has seen more than this state remembers (it was restored
			// from a copy): a higher number makes it listen again.
			m.Generation = max(m.Generation, pr.Generation) + 1
			p.Generation = m.Generation
		}
		p.Accepted = pr.Generation
		p.Present = slices.Sorted(slices.Values(pr.Present))
		p.Digests = nil
		if len(pr.Digests) > 0 {
			p.Digests = maps.Clone(pr.Digests)
		}
		if pr.Attempt > p.Attempt {
			// Of an earlier life of the placement: what has that number is done.
			p.Attempt = pr.Attempt + 1
		}
		a := m.App(pr.App)
		if f := pr.Prepare; f != nil && f.Release == p.Prepare && f.Attempt == p.Attempt && p.Failed != p.Attempt {
			m.prepareFailed(a, p, f)
		}
		if f := pr.Command; f != nil {
			m.commandReported(a, e.Node, f)
		}
		for _, tr := range pr.Targets {
			t := m.Target(tr.Target)
			if t == nil || t.App != pr.App || t.Node != e.Node {
				continue
			}
			t.Seen = Sighting{Known: true, Release: tr.Release, Rotation: tr.Rotation, Health: tr.Health, Last: tr.Last, Linked: tr.Linked}
			if tr.Rotation == RotationIn {
				t.InService = true
			}
			o := tr.Outcome
			if o == nil {
				continue
			}
			// An agent never works on a turn again that it has finished, so none
			// of its past may be given a second time, whoever gave it.
			m.LastTurn = max(m.LastTurn, o.Turn)
			news := o.Turn > t.Ended
			t.Ended = max(t.Ended, o.Turn)
			if t.Turn != 0 && o.Turn == t.Turn {
				m.finishTurn(a, t, o)
			} else if news {
				m.finishForgotten(a, t, o)
			}
		}
	}
	return nil
}

func (e BalancerAsked) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	r := a.Live
	if r == nil {
		r = a.Last
	}
	m.note(r, m.Target(e.Target), NoteBalancer, e.Class, "%s", e.Text)
	return nil
}

func (e HoldRequested) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return m.unknownApp(e.App)
	}
	a.Hold = &Hold{By: e.By, Reason: e.Reason, At: m.now, Until: e.Until}
	m.noteApp(a, NoteHeld, ReasonRequested, "held by %s%s", e.By, inBrackets(e.Reason))
	return nil
}

func (e UnholdRequested) apply(m *machine) error {
	a := m.App(e.App)
	switch {
	case a == nil:
		return m.unknownApp(e.App)
	case a.Hold == nil:
		return refuse(RefusedState, "%s is not on hold", a.Name)
	}
	a.Hold = nil
	m.noteApp(a, NoteUnheld, ReasonRequested, "the hold was lifted by %s", e.By)
	return nil
}

func (e PauseRequested) apply(m *machine) error {
	a, err := m.live(e.App)
	if err != nil {
		return err
	}
	if a.Live.Paused != nil {
		return refuse(RefusedState, "%s is paused already: %s", a.Live.ID, a.Live.Paused.Text)
	}
	text := e.Reason
	if text == "" {
		text = "asked for by " + e.By
	}
	m.pause(a.Live, e.By, ReasonRequested, text)
	return nil
}

func (e ResumeRequested) apply(m *machine) error {
	a, err := m.live(e.App)
	if err != nil {
		return err
	}
	if a.Live.Paused == nil {
		return refuse(RefusedState, "%s is not paused", a.Live.ID)
	}
	m.anotherChance(a, false)
	m.unpause(a, a.Live, e.By)
	return nil
}

// anotherChance forgets the failures of the live rollout's nodes, and with
// quarantined also takes back the targets that were left for a person, or do
// not serve although their turn went well.
func (m *machine) anotherChance(a *App, quarantined bool) {
	r := a.Live
	r.Unfit = nil
	for i := range m.Placements {
		if p := &m.Placements[i]; p.App == a.Name {
			p.Tries, p.RetryAt = 0, time.Time{}
		}
	}
	for _, t := range m.targets(r) {
		t.Tries, t.RetryAt = 0, time.Time{}
		if !quarantined || t.Turn != 0 {
			continue
		}
		goal, active := r.Release, TargetActive
		if r.Status == RollingBack {
			goal, active = r.From, TargetReverted
		}
		if t.Phase == TargetQuarantined || (t.Phase == active && m.present(t) && !t.Proved(goal)) {
			m.rest(t, TargetPreparing)
			if r.Status == RollingBack {
				t.Phase = TargetReverting
			}
		}
	}
}

func (m *machine) live(app string) (*App, error) {
	a := m.App(app)
	switch {
	case a == nil:
		return nil, m.unknownApp(app)
	case a.Live == nil:
		return nil, refuse(RefusedNotLive, "%s has no rollout under way", app)
	}
	return a, nil
}

func (m *machine) unknownApp(app string) error {
	return refuse(RefusedUnknownApp, "there is no app %q in pool %q", app, m.Pool)
}
