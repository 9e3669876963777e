package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const hello = "hello"

// small is a node with one app that has neither balancer nor health check.
type small struct {
	*node
	c     *coordinator
	units *fakeUnits
	repo  repo
}

func newSmall(t *testing.T) small {
	t.Helper()
	c, units := newCoordinator(), &fakeUnits{runs: map[string]string{}}
	n := newNode(t, c, units)
	units.apps = n.cfg.Apps
	s := small{n, c, units, newRepo(t)}
	c.set(hello, func(a *api.Assignment) {
		a.Spec = api.Spec{Repo: s.repo.dir, Unit: "hello.service", RestartTimeout: api.Duration(20 * time.Second)}
		a.Rollout, a.KeepReleases = "hello-1", 5
		a.Targets = []api.Goal{{Target: "hello@web1"}}
	})
	return s
}

func (s small) prepare(r api.Release, attempt int) {
	s.c.set(hello, func(a *api.Assignment) {
		a.Releases = append(slices.Clone(a.Releases), r)
		a.Prepare = &api.Prepare{Release: r.ID, Attempt: attempt}
	})
}

func (s small) turn(n uint64, release, fallback string) {
	s.c.set(hello, func(a *api.Assignment) {
		a.Targets[0].Turn, a.Targets[0].Release, a.Targets[0].Fallback = n, release, fallback
	})
}

func TestAPreparedReleaseIsActivatedInItsTurnOnly(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"}, "echo built by $(cat f) > out", "echo done")
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	// Desired, without a turn: not to be touched.
	s.turn(0, r.ID, "")
	g := s.c.want[hello].Generation
	s.c.awaitApp(t, hello, "the goal is accepted", func(a api.AppReport) bool { return a.Generation == g })
	if n := s.units.count(); n != 0 {
		t.Fatalf("%d restarts without a turn", n)
	}
	s.turn(1, r.ID, "")
	o, _ := s.c.awaitTurn(t, hello, 1)
	if !o.OK || o.Release != r.ID {
		t.Fatalf("outcome %+v, want well", o)
	}
	s.c.awaitApp(t, hello, "the target is seen in rotation", func(a api.AppReport) bool {
		v := a.Targets[0]
		return v.Release == r.ID && v.Rotation == api.RotationIn && v.Health == api.Healthy && v.Turn == 0
	})
	out, err := os.ReadFile(filepath.Join(s.cfg.Apps, hello, "current", "out"))
	if err != nil || string(out) != "built by 1\n" {
		t.Errorf("the build left %q, %v", out, err)
	}
	s.c.await(t, "the build log arrives", func() bool { return strings.Contains(s.c.logs["build"], "done") })
}

func TestAFinishedTurnIsNotWorkedOnAgain(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.turn(1, r.ID, "")
	s.c.awaitTurn(t, hello, 1)
	s.stop()
	epoch := s.lastSync().Epoch

	// The unit falls back to something else; that is no leave to touch it.
	s.units.mu.Lock()
	s.units.runs["hello.service"] = "/elsewhere"
	s.units.restarts++
	s.units.mu.Unlock()
	s.start(t)
	s.turn(1, r.ID, "") // the same turn, in a newer generation
	g := s.c.want[hello].Generation
	s.c.awaitApp(t, hello, "what runs is seen", func(a api.AppReport) bool {
		return a.Generation == g && a.Targets[0].Release == "" && a.Targets[0].Rotation == api.RotationIn
	})
	if n := s.units.count(); n != 2 {
		t.Errorf("restarted again for a finished turn")
	}
	if e := s.lastSync().Epoch; e != epoch+1 {
		t.Errorf("epoch %d after %d", e, epoch)
	}
}

func (s small) lastSync() api.SyncRequest {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.seen[len(s.c.seen)-1]
}

func TestAnOldAssignmentIsIgnored(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	g := s.c.want[hello].Generation
	s.c.do(func() {
		a := s.c.want[hello]
		a.Generation = g - 1
		a.Targets = []api.Goal{{Target: "hello@web1", Turn: 1, Release: r.ID}}
		s.c.want[hello] = a
	})
	before := s.lastSync().Seq
	s.c.await(t, "the old assignment was answered several times", func() bool { return s.c.seen[len(s.c.seen)-1].Seq > before+3 })
	if r := s.c.reports[hello]; r.Generation != g || r.Targets[0].Outcome != nil || s.units.count() != 0 {
		t.Errorf("it acted on an old assignment: %+v", r)
	}
}

