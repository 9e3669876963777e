package rollout_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// stage plays a scenario: the real engine, with agents that behave unless the
// script says otherwise, in steps of one second.
type stage struct {
	out    strings.Builder
	now    time.Time
	state  rollout.State
	config rollout.Configured
	actors []*actor
	heard  map[string]time.Time
	fails  []*failure
	noted  string // the sentences of the last steps
	varies []rollout.ReleaseID
	// archives are the digests that the coordinator has.
	archives []string
}

// actor is one app on one node: the agent's side of it.
type actor struct {
	app, node string
	away      bool // its node does not report
	disk      []rollout.ReleaseID
	failure   *rollout.PrepareReport
	digests   map[rollout.ReleaseID]string // of what is on the disk
	attempt   int                          // in progress, or done
	preparing rollout.ReleaseID
	sharing   bool
	prepared  time.Time // when it will be
	command   *rollout.CommandReport
	commanded time.Time // when its command ends
	targets   []*target
	told      string
}

// target is one instance of the app.
type target struct {
	id, place string
	stuck     bool // its turn never ends
	release   rollout.ReleaseID
	out       bool
	sick      bool              // unhealthy by itself
	last      bool              // asks to be last
	linked    rollout.ReleaseID // by hand, to what does not run
	elsewhere bool              // runs from no release, by hand
	outcome   *rollout.Outcome

	turn uint64
	goal rollout.Goal
	ends time.Time // when the turn will
}

// failure is what the script says will go wrong.
type failure struct {
	node    string            // or the place of one of its targets
	release rollout.ReleaseID // "": of any
	reason  string
	of      string // "fail-build", "fail-share", "fail-command", or "fail": an activation
	undone  bool   // an activation that ends as it began
	times   int
}

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// condemning are the agents' reasons that condemn a release.
var condemning = []string{"build_failed", "start_failed", "unhealthy", "soak_failed", "command_failed", "hook_failed"}

