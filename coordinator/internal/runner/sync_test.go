package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// held begins a sync that is to be held, and fails when it is not.
func (a *agent) held(t *testing.T, ctx context.Context) <-chan error {
	t.Helper()
	done, req := make(chan error, 1), a.next()
	go func() {
		ps, err := a.r.Sync(ctx, a.req.Node, req, api.LongPoll)
		a.accept(ps)
		done <- err
	}()
	synctest.Wait()
	select {
	case err := <-done:
		t.Fatalf("a sync without news was answered at once (%v)", err)
	default:
	}
	return done
}

func TestSyncAnswersAtOnceWhatTheAgentDoesNotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, config(newMemory()))
		a := newAgent(r, "web1")
		begun := time.Now()
		ps := a.sync(t, api.LongPoll)
		if len(ps) != 1 || ps[0].App != "hello" || ps[0].Generation == 0 || ps[0].Wanted.Revision != "r1" {
			t.Errorf("assigned %+v", ps)
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("answered after %s", d)
		}
	})
}

func TestSyncIsHeldUntilNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, config(newMemory()))
		a := newAgent(r, "web1")
		a.sync(t, 0)
		done := a.held(t, t.Context())
		time.Sleep(5 * time.Second)
		if _, err := deploy(r, releaseA); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("answered %s after the news", d)
		}
		s := view(t, r)
		if w, g, _ := s.Wanted("hello", "web1"); w.Prepare != releaseA || a.app().Generation != g {
			t.Errorf("the agent took generation %d; %d asks it to prepare %q", a.app().Generation, g, w.Prepare)
		}
	})
}

func TestSyncEnds(t *testing.T) {
	t.Run("after the long poll", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, config(newMemory()))
			a := newAgent(r, "web1")
			a.sync(t, 0)
			begun := time.Now()
			if ps := a.sync(t, api.LongPoll); len(ps) != 1 {
				t.Errorf("assigned %+v, expected what the agent holds", ps)
			}
			if d := time.Since(begun); d != api.LongPoll {
				t.Errorf("answered after %s", d)
			}
		})
	})
	t.Run("with its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, config(newMemory()))
			a := newAgent(r, "web1")
			a.sync(t, 0)
			ctx, cancel := context.WithCancel(t.Context())
			done := a.held(t, ctx)
			cancel()
			synctest.Wait()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			default:
				t.Error("it is still held")
			}
		})
	})
	t.Run("of a node without apps, not before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, config(newMemory()))
			begun := time.Now()
			ps, err := r.Sync(t.Context(), "web9", &api.SyncRequest{Node: "web9"}, api.LongPoll)
			if err != nil || len(ps) != 0 || time.Since(begun) != api.LongPoll {
				t.Errorf("assigned %+v, %v after %s", ps, err, time.Since(begun))
			}
		})
	})
}

func TestLateReports(t *testing.T) {
	for name, late := range map[string]func(*api.SyncRequest){
		"earlier sync":     func(q *api.SyncRequest) { q.Seq-- },
		"same sync":        func(*api.SyncRequest) {},
		"earlier start":    func(q *api.SyncRequest) { q.Epoch--; q.Seq += 100 },
		"later than start": nil,
	} {
		t.Run(name, func(t *testing.T) {
			st := newMemory()
			r := start(t, config(st))
			a := newAgent(r, "web1")
			a.req.Epoch, a.req.Seq = 5, 5
			a.app().Targets[0].Release = string(releaseB)
			a.sync(t, 0)
			before := st.count()

			q := a.next()
			q.Seq-- // the one that was taken
			q.Apps[0].Targets = []api.TargetReport{{Target: "hello@web1", Release: string(releaseA), Rotation: api.RotationOut, Health: api.Unhealthy}}
			taken := late == nil
			if late != nil {
				late(q)
			} else {
				q.Epoch, q.Seq = q.Epoch+1, 1
			}
			ps, err := r.Sync(t.Context(), "web1", q, 0)
			if err != nil || len(ps) != 1 {
				t.Fatalf("answered %+v, %v", ps, err)
			}
			s := view(t, r)
			if got := s.Target("hello@web1").Seen.Release == releaseA; got != taken {
				t.Errorf("counted: %v, expected %v", got, taken)
			}
			if (st.count() > before) != taken {
				t.Errorf("%d commits", st.count()-before)
			}
		})
	}
}

