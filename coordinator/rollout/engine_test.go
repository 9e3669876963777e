package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// steps plays a script and returns the stage as it stands then.
func steps(t *testing.T, script ...string) *stage {
	t.Helper()
	s := &stage{now: began, heard: map[string]time.Time{}}
	s.config = rollout.Configured{Pool: "web", MaxUnavailable: 1}
	for _, line := range script {
		if err := s.do(strings.Fields(line)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return s
}

func (s *stage) must(t *testing.T, ev rollout.Event) []rollout.Effect {
	t.Helper()
	next, effects, err := rollout.Step(s.state, ev)
	if err != nil {
		t.Fatal(err)
	}
	s.state = next
	return effects
}

// TestAgentKnowsMore is of a coordinator that was restored from a copy: what the
// agent has seen must not keep it from listening.
func TestAgentKnowsMore(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "run")
	s.must(t, rollout.Reported{At: s.now, Node: "web1", Placements: []rollout.PlacementReport{{
		App: "shop", Generation: 1000, Present: []rollout.ReleaseID{"r1"},
		Targets: []rollout.TargetReport{{Target: "shop@web1", Release: "r1", Rotation: rollout.RotationIn, Health: rollout.Healthy,
			Outcome: &rollout.Outcome{Turn: 77, OK: true}}},
	}}})
	if _, g, _ := s.state.Wanted("shop", "web1"); g <= 1000 {
		t.Errorf("the assignment has generation %d, which an agent at 1000 ignores", g)
	}
	s.must(t, rollout.DeployRequested{At: s.now, App: "shop", Release: rollout.Release{ID: "r2", SHA: "r2"}})
	for range 10 {
		if err := s.second(); err != nil {
			t.Fatal(err)
		}
	}
	if turn := s.state.Target("shop@web1").Turn; turn <= 77 {
		t.Errorf("turn %d was given, and the agent has finished 77 already", turn)
	}
}

// TestNextStartCounts is of a target that a person linked to another release, and
// that no rollout left well: it is not where it should be, although it still serves.
func TestNextStartCounts(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "run")
	target := s.state.Target("shop@web1")
	target.Phase = rollout.TargetQuarantined
	if !s.state.Converged("shop") {
		t.Fatalf("it is said not to have converged, and web1 serves r1: %+v", target)
	}
	target.Seen.Linked = "r2"
	if s.state.Converged("shop") {
		t.Error("it is said to have converged, and web1 runs r2 after its next start")
	}
}

// TestTurnThatWentWithItsTarget is of a target that was taken out of the configuration
// and put back while its agent worked on a turn: it was seen to serve meanwhile, and
// is out when that turn ends.
func TestTurnThatWentWithItsTarget(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "run")
	s.must(t, rollout.Reported{At: s.now, Node: "web1", Placements: []rollout.PlacementReport{{
		App: "shop", Generation: s.state.Generation, Present: []rollout.ReleaseID{"r1"},
		Targets: []rollout.TargetReport{{Target: "shop@web1", Release: "r1", Rotation: rollout.RotationOut, Health: rollout.Healthy,
			Outcome: &rollout.Outcome{Turn: 7, Fault: rollout.Revoked, Reason: "revoked"}}},
	}}})
	if l := s.state.App("shop").Live; l == nil || l.Kind != rollout.CatchUp {
		t.Errorf("nothing brings it back: %+v, live %+v", *s.state.Target("shop@web1"), l)
	}
}

// TestAppComesBack is of an app that is taken out of the configuration and put
// in again: no rollout's name is given twice.
func TestAppComesBack(t *testing.T) {
	s := steps(t, "app mail web1", "app shop web1 web2", "push shop r1", "run")
	config := s.config
	s.config.Apps = s.config.Apps[:1]
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	s.config = config
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	s.must(t, rollout.DeployRequested{At: s.now, App: "shop", Release: rollout.Release{ID: "r1", SHA: "r1"}})
	if id := s.state.App("shop").Live.ID; id != "shop-2" {
		t.Errorf("the next rollout is %s, expected shop-2", id)
	}
}

// TestRecordOfWhatEnded is of a rollout whose successor begins in the same
// step: its record says where its own targets stood.
func TestRecordOfWhatEnded(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "until web1 activates", "push shop r2")
	for range 60 {
		s.now = s.now.Add(time.Second)
		s.act(s.actors[0])
		pr, _ := s.report(s.actors[0])
		for _, e := range s.must(t, rollout.Reported{At: s.now, Node: "web1", Placements: []rollout.PlacementReport{pr}}) {
			if c, ok := e.(rollout.Changed); ok && c.Rollout.ID == "shop-1" && c.Rollout.Status == rollout.Succeeded {
				if p := c.Targets[0].Phase; p != rollout.TargetActive {
					t.Errorf("the record of shop-1 has web1 %s, expected active", p)
				}
				if live := s.state.App("shop").Live; live == nil || live.ID != "shop-2" {
					t.Error("shop-2 did not begin in the same step")
				}
				return
			}
		}
	}
	t.Fatal("shop-1 did not end")
}

// TestHeldPushDoesNotReplaceAPerson is of automation on hold: a push must not
// take the place of what a person asked for, only to wait there.
func TestHeldPushDoesNotReplaceAPerson(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "until web1 activates", "hold shop", "deploy shop r2")
	_, _, err := rollout.Step(s.state, rollout.DeployRequested{At: s.now, App: "shop", Release: rollout.Release{ID: "r3", SHA: "r3"}, Automatic: true})
	if r, ok := err.(*rollout.Refused); !ok || r.Code != rollout.RefusedLive {
		t.Errorf("got %v, expected a refusal", err)
	}
}

// TestUnknownIsNotOut is of a target whose balancer cannot be asked: it may
// serve, so it is not drained as if it were out.
func TestUnknownIsNotOut(t *testing.T) {
	s := steps(t, "app shop web1 web2", "push shop r1", "run", "push shop r2", "wait 3s")
	for _, a := range s.actors {
		a.disk = append(a.disk, "r2")
		pr, _ := s.report(a)
		pr.Targets[0].Rotation = rollout.RotationUnknown
		s.must(t, rollout.Reported{At: s.now, Node: a.node, Placements: []rollout.PlacementReport{pr}})
	}
	for _, tg := range s.state.Targets {
		if tg.Turn != 0 {
			t.Errorf("%s got a turn while the other may be out", tg.ID)
		}
	}
}

// TestRolloutOfNothing is of a rollout all of whose nodes are taken away.
func TestRolloutOfNothing(t *testing.T) {
	s := steps(t, "app shop web1", "push shop r1", "run", "push shop r2", "wait 1s")
	s.config.Apps[0].Nodes = []string{"web9"}
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	if at, ok := s.state.NextDeadline(); !ok {
		t.Error("nothing will ever end it")
	} else {
		s.must(t, rollout.Tick{At: at})
		if l := s.state.App("shop").Live; l != nil && l.Paused == nil {
			t.Errorf("%s is %s and not paused", l.ID, l.Status)
		}
	}
}
