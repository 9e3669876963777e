package rollout

import (
	"slices"
	"time"
)

// Place names the target within its app: its node, with the instance if there
// are several.
func (t Target) Place() string { return place(t.Node, t.Instance) }

// Proved tells whether the target is known to serve the release: its process
// belongs to it, the balancer has it in rotation, and it is not unhealthy.
func (t Target) Proved(r ReleaseID) bool {
	return t.Seen.Known && t.Seen.Release == r && t.Seen.Rotation == RotationIn && t.Seen.Health != Unhealthy
}

// stays tells whether the target is proved on the release, and its next start
// changes nothing about that.
func (t Target) stays(r ReleaseID) bool {
	return t.Proved(r) && t.Drift == nil && t.Seen.Linked == ""
}

// out tells whether a sighting that is known says that the target does not
// serve. One whose rotation is unknown may well serve.
func (s Sighting) out() bool {
	return s.Rotation == RotationOut || s.Rotation == RotationDraining || s.Health == Unhealthy
}

// down tells whether the target must be counted as out of rotation.
func (s *State) down(t *Target) bool {
	if t.Turn != 0 {
		return true
	}
	if !t.InService {
		return false
	}
	n := s.Node(t.Node)
	return n == nil || n.Reach != Reachable || !t.Seen.Known ||
		t.Seen.Rotation != RotationIn || t.Seen.Health == Unhealthy
}

// App returns the app, or nil. The pointer is into s.
func (s *State) App(name string) *App {
	for i := range s.Apps {
		if s.Apps[i].Name == name {
			return &s.Apps[i]
		}
	}
	return nil
}

// Node returns the node, or nil. The pointer is into s.
func (s *State) Node(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// Target returns the target, or nil. The pointer is into s.
func (s *State) Target(id TargetID) *Target {
	for i := range s.Targets {
		if s.Targets[i].ID == id {
			return &s.Targets[i]
		}
	}
	return nil
}

// Placement returns the app's placement on the node, or nil. The pointer is into s.
func (s *State) Placement(app, node string) *Placement {
	for i := range s.Placements {
		if s.Placements[i].App == app && s.Placements[i].Node == node {
			return &s.Placements[i]
		}
	}
	return nil
}

// Release returns what is remembered of the release, or nil. The pointer is into a.
func (a *App) Release(id ReleaseID) *Release {
	for i := range a.Releases {
		if a.Releases[i].ID == id {
			return &a.Releases[i]
		}
	}
	return nil
}

// StableBefore returns the last stable release that is not bad and stands
// before the given one, or "" when there is none.
func (a *App) StableBefore(id ReleaseID) ReleaseID {
	var found ReleaseID
	for _, r := range a.Releases {
		if r.ID == id {
			break
		}
		if r.Stable && r.Bad == nil {
			found = r.ID
		}
	}
	return found
}

// Converged tells whether every target of the app is proved on its current
// release and in rotation, with no rollout under way, and stays on it at its next
// start.
func (s *State) Converged(app string) bool {
	a := s.App(app)
	return a != nil && a.Live == nil && a.Current != "" &&
		s.everyTarget(app, func(t *Target) bool { return !s.down(t) && t.stays(a.Current) })
}

func (s *State) everyTarget(app string, is func(*Target) bool) bool {
	for i := range s.Targets {
		if t := &s.Targets[i]; t.App == app && !is(t) {
			return false
		}
	}
	return true
}

// Keep returns the releases that the app's nodes must not prune.
func (s *State) Keep(app string) []ReleaseID { return s.appendKeep(nil, app) }

func (s *State) appendKeep(keep []ReleaseID, app string) []ReleaseID {
	a := s.App(app)
	if a == nil {
		return nil
	}
	add := func(id ReleaseID) {
		if id != "" && !slices.Contains(keep, id) {
			keep = append(keep, id)
		}
	}
	add(a.Current)
	add(a.StableBefore(a.Current))
	for _, r := range [...]*Rollout{a.Live, a.Waiting} {
		if r != nil {
			add(r.Release)
			add(r.From)
		}
	}
	for i := range s.Targets {
		if t := &s.Targets[i]; t.App == app {
			add(t.Release)
			add(t.Fallback)
			add(t.Seen.Release)
		}
	}
	slices.Sort(keep)
	return keep
}

// NextDeadline returns the earliest instant at which time alone changes the
// state, and false when none does.
func (s *State) NextDeadline() (time.Time, bool) {
	var next time.Time
	add := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for i := range s.Apps {
		a := &s.Apps[i]
		if a.Live != nil && a.Live.Paused == nil {
			add(a.Live.Deadline)
			for _, id := range a.Live.Order {
				if t := s.Target(id); t != nil {
					add(t.RetryAt)
					add(t.TurnBy)
				}
			}
			for i := range s.Placements {
				if p := &s.Placements[i]; p.App == a.Name {
					add(p.RetryAt)
				}
			}
		}
		if a.Hold != nil {
			add(a.Hold.Until)
		}
	}
	return next, !next.IsZero()
}