func TestEqualReportsAreNotStoredAgain(t *testing.T) {
	st := newMemory()
	r := start(t, config(st))
	a := newAgent(r, "web1")
	a.sync(t, 0)
	a.sync(t, 0) // it holds its generation now
	before := st.count()
	news := r.News()
	a.app().Targets[0].Turn, a.app().Targets[0].Step = 1, api.StepDrain // shown, but nothing to the engine
	a.sync(t, 0)
	a.sync(t, 0)
	if n := st.count() - before; n != 0 {
		t.Errorf("%d commits for what was known", n)
	}
	select {
	case <-news:
	default:
		t.Error("watchers were not told of the step")
	}
	if c := r.Contact("web1"); c.Version != "1.0" || len(c.Apps) != 1 || c.Apps[0].Targets[0].Step != api.StepDrain {
		t.Errorf("contact %+v", c)
	}
	a.app().Present = []string{string(releaseA)}
	a.sync(t, 0)
	if n := st.count() - before; n != 1 {
		t.Errorf("%d commits for news", n)
	}
}

func TestReportIsTakenAgainAfterItCouldNotBeStored(t *testing.T) {
	for name, written := range map[string]bool{"not written": false, "written": true} {
		t.Run(name, func(t *testing.T) {
			st := newMemory()
			r := start(t, config(st))
			a := newAgent(r, "web1")
			a.sync(t, 0)
			a.app().Present = []string{string(releaseA)}
			q := a.next()
			st.failNext(written)
			if _, err := r.Sync(t.Context(), "web1", q, 0); !errors.Is(err, errDisk) {
				t.Fatalf("error %v", err)
			}
			// The client repeats what was answered with an error, as it is.
			if _, err := r.Sync(t.Context(), "web1", q, 0); err != nil {
				t.Fatal(err)
			}
			s := view(t, r)
			if got := s.Placement("hello", "web1").Present; len(got) != 1 || got[0] != releaseA {
				t.Errorf("present: %v", got)
			}
		})
	}
}

func TestReportedWords(t *testing.T) {
	for name, c := range map[string]struct {
		in   api.TargetReport
		want rollout.TargetReport
	}{
		"well": {
			api.TargetReport{Target: "t", Release: "r", Rotation: api.RotationDraining, Health: api.Unhealthy},
			rollout.TargetReport{Target: "t", Release: "r", Rotation: rollout.RotationDraining, Health: rollout.Unhealthy},
		},
		"words of a later version": {
			api.TargetReport{Target: "t", Rotation: "half", Health: "splendid"},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown},
		},
		"success": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, OK: true, Out: api.Duration(1500 * time.Millisecond)}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, OK: true, Text: "out of rotation for 1.5s"}},
		},
		"success, with something to tell": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, OK: true, Out: api.Duration(time.Second), Steps: []api.StepTime{
				{Step: api.StepDrain, Note: "what remained was ended by force"}, {Step: api.StepSwitch},
			}}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, OK: true, Text: "out of rotation for 1s; what remained was ended by force"}},
		},
		"a bad release": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, Reverted: true, Reason: api.ReasonUnhealthy, Text: "no"}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, Reverted: true, Fault: rollout.ReleaseFault, Reason: "unhealthy", Text: "no"}},
		},
		"a bad node": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, Reason: api.ReasonDiskFull}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, Fault: rollout.NodeFault, Reason: "disk_full"}},
		},
		"a reason of a later version": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, Reason: "moonlight"}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, Fault: rollout.NodeFault, Reason: "moonlight"}},
		},
		"a turn taken back": {
			api.TargetReport{Target: "t", Outcome: &api.Outcome{Turn: 7, Reason: api.ReasonRevoked, Reverted: true}},
			rollout.TargetReport{Target: "t", Rotation: rollout.RotationUnknown, Health: rollout.HealthUnknown,
				Outcome: &rollout.Outcome{Turn: 7, Reverted: true, Fault: rollout.Revoked, Reason: "revoked"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := targetReported(c.in)
			g, w := got.Outcome, c.want.Outcome
			got.Outcome, c.want.Outcome = nil, nil
			if got != c.want || (g == nil) != (w == nil) || (g != nil && *g != *w) {
				t.Errorf("got %+v %+v, expected %+v %+v", got, g, c.want, w)
			}
		})
	}
}
