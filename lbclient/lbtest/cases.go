package lbtest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

func observe(t *testing.T, h Harness) {
	s := first(t, h)
	if err := s.provider.Preflight(t.Context()); err != nil {
		t.Errorf("Preflight: %v", err)
	}
	before := time.Now()
	p := s.pool()
	if p.At.Before(before) || p.Epoch == "" {
		t.Errorf("not a fresh look: at %s, epoch %q", p.At, p.Epoch)
	}
	names := make(map[string]bool)
	for _, m := range p.Members {
		if names[m.Name] {
			t.Errorf("%s is listed twice", m.Name)
		}
		names[m.Name] = true
		if m.Phase != lbclient.PhaseServing || m.Detail == "" {
			t.Errorf("%s is %s (%q), want serving with a detail", m.Name, m.Phase, m.Detail)
		}
	}
	for _, name := range s.w.Targets() {
		if !names[name] {
			t.Errorf("%s is not listed", name)
		}
	}
	if again := s.pool(); again.Epoch != p.Epoch {
		t.Errorf("the epoch went from %q to %q though nothing happened", p.Epoch, again.Epoch)
	}
	if h.NoHealth != "" {
		return
	}
	s.w.SetHealthy(s.target, false)
	eventually(t, "the balancer finds the target down", func() bool {
		return s.phase(s.target) == lbclient.PhaseUnhealthy
	})
}

func notMember(t *testing.T, h Harness) {
	w := h.New(t)
	s := sit(t, w, "no-such-target")
	s.wantClass("Preflight", s.provider.Preflight(t.Context()), lbclient.ClassNotFound)
	_, err := s.provider.Snapshot(t.Context())
	s.wantClass("Snapshot", err, lbclient.ClassNotFound)
}

