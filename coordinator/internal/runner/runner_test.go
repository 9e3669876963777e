package runner

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store/sqlite"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

func TestStepThatCouldNotBeStored(t *testing.T) {
	for name, written := range map[string]bool{"not written": false, "written": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newMemory()
				cfg := config(st)
				var told int
				cfg.Committed = func(string, []rollout.Effect) { told++ }
				r := start(t, cfg)
				a := newAgent(r, "web1")
				a.sync(t, 0)
				a.sync(t, 0)
				done := a.held(t, t.Context())
				before, news := told, r.News()

				st.failNext(written)
				if _, err := deploy(r, releaseA); !errors.Is(err, errDisk) {
					t.Fatalf("error %v", err)
				}
				if told != before {
					t.Error("a step was acted upon whose storing is in doubt")
				}
				s := view(t, r)
				if live := s.App("hello").Live != nil; live != written {
					t.Errorf("a rollout is live: %v, but stored: %v", live, written)
				}
				synctest.Wait()
				select {
				case err := <-done:
					if !written || err != nil {
						t.Errorf("answered the agent (%v)", err)
					}
				default:
					if written {
						t.Error("the agent that waits was not told of what was stored")
					}
				}
				select {
				case <-news:
				default:
					t.Error("watchers were not told to look again")
				}
				// What follows goes on from what is stored.
				if _, err := deploy(r, releaseB); err != nil {
					t.Fatal(err)
				}
				s = view(t, r)
				if l := s.App("hello").Live; l == nil || l.Release != releaseB {
					t.Errorf("live: %+v", l)
				}
				if written {
					return
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAnotherWriterCame(t *testing.T) {
	st := newMemory()
	r, other := start(t, config(st)), start(t, config(st))
	if _, err := deploy(r, releaseA); err == nil {
		t.Fatal("a step from an old version was stored")
	}
	if _, err := deploy(r, releaseA); err != nil {
		t.Fatalf("after the state was read again: %v", err)
	}
	if _, err := deploy(other, releaseB); err == nil {
		t.Error("a step from an old version was stored")
	}
}

func TestClientThatHangsUpDoesNotHalveItsStep(t *testing.T) {
	st := newMemory()
	r := start(t, config(st))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Apply(ctx, "hello", func(at time.Time) rollout.Event {
		return rollout.DeployRequested{At: at, App: "hello", Release: rollout.Release{ID: releaseA, SHA: "aaaaaaaaaaaa"}, By: "ann"}
	})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := st.Load(t.Context(), "edge")
	if err != nil || s.App("hello").Live == nil {
		t.Errorf("not stored: %v", err)
	}
}

func TestApplyRefused(t *testing.T) {
	st := newMemory()
	r := start(t, config(st))
	before := st.count()
	var refused *rollout.Refused
	_, err := r.Apply(t.Context(), "hello", func(at time.Time) rollout.Event {
		return rollout.PauseRequested{At: at, App: "hello", By: "ann"}
	})
	if !errors.As(err, &refused) || refused.Code != rollout.RefusedNotLive {
		t.Errorf("error %v", err)
	}
	_, err = r.Apply(t.Context(), "bye", func(time.Time) rollout.Event { t.Error("asked for an event"); return nil })
	if !errors.As(err, &refused) || refused.Code != rollout.RefusedUnknownApp {
		t.Errorf("error %v", err)
	}
	if st.count() != before {
		t.Error("a refusal was stored")
	}
}

func TestSilentNodeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, config(newMemory()))
		run(t, r)
		web1 := newAgent(r, "web1")
		web1.sync(t, 0)
		// web2 was never heard of: nothing is known of it before the timeout.
		time.Sleep(50 * time.Second)
		if got := reach(t, r, "web2"); got != rollout.ReachUnknown {
			t.Errorf("web2 is %s after 50s", got)
		}
		web1.sync(t, 0)
		time.Sleep(20 * time.Second)
		if got := reach(t, r, "web2"); got != rollout.Unreachable {
			t.Errorf("web2 is %s after 70s of silence", got)
		}
		if got := reach(t, r, "web1"); got != rollout.Reachable {
			t.Errorf("web1 is %s after 20s of silence", got)
		}
		time.Sleep(50 * time.Second)
		if got := reach(t, r, "web1"); got != rollout.Unreachable {
			t.Errorf("web1 is %s after 70s of silence", got)
		}
		// The report it sends is the one it sent before.
		web1.sync(t, 0)
		if got := reach(t, r, "web1"); got != rollout.Reachable {
			t.Errorf("web1 is %s after it called", got)
		}
	})
}