func TestAFailedAttemptIsRepeatedWhenItsNumberRises(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	flag := filepath.Join(t.TempDir(), "flag")
	count := filepath.Join(t.TempDir(), "count")
	r := s.repo.release(nil, "echo x >> "+count, "echo looking for the flag; test -e "+flag)
	s.prepare(r, 1)
	rep := s.c.awaitApp(t, hello, "preparing failed", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Failed })
	if rep.Prepare.Reason != api.ReasonBuildFailed || len(rep.Present) != 0 {
		t.Errorf("report %+v, present %v", rep.Prepare, rep.Present)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start(t)
	// The same attempt in a newer generation, and after a restart.
	s.c.set(hello, func(*api.Assignment) {})
	g := s.c.want[hello].Generation
	s.c.awaitApp(t, hello, "the newer generation is accepted", func(a api.AppReport) bool { return a.Generation == g })
	s.c.set(hello, func(a *api.Assignment) { a.Prepare = &api.Prepare{Release: r.ID, Attempt: 2} })
	s.c.awaitApp(t, hello, "the second attempt succeeds", func(a api.AppReport) bool { return slices.Contains(a.Present, r.ID) })
	if b, err := os.ReadFile(count); err != nil || string(b) != "x\nx\n" {
		t.Errorf("the build ran %d times (%v), want 2", len(b)/2, err)
	}
	s.c.await(t, "the output of both attempts arrives", func() bool {
		return strings.Count(s.c.logs["build"], "\nlooking for the flag") == 2
	})
}

func TestABuildDoesNotHoldUpAnActivation(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	first := s.repo.release(map[string]string{"f": "1"})
	s.prepare(first, 1)
	s.c.awaitPresent(t, hello, first.ID)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	second := s.repo.release(map[string]string{"f": "2"}, "cat "+fifo)
	s.prepare(second, 1)
	s.c.awaitApp(t, hello, "the build is under way", func(a api.AppReport) bool {
		return a.Prepare != nil && a.Prepare.Release == second.ID && a.Prepare.Step == api.StepBuild
	})
	s.turn(1, first.ID, "")
	if o, _ := s.c.awaitTurn(t, hello, 1); !o.OK {
		t.Errorf("outcome %+v", o)
	}
	if err := os.WriteFile(fifo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.c.awaitPresent(t, hello, second.ID)
}

// Agents that share a machine do not end each other's builds.
func TestTwoAgentsBuildTheSameRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end, log := filepath.Join(dir, "end"), filepath.Join(dir, "begun")
	one, two := newSmall(t), newSmall(t)
	two.c.set(hello, func(a *api.Assignment) { a.Spec.Repo = one.repo.dir })
	r := one.repo.release(map[string]string{"f": "1"}, "echo begun >>"+log, "while [ ! -e "+end+" ]; do sleep 0.05; done")
	for begun, s := range []small{one, two} {
		s.start(t)
		s.prepare(r, 1)
		deadline := time.Now().Add(patience)
		for b := ""; strings.Count(b, "begun") <= begun; {
			if time.Now().After(deadline) {
				t.Fatalf("build %d did not begin", begun+1)
			}
			time.Sleep(10 * time.Millisecond)
			read, _ := os.ReadFile(log) // not there before the first
			b = string(read)
		}
	}
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one.c.awaitPresent(t, hello, r.ID)
	two.c.awaitPresent(t, hello, r.ID)
}

func TestAnotherReleaseBreaksOffABuild(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	slow := s.repo.release(map[string]string{"f": "1"}, "sleep 600")
	s.prepare(slow, 1)
	s.c.awaitApp(t, hello, "the build is under way", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Step == api.StepBuild })
	next := s.repo.release(map[string]string{"f": "2"})
	s.prepare(next, 1)
	r := s.c.awaitApp(t, hello, "the other is prepared", func(r api.AppReport) bool { return slices.Contains(r.Present, next.ID) })
	if slices.Contains(r.Present, slow.ID) {
		t.Errorf("a build that was broken off is present: %v", r.Present)
	}
}