// play runs a script and returns what it printed.
func play(script string) (string, error) {
	s := &stage{now: began, heard: map[string]time.Time{}}
	s.config = rollout.Configured{Pool: "web", MaxUnavailable: 1}
	for i, line := range strings.Split(script, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if err := s.do(words); err != nil {
			return "", fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
	}
	s.table()
	return s.out.String(), nil
}

func (s *stage) print(format string, a ...any) {
	d := s.now.Sub(began)
	line := fmt.Sprintf("%3d:%02d  ", int(d.Minutes()), int(d.Seconds())%60) + fmt.Sprintf(format, a...)
	s.out.WriteString(strings.TrimRight(line, " ") + "\n")
}

// step gives the engine an event and prints what it notes.
func (s *stage) step(ev rollout.Event) error {
	next, effects, err := rollout.Step(s.state, ev)
	if r, ok := err.(*rollout.Refused); ok {
		s.print("refused (%s): %s", r.Code, r.Text)
		s.noted += r.Text + "\n"
		return nil
	}
	if err != nil {
		return err
	}
	s.state = next
	for _, e := range effects {
		if n, ok := e.(rollout.Noted); ok {
			name := string(n.Rollout)
			if name == "" {
				name = n.App
			}
			s.print("%-8s %-14s %s", name, n.Kind, n.Text)
			s.noted += n.Text + "\n"
		}
	}
	return nil
}

// second lets one second pass.
func (s *stage) second() error {
	s.now = s.now.Add(time.Second)
	for _, a := range s.actors {
		if err := s.act(a); err != nil {
			return err
		}
	}
	nodes := slices.Clone(s.state.Nodes)
	for _, n := range nodes {
		if err := s.hear(n.Name); err != nil {
			return err
		}
	}
	if at, ok := s.state.NextDeadline(); ok && !s.now.Before(at) {
		if err := s.step(rollout.Tick{At: s.now}); err != nil {
			return err
		}
		if at, ok := s.state.NextDeadline(); ok && !at.After(s.now) {
			return fmt.Errorf("a tick leaves a deadline at %s, which is past", at)
		}
	}
	return nil
}

// hear gives the engine a node's report, if it has one, or gives the node up.
func (s *stage) hear(node string) error {
	report, news, away := rollout.Reported{At: s.now, Node: node}, false, false
	for _, a := range s.actors {
		if a.node != node {
			continue
		}
		away = away || a.away
		pr, text := s.report(a)
		news = news || text != a.told
		a.told = text
		report.Placements = append(report.Placements, pr)
	}
	switch since := s.now.Sub(s.heard[node]); {
	case away && since >= time.Minute && s.state.Node(node).Reach != rollout.Unreachable:
		return s.step(rollout.NodeLost{At: s.now, Node: node})
	case !away && (news || since >= 25*time.Second):
		s.heard[node] = s.now
		return s.step(report)
	}
	return nil
}

func (s *stage) report(a *actor) (rollout.PlacementReport, string) {
	_, generation, _ := s.state.Wanted(a.app, a.node)
	pr := rollout.PlacementReport{App: a.app, Generation: generation, Present: slices.Clone(a.disk), Digests: maps.Clone(a.digests), Prepare: a.failure}
	if a.command != nil {
		c := *a.command
		pr.Command = &c
	}
	text := fmt.Sprint(generation, pr.Present, pr.Digests, a.failure, pr.Command)
	for _, t := range a.targets {
		r := rollout.TargetReport{
			Target: rollout.TargetID(t.id), Release: t.release,
			Rotation: rollout.RotationIn, Health: rollout.Healthy, Last: t.last, Linked: t.linked, Outcome: t.outcome,
		}
		switch {
		case t.elsewhere:
		case t.release == "":
			r.Rotation, r.Health = rollout.RotationOut, rollout.HealthUnknown
			if t.sick {
				r.Health = rollout.Unhealthy
			}
		case t.out:
			r.Rotation = rollout.RotationOut
		case t.sick:
			r.Health = rollout.Unhealthy
		}
		pr.Targets = append(pr.Targets, r)
		text += fmt.Sprint(r.Release, r.Rotation, r.Health, r.Last, r.Linked, t.outcome)
	}
	return pr, text
}

// act lets an agent go on with what it is to do.
func (s *stage) act(a *actor) error {
	want, _, ok := s.state.Wanted(a.app, a.node)
	if !ok || a.away {
		return nil
	}
	if err := s.prepare(a, want); err != nil {
		return err
	}
	s.command(a, want.Command)
	for _, t := range a.targets {
		for _, goal := range want.Targets {
			if string(goal.Target) == t.id {
				s.actTarget(a, t, goal)
			}
		}
	}
	return nil
}

func (s *stage) actTarget(a *actor, t *target, goal rollout.Goal) {
	if t.turn != 0 && goal.Turn != t.turn {
		t.outcome = &rollout.Outcome{Turn: t.turn, Fault: rollout.Revoked, Reason: "revoked"}
		t.turn = 0
	}
	switch {
	case t.turn == 0 && goal.Turn != 0 && (t.outcome == nil || t.outcome.Turn != goal.Turn):
		t.turn, t.goal, t.out = goal.Turn, goal, true
		t.ends = s.now.Add(10*time.Second + goal.Soak)
	case t.turn != 0 && !t.stuck && !s.now.Before(t.ends):
		s.finishTurn(a, t)
	}
}

// prepare builds, shares, or takes what is asked for.
func (s *stage) prepare(a *actor, want rollout.Wanted) error {
	id := want.Prepare
	there := slices.Contains(a.disk, id) && (want.Archive == "" || want.Archive == a.digests[id])
	switch {
	case id == "" || (there && !want.Share) || (want.Attempt == a.attempt && a.preparing == ""):
		a.preparing, a.sharing = "", false
	case a.preparing != id || want.Attempt != a.attempt:
		a.preparing, a.attempt, a.sharing, a.prepared = id, want.Attempt, there, s.now.Add(4*time.Second)
	case s.now.Before(a.prepared):
	case want.Archive != "" && !slices.Contains(s.archives, want.Archive):
		s.failPrepare(a, want, &failure{reason: "archive_failed"})
	case a.sharing:
		if f := s.failing(a.node, id, "fail-share"); f != nil {
			s.failPrepare(a, want, f)
			return nil
		}
		a.preparing = ""
		s.archives = append(s.archives, a.digests[id])
		return s.step(rollout.Archived{At: s.now, App: a.app, Digests: slices.Clone(s.archives)})
	default:
		if f := s.failing(a.node, id, "fail-build"); f != nil && want.Archive == "" {
			s.failPrepare(a, want, f)
			return nil
		}
		a.digests[id] = "sha256:" + string(id)
		if want.Archive != "" {
			a.digests[id] = want.Archive
		} else if slices.Contains(s.varies, id) {
			a.digests[id] += "-" + a.node
		}
		if !there {
			a.disk = append(slices.DeleteFunc(a.disk, func(o rollout.ReleaseID) bool { return o == id }), id)
		}
		if a.sharing = want.Share; a.sharing {
			a.prepared = s.now.Add(2 * time.Second)
			return nil
		}
		a.preparing = ""
	}
	return nil
}

// command claims a release command, begins it once it may, and ends it.
func (s *stage) command(a *actor, want rollout.CommandGoal) {
	c := a.command
	switch {
	case want.Number == 0 && c != nil && c.Running:
		c.Running, c.Fault, c.Reason, c.Text = false, rollout.Revoked, "revoked", "the coordinator took it back"
	case want.Number != 0 && (c == nil || c.Number < want.Number):
		a.command = &rollout.CommandReport{Number: want.Number}
		if want.Go {
			a.command.Fault, a.command.Reason, a.command.Text = rollout.NodeFault, "interrupted", "its agent knows nothing of it"
		}
	case want.Number == 0 || c.OK || c.Reason != "":
	case !c.Running && want.Go:
		c.Running, a.commanded = true, s.now.Add(20*time.Second)
	case c.Running && !s.now.Before(a.commanded):
		c.Running = false
		if f := s.failing(a.node, want.Release, "fail-command"); f != nil {
			c.Fault, c.Reason, c.Text = f.fault(), rollout.Reason(f.reason), f.text()
			return
		}
		c.OK, c.Text = true, "in 20s"
	}
}

func (s *stage) failPrepare(a *actor, want rollout.Wanted, f *failure) {
	a.preparing, a.sharing = "", false
	a.failure = &rollout.PrepareReport{Release: want.Prepare, Attempt: want.Attempt, Fault: f.fault(), Reason: rollout.Reason(f.reason), Text: f.text()}
}

func (s *stage) finishTurn(a *actor, t *target) {
	o := &rollout.Outcome{Turn: t.turn}
	t.turn, t.outcome = 0, o
	f := s.failing(t.place, t.goal.Release, "fail")
	if f == nil && !slices.Contains(a.disk, t.goal.Release) {
		f = &failure{reason: "release_missing", undone: true}
	}
	if f == nil {
		o.OK, t.release, t.out, t.sick, t.linked, t.elsewhere = true, t.goal.Release, false, false, "", false
		return
	}
	o.Fault, o.Reason, o.Text = f.fault(), rollout.Reason(f.reason), f.text()
	o.Reverted = f.undone && t.goal.Fallback != ""
	if o.Reverted {
		t.release, t.out = t.goal.Fallback, false
	} else if !f.undone {
		t.release = t.goal.Release
	} else if f.reason == "hook_failed" {
		t.out = false // it was not drained
	}
}

// failing returns the failure that the script has for this, or nil.
func (s *stage) failing(place string, id rollout.ReleaseID, of string) *failure {
	node, _, _ := strings.Cut(place, ":")
	for _, f := range s.fails {
		if (f.node == place || f.node == node || f.node == "all") && f.of == of && (f.release == "" || f.release == id) && f.times > 0 {
			f.times--
			return f
		}
	}
	return nil
}

func (f *failure) fault() rollout.Fault {
	if slices.Contains(condemning, f.reason) {
		return rollout.ReleaseFault
	}
	return rollout.NodeFault
}

func (f *failure) text() string {
	switch f.reason {
	case "build_failed":
		return "`make` ended with status 2"
	case "disk_full":
		return "no space left on the device"
	case "command_failed":
		return "`bin/migrate` ended with status 1"
	case "interrupted":
		return "the agent was killed while it ran"
	case "hook_failed":
		return "before_drain: `bin/hand-over` ended with status 1"
	case "unhealthy":
		return "no health check passed in 30s"
	case "start_failed":
		return "the unit ended with status 1 at once"
	case "balancer_refused":
		return "the balancer sees too few others that serve"
	}
	return strings.ReplaceAll(f.reason, "_", " ")
}

// table prints how everything stands in the end.
func (s *stage) table() {
	for i := range s.state.Apps {
		a := &s.state.Apps[i]
		fmt.Fprintf(&s.out, "\n%s: current %s", a.Name, orNone(string(a.Current)))
		for _, r := range a.Releases {
			switch {
			case r.Bad != nil:
				fmt.Fprintf(&s.out, ", %s bad", r.ID)
			case r.Stable:
				fmt.Fprintf(&s.out, ", %s stable", r.ID)
			}
		}
		s.out.WriteString("\n")
		for _, r := range []*rollout.Rollout{a.Last, a.Live, a.Waiting} {
			if r == nil {
				continue
			}
			state := string(r.Status)
			if r.Paused != nil {
				state += ", paused"
			}
			fmt.Fprintf(&s.out, "  %-8s %s of %s: %s\n", r.ID, r.Kind, r.Release, state)
		}
		for j := range s.state.Targets {
			t := &s.state.Targets[j]
			if t.App != a.Name {
				continue
			}
			turn := ""
			if t.Turn != 0 {
				turn = ", holds a turn"
			}
			seen := "not heard of"
			if t.Seen.Known {
				seen = fmt.Sprintf("runs %s, %s", orNone(string(t.Seen.Release)), t.Seen.Rotation)
			}
			fmt.Fprintf(&s.out, "  %-8s %-11s %s%s\n", t.Place(), t.Phase, seen, turn)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
