package lbtest

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// newProviders takes every step with a provider of its own and a Restore from
// the journal, as when the agent is killed between any two of them.
func newProviders(t *testing.T, h Harness) {
	w := h.New(t)
	target := w.Targets()[0]
	written, err := json.Marshal(sit(t, w, target).snapshot())
	if err != nil {
		t.Fatal(err)
	}
	next := func() (seat, lbclient.Restore) {
		var r lbclient.Restore
		if err := json.Unmarshal(written, &r); err != nil {
			t.Fatal(err)
		}
		return sit(t, w, target), r
	}
	for range 2 {
		s, r := next()
		s.drain(r, 1)
	}
	s, r := next()
	if st := s.drainStatus(r); st.Stage == lbclient.DrainNotAsked {
		t.Errorf("a new provider finds the drain %s: %s", st.Stage, st.Evidence)
	}
	s, r = next()
	eventually(t, "the drain is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
	for range 2 {
		s, r = next()
		s.rejoin(r)
	}
	s, r = next()
	eventually(t, "the target serves", func() bool { return s.rejoinStage(r) == lbclient.RejoinServing })
	if v := s.visits(); v[target] == 0 {
		t.Errorf("a rejoined target got no requests: %v", v)
	}
}

// cutShort ends the drain and the rejoin at several moments on the way. Whatever
// they had done by then, asking again comes to the right end.
func cutShort(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	start := time.Now()
	s.drain(r, 1)
	whole := time.Since(start)
	s.serveAgain(r)
	const parts = 4
	for i := range parts {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/parts)
		err := s.provider.BeginDrain(ctx, r, 1)
		cancel()
		s.retried("a BeginDrain cut short", err)
		if st := s.drainStatus(r); err == nil && st.Stage == lbclient.DrainNotAsked {
			t.Errorf("a drain that succeeded is %s: %s", st.Stage, st.Evidence)
		}
		eventually(t, "the drain is asked for again", func() bool { return s.provider.BeginDrain(t.Context(), r, 1) == nil })
		ctx, cancel = context.WithTimeout(t.Context(), whole*time.Duration(i)/parts)
		s.retried("a BeginRejoin cut short", s.provider.BeginRejoin(ctx, r))
		cancel()
		s.serveAgain(r)
	}
	if v := s.visits(); v[s.target] == 0 {
		t.Errorf("a rejoined target got no requests: %v", v)
	}
}

// allAtOnce asks for every target at the same moment, as several agents may.
func allAtOnce(t *testing.T, h Harness) {
	w := h.New(t)
	targets := w.Targets()
	seats := make([]seat, len(targets))
	restores := make([]lbclient.Restore, len(targets))
	for i, name := range targets {
		seats[i] = sit(t, w, name)
		restores[i] = seats[i].snapshot()
	}
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i := range targets {
		wg.Go(func() { errs[i] = seats[i].provider.BeginDrain(t.Context(), restores[i], len(targets)-1) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
		} else if c := lbclient.ClassOf(err); c != lbclient.ClassUnsafe && !c.Retryable() {
			t.Errorf("%s: %v", targets[i], err)
		}
	}
	if won > 1 {
		t.Errorf("%d targets were drained at once though %d of %d must serve", won, len(targets)-1, len(targets))
	}
	if _, err := w.Get(); err != nil {
		t.Errorf("a request failed: %v", err)
	}
	for i := range targets {
		seats[i].serveAgain(restores[i])
	}
}

// forces ends work that does not end by itself, where the product can.
func forces(t *testing.T, h Harness) {
	s := first(t, h)
	f, ok := s.provider.(lbclient.Forcer)
	if !ok {
		t.Skip("the provider is no lbclient.Forcer")
	}
	r := s.snapshot()
	if err := f.ForceIdle(t.Context(), r); err == nil {
		t.Error("ForceIdle of a target that is not drained: got no error")
	}
	if v := s.visits(); v[s.target] == 0 {
		t.Errorf("ForceIdle of a target that is not drained took it out: %v", v)
	}
	finish := s.w.Hold(s.target)
	s.drain(r, 1)
	switch err := f.ForceIdle(t.Context(), r); {
	case err == nil:
		// Whether the request survives depends on the product.
		eventually(t, "the drain is idle by force", func() bool {
			st := s.drainStatus(r)
			return st.Stage == lbclient.DrainIdle || st.Stage == lbclient.DrainBusy && st.InFlight == 1
		})
		_ = finish()
		eventually(t, "the drain is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
	case lbclient.ClassOf(err) == lbclient.ClassUnsupported:
		if err := finish(); err != nil {
			t.Errorf("the request in flight did not survive a ForceIdle that is not supported: %v", err)
		}
	default:
		t.Errorf("ForceIdle: %v", err)
		_ = finish()
	}
	s.serveAgain(r)
	if v := s.visits(); v[s.target] == 0 {
		t.Errorf("a rejoined target got no requests: %v", v)
	}
}

// describes checks what a provider says of itself against what it does.
func describes(t *testing.T, h Harness) {
	s := first(t, h)
	if lbclient.CapsOf(s.provider).InFlight && !h.CountsInFlight {
		t.Error("the provider says that it counts requests in flight; the harness says that the product does not")
	}
	timed, ok := s.provider.(lbclient.Timed)
	if !ok {
		return
	}
	switch timing, err := timed.Timing(t.Context()); {
	case err != nil && lbclient.ClassOf(err) != lbclient.ClassUnsupported:
		t.Errorf("Timing: %v", err)
	case err == nil && (timing.Interval <= 0 || timing.Timeout < 0 || timing.Fall < 1 || timing.Rise < 1):
		t.Errorf("Timing: %+v makes no sense", timing)
	}
}

// rolling restarts every target in turn, as a rollout does, under visitors.
func rolling(t *testing.T, h Harness) {
	w := h.New(t)
	done := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := w.Get(); err != nil {
					t.Errorf("a request failed: %v", err)
				}
				sent.Add(1)
			}
		})
	}
	stop := sync.OnceFunc(func() { close(done); wg.Wait() })
	defer stop()
	for _, name := range w.Targets() {
		s := sit(t, w, name)
		r := s.snapshot()
		eventually(t, name+" is drained", func() bool { return s.provider.BeginDrain(t.Context(), r, len(w.Targets())-1) == nil })
		eventually(t, name+" is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
		before := sent.Load()
		h.Restart(t, w, name, func() {
			eventually(t, "visitors come while "+name+" is down", func() bool { return sent.Load() > before+20 })
		})
		s.serveAgain(r)
	}
	stop()
	t.Logf("%d requests", sent.Load())
}