func TestATurnIsFinishedWithoutTheCoordinator(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	hold := make(chan struct{})
	s.units.mu.Lock()
	s.units.hold = hold
	s.units.mu.Unlock()
	s.turn(1, r.ID, "")
	s.c.awaitApp(t, hello, "the unit is being restarted", func(a api.AppReport) bool { return a.Targets[0].Step == api.StepRestart })
	s.c.do(func() { s.c.away = true })
	close(hold)
	deadline := time.Now().Add(patience)
	for s.units.count() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the turn did not go on")
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.c.do(func() { s.c.away = false })
	if o, _ := s.c.awaitTurn(t, hello, 1); !o.OK {
		t.Errorf("outcome %+v", o)
	}
}

func TestAStoppedAgentGoesOnWithItsTurn(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.units.mu.Lock()
	s.units.hold = make(chan struct{}) // never closed: the restart hangs
	s.units.mu.Unlock()
	s.turn(1, r.ID, "")
	s.c.awaitApp(t, hello, "the unit is being restarted", func(a api.AppReport) bool { return a.Targets[0].Step == api.StepRestart })
	begun := time.Now()
	s.stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	s.units.mu.Lock()
	s.units.hold = nil
	s.units.mu.Unlock()
	s.start(t)
	if o, _ := s.c.awaitTurn(t, hello, 1); !o.OK || s.units.count() != 1 {
		t.Errorf("outcome %+v after %d restarts", o, s.units.count())
	}
}

func TestAnAppThatIsNoLongerNamedIsLeftRunning(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.turn(1, r.ID, "")
	s.c.awaitTurn(t, hello, 1)
	kept := s.c.want[hello]
	s.c.do(func() { delete(s.c.want, hello) })
	s.c.await(t, "the app is no longer reported", func() bool { return len(s.c.reports) == 0 })
	if dir := s.units.runs["hello.service"]; filepath.Base(dir) != r.ID {
		t.Errorf("the unit runs from %q", dir)
	}
	// It comes back where it was.
	s.c.do(func() { s.c.want[hello] = kept })
	s.c.awaitTurn(t, hello, 1)
	if s.units.count() != 1 {
		t.Errorf("%d restarts, want 1", s.units.count())
	}
}

func TestOldReleasesAreRemovedAndKeptOnesStay(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	var ids []string
	for n := range uint64(4) {
		r := s.repo.release(map[string]string{"f": string(rune('a' + n))})
		ids = append(ids, r.ID)
		s.c.set(hello, func(a *api.Assignment) { a.Keep = slices.Clone(ids) }) // nothing goes yet
		s.prepare(r, 1)
		s.c.awaitPresent(t, hello, r.ID)
		s.turn(n+1, r.ID, "")
		if o, _ := s.c.awaitTurn(t, hello, n+1); !o.OK {
			t.Fatalf("outcome %+v", o)
		}
	}
	s.c.set(hello, func(a *api.Assignment) { a.Keep, a.KeepReleases = ids[:1], 1 })
	want := []string{ids[0], ids[2], ids[3]} // named, one more, and the current one
	slices.Sort(want)
	s.c.awaitApp(t, hello, "the second release is removed", func(a api.AppReport) bool { return slices.Equal(a.Present, want) })
}

func TestStateThatCannotBeWorkedWith(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	if _, err := agent.New(s.cfg, s.deps); err == nil || !strings.Contains(err.Error(), "another deploy-agent") {
		t.Errorf("a second agent on the same state gave %v", err)
	}
	g := s.c.want[hello].Generation
	s.c.awaitApp(t, hello, "the assignment is accepted", func(a api.AppReport) bool { return a.Generation == g })
	s.stop()
	path := filepath.Join(s.cfg.State, "journal", hello+".json")
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.New(s.cfg, s.deps); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a corrupt journal gave %v, want an error naming %s", err, path)
	}
}
