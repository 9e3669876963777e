package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (s small) outcome(t *testing.T, turn uint64) api.Outcome {
	t.Helper()
	return *s.c.awaitApp(t, hello, "the turn is over", func(a api.AppReport) bool {
		return len(a.Targets) == 1 && a.Targets[0].Outcome != nil && a.Targets[0].Outcome.Turn == turn
	}).Targets[0].Outcome
}

func TestHooksRunInATurnAndKnowWhereTheyAre(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	say := []string{`echo "$LOCKSTEP_APP $LOCKSTEP_NODE $LOCKSTEP_TARGET $LOCKSTEP_RELEASE $LOCKSTEP_SHA ($LOCKSTEP_FALLBACK) ($LOCKSTEP_INSTANCE) $(cat f)"`}
	r := s.repo.release(map[string]string{"f": "content"})
	r.Recipe.Hooks = &api.Hooks{AfterDrain: say, AfterRejoin: []string{"exit 4"}, Timeout: api.Duration(time.Minute)}
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.turn(1, r.ID, "")
	o := s.outcome(t, 1)
	if !o.OK {
		t.Fatalf("%+v", o)
	}
	var steps []string
	for _, st := range o.Steps {
		steps = append(steps, string(st.Step))
		if st.Step == api.StepAfterRejoin && !strings.Contains(st.Note, "exit status 4") {
			t.Errorf("after_rejoin: %+v", st)
		}
	}
	if got := strings.Join(steps, " "); got != "snapshot drain after_drain switch restart verify rejoin after_rejoin soak" {
		t.Errorf("steps: %s", got)
	}
	want := "\nhello web1 hello@web1 " + r.ID + " " + r.SHA + " () () content\n"
	s.c.await(t, "the hook's output arrives", func() bool { return strings.Contains(s.c.logs["after_drain"], want) })
}

// Of several instances on a node, the output of a hook tells whose it is.
func TestTheOutputOfAHookTellsItsInstance(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"}, "echo built")
	r.Recipe.Hooks = &api.Hooks{BeforeDrain: []string{`echo "instance $LOCKSTEP_INSTANCE"`}, Timeout: api.Duration(time.Minute)}
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.c.set(hello, func(a *api.Assignment) {
		a.Spec.Unit = "hello@.service"
		a.Targets = []api.Goal{
			{Target: "hello@web1:8000", Instance: "8000", Unit: "hello@8000.service"},
			{Target: "hello@web1:8001", Instance: "8001", Unit: "hello@8001.service", Release: r.ID, Turn: 1},
		}
	})
	s.c.await(t, "the hook's output arrives", func() bool { return strings.Contains(s.c.logs["before_drain"], "instance 8001\n") })
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for _, k := range s.c.posted {
		if want := map[api.Step]string{api.StepBeforeDrain: "8001"}[k.Step]; k.Instance != want {
			t.Errorf("output of %s belongs to instance %q, want %q: %s", k.Step, k.Instance, want, k.Data)
		}
	}
}

func TestAHookThatHangsFailsItsTurn(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"})
	r.Recipe.Hooks = &api.Hooks{BeforeDrain: []string{"sleep 600"}, Timeout: api.Duration(time.Second)}
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.turn(1, r.ID, "")
	if o := s.outcome(t, 1); o.OK || o.Reason != api.ReasonHookFailed || !strings.Contains(o.Text, "took longer than 1s (hooks.timeout)") {
		t.Errorf("%+v", o)
	}
}

// Between a stop and a start, nothing of the app runs, and no visitor notices.
func TestAHookRunsWhileTheUnitIsStopped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.c.set(hello, func(a *api.Assignment) { a.Spec.Restart, a.Rollout = api.RestartStopStart, "hello-1" })
	s.start(t)
	one := s.first(t)
	before, err := s.deps.Units.Status(t.Context(), "hello.service")
	if err != nil {
		t.Fatal(err)
	}
	traffic := s.traffic(t)
	two := s.prepare(t, map[string]string{"version": "two"})
	two.Recipe.Hooks = &api.Hooks{Timeout: api.Duration(time.Minute), WhileStopped: []string{
		fmt.Sprintf("test ! -e /proc/%d", before.MainPID), `echo "in $(cat version), nothing runs"`,
	}}
	s.describe(two)
	o, target := s.c.awaitTurn(t, hello, s.activate(two.ID, one.ID))
	if !o.OK || target.Release != two.ID {
		t.Fatalf("%+v, %+v", o, target)
	}
	s.c.await(t, "the hook's output arrives", func() bool { return strings.Contains(s.c.logs["while_stopped"], "in two, nothing runs\n") })
	if asked, failures := traffic(); len(failures) > 0 || asked < 20 {
		t.Errorf("%d of %d requests failed: %v", len(failures), asked, failures)
	}
}
