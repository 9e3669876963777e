package lbtest

import (
	"context"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// losesAnswers: a change that is carried out while its answer is lost must come
// to the right end when it is simply asked for again.
func losesAnswers(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	mend := h.LoseAnswers(t, s.w)
	s.retried("BeginDrain", s.provider.BeginDrain(t.Context(), r, 1))
	mend()
	eventually(t, "the drain is asked for again", func() bool { return s.provider.BeginDrain(t.Context(), r, 1) == nil })
	if st := s.drainStatus(r); st.Stage == lbclient.DrainNotAsked {
		t.Errorf("drain stage %s after a drain: %s", st.Stage, st.Evidence)
	}
	mend = h.LoseAnswers(t, s.w)
	s.retried("BeginRejoin", s.provider.BeginRejoin(t.Context(), r))
	mend()
	s.serveAgain(r)
}

// retried wants success or an error that invites another try.
func (s seat) retried(what string, err error) {
	s.t.Helper()
	if err != nil && !lbclient.ClassOf(err).Retryable() {
		s.t.Errorf("%s: got error %v, want none or one to try again", what, err)
	}
}

// ignores: an answer that all is well proves nothing.
func ignores(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	mend := h.Ignore(t, s.w)
	if err := s.provider.BeginDrain(t.Context(), r, 1); err == nil {
		t.Error("BeginDrain believes a balancer that did nothing")
	}
	if got := s.phase(s.target); got != lbclient.PhaseServing {
		t.Errorf("the target stands as %s though nothing was done", got)
	}
	mend()
	eventually(t, "the drain is asked for again", func() bool { return s.provider.BeginDrain(t.Context(), r, 1) == nil })
	mend = h.Ignore(t, s.w)
	if err := s.provider.BeginRejoin(t.Context(), r); err == nil {
		t.Error("BeginRejoin believes a balancer that did nothing")
	}
	mend()
	s.serveAgain(r)
}

// denied: credentials that do not suffice are found before anything is touched.
func denied(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	h.Deny(t, s.w)
	s.wantClass("Preflight", s.provider.Preflight(t.Context()), lbclient.ClassDenied)
	s.wantClass("BeginDrain", s.provider.BeginDrain(t.Context(), r, 1), lbclient.ClassDenied)
	s.wantClass("BeginRejoin", s.provider.BeginRejoin(t.Context(), r), lbclient.ClassDenied)
	if v := s.visits(); v[s.target] == 0 {
		t.Errorf("a drain that was denied took the target out: %v", v)
	}
}

// hangs: a balancer that says nothing holds nobody up for longer than asked.
func hangs(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	h.Hang(t, s.w)
	const bound = 300 * time.Millisecond
	for what, f := range map[string]func(context.Context) error{
		"Preflight":    s.provider.Preflight,
		"Observe":      func(ctx context.Context) error { _, err := s.provider.Observe(ctx); return err },
		"BeginDrain":   func(ctx context.Context) error { return s.provider.BeginDrain(ctx, r, 1) },
		"DrainStatus":  func(ctx context.Context) error { _, err := s.provider.DrainStatus(ctx, r); return err },
		"RejoinStatus": func(ctx context.Context) error { _, err := s.provider.RejoinStatus(ctx, r); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		start := time.Now()
		err := f(ctx)
		cancel()
		if took := time.Since(start); took > bound+patience/2 {
			t.Errorf("%s took %s of a balancer that hangs, allowed %s", what, took, bound)
		}
		if err == nil || !lbclient.ClassOf(err).Retryable() {
			t.Errorf("%s: got error %v, want one to try again", what, err)
		}
	}
}

// removed: a target that is no member any more is named as such, and nothing is
// made of it.
func removed(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	h.Remove(t, s.w, s.target)
	if got := s.phase(s.target); got != lbclient.PhaseAbsent {
		t.Errorf("a removed target stands as %s", got)
	}
	s.wantClass("Preflight", s.provider.Preflight(t.Context()), lbclient.ClassNotFound)
	s.wantClass("BeginDrain", s.provider.BeginDrain(t.Context(), r, 1), lbclient.ClassNotFound)
	if got := s.phase(s.target); got != lbclient.PhaseAbsent {
		t.Errorf("after the refusal the target stands as %s", got)
	}
}

// readmitted: another hand, or a tool that knows no drains, puts the target in
// while we hold it out.
func readmitted(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	s.drain(r, 1)
	h.Readmit(t, s.w, s.target)
	if st := s.drainStatus(r); st.Stage != lbclient.DrainNotAsked {
		t.Errorf("drain stage %s though another hand ended the drain: %s", st.Stage, st.Evidence)
	}
	eventually(t, "the drain is asked for again", func() bool { return s.provider.BeginDrain(t.Context(), r, 1) == nil })
	eventually(t, "the drain is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
	s.serveAgain(r)
}

// serveAgain rejoins, as often as it takes, and waits until the target serves.
func (s seat) serveAgain(r lbclient.Restore) {
	s.t.Helper()
	eventually(s.t, "the rejoin is accepted", func() bool { return s.provider.BeginRejoin(s.t.Context(), r) == nil })
	eventually(s.t, "the target serves", func() bool { return s.rejoinStage(r) == lbclient.RejoinServing })
}