// TestPollingNodeIsNotLost also with a timeout under the long poll.
func TestPollingNodeIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(newMemory())
		cfg.NodeTimeout = 5 * time.Second
		r := start(t, cfg)
		run(t, r)
		a := newAgent(r, "web1")
		a.sync(t, 0)
		a.sync(t, 0)
		for range 4 {
			done := a.held(t, t.Context())
			for i := range int(api.LongPoll/time.Second) - 1 {
				time.Sleep(time.Second)
				if got := reach(t, r, "web1"); got != rollout.Reachable {
					t.Fatalf("web1 is %s while it waits for %ds", got, i)
				}
				if seen := r.Contact("web1").Seen; time.Since(seen) > 0 {
					t.Fatalf("last seen %s ago while it waits", time.Since(seen))
				}
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // the next call takes a while
		}
		if got := reach(t, r, "web1"); got != rollout.Reachable {
			t.Errorf("web1 is %s between its calls", got)
		}
		time.Sleep(6 * time.Second)
		if got := reach(t, r, "web1"); got != rollout.Unreachable {
			t.Errorf("web1 is %s after it stopped calling", got)
		}
	})
}

func TestDeadlinesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemory()
		r := start(t, config(st))
		run(t, r)
		web1, web2 := newAgent(r, "web1"), newAgent(r, "web2")
		if _, err := deploy(r, releaseA); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		before := st.count()
		for time.Since(begun) < policy().PrepareTimeout-time.Second {
			web1.sync(t, 0)
			web2.sync(t, 0)
			time.Sleep(20 * time.Second)
		}
		if n := st.count() - before; n > 10 {
			t.Errorf("%d commits while nothing happened", n)
		}
		time.Sleep(10 * time.Second)
		s := view(t, r)
		p := s.App("hello").Live.Paused
		if p == nil || p.Reason != rollout.ReasonPrepareDeadline {
			t.Fatalf("paused: %+v, expected the deadline to be noticed", p)
		}
		if late := p.At.Sub(begun.Add(policy().PrepareTimeout)); late < 0 || late > time.Second {
			t.Errorf("noticed %s after the deadline", late)
		}
	})
}