// roundTrip does everything twice, for any step may be repeated after a crash.
func roundTrip(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	if !r.WasServing || r.Target != s.target {
		t.Errorf("Snapshot says %+v of a serving %s", r, s.target)
	}
	if st := s.drainStatus(r); st.Stage != lbclient.DrainNotAsked {
		t.Errorf("drain stage %s before any drain", st.Stage)
	}
	s.rejoin(r) // nothing to put back
	for range 2 {
		s.drain(r, 1)
	}
	if got := s.phase(s.target); got != lbclient.PhaseDraining {
		t.Errorf("a drained target stands as %s", got)
	}
	eventually(t, "the drain is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
	if got := s.rejoinStage(r); got != lbclient.RejoinNotAsked {
		t.Errorf("rejoin stage %s while drained", got)
	}
	if v := s.visits(); v[s.target] > 0 {
		t.Errorf("a drained target got %d new requests of %v", v[s.target], v)
	}
	for range 2 {
		s.rejoin(r)
	}
	eventually(t, "the target serves", func() bool { return s.rejoinStage(r) == lbclient.RejoinServing })
	if v := s.visits(); v[s.target] == 0 {
		t.Errorf("a rejoined target got no requests: %v", v)
	}
	if st := s.drainStatus(r); st.Stage != lbclient.DrainNotAsked {
		t.Errorf("drain stage %s after the rejoin", st.Stage)
	}
}

func inFlight(t *testing.T, h Harness) {
	s := first(t, h)
	finish := s.w.Hold(s.target)
	r := s.snapshot()
	s.drain(r, 1)
	st := s.drainStatus(r)
	if st.Stage != lbclient.DrainBusy || st.InFlight != 1 {
		t.Errorf("with a request in flight: %+v, want busy with 1", st)
	}
	if err := finish(); err != nil {
		t.Errorf("the request in flight did not survive the drain: %v", err)
	}
	eventually(t, "the drain is idle", func() bool {
		st := s.drainStatus(r)
		return st.Stage == lbclient.DrainIdle && st.InFlight == 0
	})
}

func capacity(t *testing.T, h Harness) {
	s := first(t, h)
	others := len(s.w.Targets()) - 1
	r := s.snapshot()
	s.wantClass("BeginDrain with more wanted than there are", s.provider.BeginDrain(t.Context(), r, others+1), lbclient.ClassUnsafe)
	s.wantClass("BeginDrain with a negative number", s.provider.BeginDrain(t.Context(), r, -1), lbclient.ClassInvalid)
	if h.NoHealth != "" {
		lastUndrained(s)
		return
	}
	for _, name := range s.w.Targets()[1:] {
		s.w.SetHealthy(name, false)
	}
	for _, name := range s.w.Targets()[1:] {
		eventually(t, "the balancer finds "+name+" down", func() bool { return s.phase(name) == lbclient.PhaseUnhealthy })
	}
	// Of several balancers the first to notice made the verdict.
	eventually(t, "only "+s.target+" gets work", func() bool { return len(s.visits()) == 1 })
	s.wantClass("BeginDrain of the last healthy target", s.provider.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe)
	if got := s.phase(s.target); got != lbclient.PhaseServing {
		t.Errorf("after a refusal the target stands as %s", got)
	}
	if v := s.visits(); len(v) != 1 {
		t.Errorf("requests went to %v, want only %s", v, s.target)
	}
	// A target that gets no work takes nothing away, however few others serve.
	down := sit(t, s.w, s.w.Targets()[1])
	down.drain(down.snapshot(), others)
}

// lastUndrained drains all others of a product that knows no health, as far as
// it lets them go, and wants the last to stay.
func lastUndrained(s seat) {
	s.t.Helper()
	for i, name := range s.w.Targets()[1:] {
		other := sit(s.t, s.w, name)
		other.drain(other.snapshot(), len(s.w.Targets())-2-i)
	}
	r := s.snapshot()
	s.wantClass("BeginDrain of the last target", s.provider.BeginDrain(s.t.Context(), r, 1), lbclient.ClassUnsafe)
	if got := s.phase(s.target); got != lbclient.PhaseServing {
		s.t.Errorf("after a refusal the target stands as %s", got)
	}
	if v := s.visits(); len(v) != 1 {
		s.t.Errorf("requests went to %v, want only %s", v, s.target)
	}
}

func rejoinWaits(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	s.drain(r, 1)
	s.w.SetHealthy(s.target, false)
	eventually(t, "the target gets no work for two reasons", func() bool { return s.rejoinFails(r) })
	// Of several balancers the first to notice makes the verdict; each stops
	// sending work when it notices itself, and does not begin again.
	eventually(t, "no balancer sends it work", func() bool { return s.visits()[s.target] == 0 })
	if v := s.visits(); v[s.target] > 0 {
		t.Errorf("a rejoined target that fails its check got requests: %v", v)
	}
	s.w.SetHealthy(s.target, true)
	eventually(t, "the target serves", func() bool { return s.rejoinStage(r) == lbclient.RejoinServing })
}

// rejoinFails rejoins and tells whether the balancer, once it has a verdict,
// calls the target unhealthy. A rejoin before it has noticed is taken back.
func (s seat) rejoinFails(r lbclient.Restore) bool {
	s.t.Helper()
	s.rejoin(r)
	stage := lbclient.RejoinPending
	eventually(s.t, "the balancer has a verdict", func() bool {
		stage = s.rejoinStage(r)
		return stage != lbclient.RejoinPending
	})
	if stage == lbclient.RejoinUnhealthy {
		return true
	}
	s.drain(r, 1)
	return false
}

// restoreOutlives passes the Restore through the journal to a new provider, as
// after a crash of the agent.
func restoreOutlives(t *testing.T, h Harness) {
	s := first(t, h)
	written, err := json.Marshal(s.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	var r lbclient.Restore
	if err := json.Unmarshal(written, &r); err != nil {
		t.Fatal(err)
	}
	s.drain(r, 1)
	epoch := s.drainStatus(r).Epoch
	later := sit(t, s.w, s.target)
	later.drain(r, 1)
	if st := later.drainStatus(r); st.Epoch != epoch {
		t.Errorf("another provider sees epoch %q, want %q", st.Epoch, epoch)
	}
	later.rejoin(r)
	eventually(t, "the target serves", func() bool { return later.rejoinStage(r) == lbclient.RejoinServing })
}

func foreignRestore(t *testing.T, h Harness) {
	s := first(t, h)
	other := sit(t, s.w, s.w.Targets()[1])
	good := s.snapshot()
	broken, newer := good, good
	broken.Data = json.RawMessage(`{"surprise":true}`)
	newer.Version += 100
	for what, r := range map[string]lbclient.Restore{
		"another target's": other.snapshot(), "an empty": {}, "a broken": broken, "a newer": newer,
	} {
		s.wantClass("BeginDrain with "+what+" restore", s.provider.BeginDrain(t.Context(), r, 0), lbclient.ClassInvalid)
		s.wantClass("BeginRejoin with "+what+" restore", s.provider.BeginRejoin(t.Context(), r), lbclient.ClassInvalid)
		_, err := s.provider.DrainStatus(t.Context(), r)
		s.wantClass("DrainStatus with "+what+" restore", err, lbclient.ClassInvalid)
		_, err = s.provider.RejoinStatus(t.Context(), r)
		s.wantClass("RejoinStatus with "+what+" restore", err, lbclient.ClassInvalid)
	}
}

func anotherHand(t *testing.T, h Harness) {
	s := first(t, h)
	before := s.snapshot()
	h.HoldOut(t, s.w, s.target)
	if got := s.phase(s.target); got != lbclient.PhaseForeignOut {
		t.Errorf("a target held out by another hand stands as %s", got)
	}
	_, err := s.provider.Snapshot(t.Context())
	s.wantClass("Snapshot", err, lbclient.ClassUnsafe)
	s.wantClass("BeginDrain", s.provider.BeginDrain(t.Context(), before, 0), lbclient.ClassUnsafe)
	s.wantClass("BeginRejoin", s.provider.BeginRejoin(t.Context(), before), lbclient.ClassUnsafe)
	if got := s.rejoinStage(before); got != lbclient.RejoinNotAsked {
		t.Errorf("rejoin stage %s while another hand holds the target out", got)
	}
	if !h.HeldOut(t, s.w, s.target) {
		t.Error("the other hand's work was undone")
	}
}

func forgets(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	s.drain(r, 1)
	before := s.drainStatus(r)
	h.Forget(t, s.w)
	after := s.drainStatus(r)
	if after.Stage != lbclient.DrainNotAsked || after.Epoch == before.Epoch {
		t.Errorf("after the balancer forgot: %+v, want not_asked and an epoch other than %q", after, before.Epoch)
	}
	// The new balancer may need a look at the others before it lets one go.
	eventually(t, "the drain is asked for again", func() bool { return s.provider.BeginDrain(t.Context(), r, 1) == nil })
	eventually(t, "the drain is idle", func() bool { return s.drainStatus(r).Stage == lbclient.DrainIdle })
	s.rejoin(r)
	eventually(t, "the target serves", func() bool { return s.rejoinStage(r) == lbclient.RejoinServing })
}

func unreachable(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	s.drain(r, 1)
	h.Cut(t, s.w)
	s.wantRetryable(t.Context(), r)
}

func cancelled(t *testing.T, h Harness) {
	s := first(t, h)
	r := s.snapshot()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.wantRetryable(ctx, r)
	if got := s.phase(s.target); got != lbclient.PhaseServing {
		t.Errorf("a cancelled drain left the target %s", got)
	}
}

// wantRetryable wants an error that invites another try from every operation.
func (s seat) wantRetryable(ctx context.Context, r lbclient.Restore) {
	s.t.Helper()
	check := func(what string, err error) {
		s.t.Helper()
		if err == nil || !lbclient.ClassOf(err).Retryable() {
			s.t.Errorf("%s: got error %v, want one to try again", what, err)
		}
	}
	check("Preflight", s.provider.Preflight(ctx))
	_, err := s.provider.Observe(ctx)
	check("Observe", err)
	_, err = s.provider.Snapshot(ctx)
	check("Snapshot", err)
	check("BeginDrain", s.provider.BeginDrain(ctx, r, 1))
	_, err = s.provider.DrainStatus(ctx, r)
	check("DrainStatus", err)
	check("BeginRejoin", s.provider.BeginRejoin(ctx, r))
	_, err = s.provider.RejoinStatus(ctx, r)
	check("RejoinStatus", err)
}
