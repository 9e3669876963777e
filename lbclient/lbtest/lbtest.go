// Package lbtest is the contract that every [lbclient.Provider] keeps, whatever
// the product behind it, as one test suite.
package lbtest

import (
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// World is a balancer with a pool of at least three targets, made for one test.
type World interface {
	// Targets are the names of all members. At the start all of them serve.
	Targets() []string
	// Provider returns a new provider for a target, also for a name that is no
	// member.
	Provider(target string) lbclient.Provider
	// Get sends one request through the balancer and returns the target that
	// answered it.
	Get() (target string, err error)
	// Hold sends a request through the balancer that the target does not answer
	// yet, and returns once the target has it. Calling finish makes the target
	// answer and returns how the request ended.
	Hold(target string) (finish func() error)
	// SetHealthy makes the target pass or fail the balancer's checks. It need
	// not wait until the balancer knows.
	SetHealthy(target string, healthy bool)
}

// Harness says how to make a world, and what the product can do. A nil function
// leaves out the cases that need it.
type Harness struct {
	// New makes a world and arranges for its end.
	New func(t *testing.T) World
	// CountsInFlight tells whether the product counts requests in flight.
	CountsInFlight bool
	// HoldOut takes a target out as another hand would; HeldOut tells whether it
	// is still out that way.
	HoldOut func(t *testing.T, w World, target string)
	HeldOut func(t *testing.T, w World, target string) bool
	// Forget makes the balancer lose what it was told, as by a reload.
	Forget func(t *testing.T, w World)
	// Cut makes the balancer unreachable.
	Cut func(t *testing.T, w World)
	// NoHealth says why the product has no word of its own on health, if it has
	// none. SetHealthy is not called then, and what needs it is left out.
	NoHealth string
}

// patience bounds each wait for the balancer.
const patience = 15 * time.Second

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	cases := []struct {
		name string
		run  func(*testing.T, Harness)
		when bool
	}{
		{"observe", observe, true},
		{"not a member", notMember, true},
		{"round trip", roundTrip, true},
		{"in flight", inFlight, h.CountsInFlight},
		{"capacity", capacity, true},
		{"rejoin waits for the check", rejoinWaits, h.NoHealth == ""},
		{"restore outlives the provider", restoreOutlives, true},
		{"foreign restore", foreignRestore, true},
		{"another hand", anotherHand, h.HoldOut != nil},
		{"forgets", forgets, h.Forget != nil},
		{"unreachable", unreachable, h.Cut != nil},
		{"cancelled", cancelled, true},
	}
	for _, c := range cases {
		if c.when {
			t.Run(c.name, func(t *testing.T) { c.run(t, h) })
		}
	}
}

// seat is one target of a world with its provider.
type seat struct {
	t        *testing.T
	w        World
	target   string
	provider lbclient.Provider
}

func sit(t *testing.T, w World, target string) seat {
	t.Helper()
	p := w.Provider(target)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return seat{t, w, target, p}
}

// first makes a world and sits at its first target.
func first(t *testing.T, h Harness) seat {
	t.Helper()
	w := h.New(t)
	return sit(t, w, w.Targets()[0])
}

func (s seat) snapshot() lbclient.Restore {
	s.t.Helper()
	r, err := s.provider.Snapshot(s.t.Context())
	if err != nil {
		s.t.Fatalf("Snapshot: %v", err)
	}
	return r
}

func (s seat) drain(r lbclient.Restore, minHealthy int) {
	s.t.Helper()
	if err := s.provider.BeginDrain(s.t.Context(), r, minHealthy); err != nil {
		s.t.Fatalf("BeginDrain: %v", err)
	}
}

func (s seat) drainStatus(r lbclient.Restore) lbclient.DrainStatus {
	s.t.Helper()
	st, err := s.provider.DrainStatus(s.t.Context(), r)
	if err != nil {
		s.t.Fatalf("DrainStatus: %v", err)
	}
	if st.Evidence == "" || st.Epoch == "" {
		s.t.Errorf("DrainStatus gives no evidence or epoch: %+v", st)
	}
	return st
}

func (s seat) rejoin(r lbclient.Restore) {
	s.t.Helper()
	if err := s.provider.BeginRejoin(s.t.Context(), r); err != nil {
		s.t.Fatalf("BeginRejoin: %v", err)
	}
}

func (s seat) rejoinStage(r lbclient.Restore) lbclient.RejoinStage {
	s.t.Helper()
	st, err := s.provider.RejoinStatus(s.t.Context(), r)
	if err != nil {
		s.t.Fatalf("RejoinStatus: %v", err)
	}
	if st.Evidence == "" {
		s.t.Errorf("RejoinStatus gives no evidence: %+v", st)
	}
	return st.Stage
}

func (s seat) pool() lbclient.Pool {
	s.t.Helper()
	p, err := s.provider.Observe(s.t.Context())
	if err != nil {
		s.t.Fatalf("Observe: %v", err)
	}
	return p
}

// phase is how a member stands, PhaseAbsent if it is none.
func (s seat) phase(member string) lbclient.Phase {
	s.t.Helper()
	for _, m := range s.pool().Members {
		if m.Name == member {
			return m.Phase
		}
	}
	return lbclient.PhaseAbsent
}

func (s seat) wantClass(what string, err error, want lbclient.Class) {
	s.t.Helper()
	if err == nil || lbclient.ClassOf(err) != want {
		s.t.Errorf("%s: got error %v, want class %s", what, err, want)
	}
}

// eventually polls until ok, for at most [patience].
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// visits sends enough requests to reach every target, and counts who answered.
func (s seat) visits() map[string]int {
	s.t.Helper()
	out := make(map[string]int)
	for range 4 * len(s.w.Targets()) {
		who, err := s.w.Get()
		if err != nil {
			s.t.Fatalf("a request failed: %v", err)
		}
		out[who]++
	}
	return out
}