// TestDeadlineWithoutStore: a deadline that cannot be stored is tried again, at
// leisure.
func TestDeadlineWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &broken{memory: newMemory()}
		r := start(t, config(st))
		if _, err := deploy(r, releaseA); err != nil {
			t.Fatal(err)
		}
		for _, node := range []string{"web1", "web2"} {
			newAgent(r, node).sync(t, 0)
		}
		st.set(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		p := r.pools[0]
		go func() { done <- r.keepTime(ctx, p) }()
		time.Sleep(policy().PrepareTimeout + 100*time.Second)
		if n := st.tries(); n < 50 || n > 150 {
			t.Errorf("%d tries in 100s", n)
		}
		st.set(false)
		time.Sleep(2 * time.Second)
		s := view(t, r)
		if s.App("hello").Live.Paused == nil {
			t.Error("the deadline was forgotten")
		}
		n := st.tries()
		time.Sleep(time.Hour)
		if st.tries() != n {
			t.Errorf("%d more commits after the deadline", st.tries()-n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// broken is a store that fails as long as it is told to.
type broken struct {
	*memory
	mu     sync.Mutex
	on     bool
	failed int
}

func (b *broken) set(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on = on
}

func (b *broken) tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

func (b *broken) Commit(ctx context.Context, c store.Commit) (int64, error) {
	b.mu.Lock()
	b.failed++
	on := b.on
	b.mu.Unlock()
	if on {
		return 0, errDisk
	}
	return b.memory.Commit(ctx, c)
}

func TestRestartOnSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockstep.db")
	open := func() *sqlite.Store {
		st, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := open()
	r := start(t, config(st))
	web1, web2 := newAgent(r, "web1"), newAgent(r, "web2")
	if _, err := deploy(r, releaseA); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*agent{web1, web2} {
		a.sync(t, 0) // it is told what to prepare
		a.app().Present = []string{string(releaseA)}
		a.sync(t, 0)
	}
	web1.sync(t, 0)
	s := view(t, r)
	turn := s.Target("hello@web1").Turn
	if turn == 0 {
		t.Fatalf("web1 has no turn once both nodes are prepared: %+v", s.Placements)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	st = open()
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	r = start(t, config(st))
	s = view(t, r)
	if l := s.App("hello").Live; l == nil || l.Status != rollout.Rolling {
		t.Errorf("live after the restart: %+v", l)
	}
	if got := s.Target("hello@web1").Turn; got != turn {
		t.Errorf("web1 holds turn %d after the restart, expected %d", got, turn)
	}
	if got := s.Node("web1").Reach; got != rollout.ReachUnknown {
		t.Errorf("web1 is %s before it called the new coordinator", got)
	}
	// The agent goes on with the generation that it holds: nothing is told twice.
	web1.r = r
	held := web1.app().Generation
	if ps := web1.sync(t, 0); ps[0].Generation != held {
		t.Errorf("generation %d, expected %d", ps[0].Generation, held)
	}
	web1.app().Targets[0] = api.TargetReport{Target: "hello@web1", Release: string(releaseA), Rotation: api.RotationIn, Health: api.Healthy,
		Outcome: &api.Outcome{Turn: turn, Release: string(releaseA), OK: true}}
	web1.sync(t, 0)
	s = view(t, r)
	if got := s.Target("hello@web1"); got.Turn != 0 || got.Phase != rollout.TargetActive {
		t.Errorf("web1 after its outcome: %+v", got)
	}
	if s.Target("hello@web2").Turn != 0 {
		t.Error("web2 got the turn before it was heard of")
	}
	web2.r = r
	web2.sync(t, 0)
	s = view(t, r)
	if s.Target("hello@web2").Turn == 0 {
		t.Error("web2 did not get the turn")
	}
}

// TestManyAtOnce is for the race detector: agents, people, and watchers.
func TestManyAtOnce(t *testing.T) {
	st := newMemory()
	r := start(t, config(st))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var wg sync.WaitGroup
	for _, node := range []string{"web1", "web2"} {
		a := newAgent(r, node)
		wg.Go(func() {
			for range 100 {
				ps, err := r.Sync(t.Context(), node, a.next(), time.Millisecond)
				if err != nil {
					t.Error(err)
					return
				}
				a.accept(ps)
				for _, p := range ps {
					if p.Wanted.Prepare != "" {
						a.app().Present = []string{string(p.Wanted.Prepare)}
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 100 {
			_, _ = deploy(r, []rollout.ReleaseID{releaseA, releaseB}[i%2]) // a refusal is fine
		}
	})
	wg.Go(func() {
		for range 100 {
			select {
			case <-r.News():
			case <-time.After(time.Millisecond):
			}
			for _, s := range r.Views() {
				_ = s.Converged("hello")
			}
			_ = r.Contact("web1")
		}
	})
	wg.Wait()
	s, _, err := st.Load(t.Context(), "edge")
	if err != nil {
		t.Fatal(err)
	}
	if got := view(t, r); got.Generation != s.Generation || got.LastTurn != s.LastTurn {
		t.Errorf("generation %d and turn %d, but stored are %d and %d", got.Generation, got.LastTurn, s.Generation, s.LastTurn)
	}
}

// TestNodeThatJustCalledIsNotLost: it may call between the look at the clock
// and the step.
func TestNodeThatJustCalledIsNotLost(t *testing.T) {
	r := start(t, config(newMemory()))
	newAgent(r, "web1").sync(t, 0)
	if err := r.lose(t.Context(), r.pools[0], "web1"); err != nil {
		t.Fatal(err)
	}
	if got := reach(t, r, "web1"); got != rollout.Reachable {
		t.Errorf("web1 is %s right after it called", got)
	}
}
