// Package lbtest is the contract that every [lbclient.Provider] keeps, whatever
// the product behind it, as one test suite.
package lbtest

import (
	"maps"
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
	// Hang makes the balancer, or its API, say nothing at all from now on.
	Hang func(t *testing.T, w World)
	// Deny makes the credentials insufficient to change anything.
	Deny func(t *testing.T, w World)
	// Remove makes a target no member any more.
	Remove func(t *testing.T, w World, target string)
	// Readmit puts a target in that we hold out, as another hand would.
	Readmit func(t *testing.T, w World, target string)
	// LoseAnswers makes every change be carried out and its answer be lost, until
	// mend is called.
	LoseAnswers func(t *testing.T, w World) (mend func())
	// Ignore makes every change be answered as if carried out, and not be, until
	// mend is called.
	Ignore func(t *testing.T, w World) (mend func())
	// Restart stops the target's app, calls while, and starts it again. The
	// world's Get must then be safe for use by several goroutines.
	Restart func(t *testing.T, w World, target string, while func())
	// CountsTwice tells whether BeginDrain counts the others again after the
	// change, so that of several targets asked at once no two both leave.
	CountsTwice bool
	// Without says, by name, why a case cannot apply to this product. It is for
	// cases whose function is nil; such a case without a reason says so too.
	Without map[string]string
}

// patience bounds each wait for the balancer.
const patience = 30 * time.Second

// contractCase is one case, and why it cannot run; "" when it can.
type contractCase struct {
	name    string
	run     func(*testing.T, Harness)
	missing string
}

func (h Harness) cases() []contractCase {
	unless := func(there bool, name string) string {
		if there {
			return ""
		}
		return "the harness has no " + name
	}
	return []contractCase{
		{"observe", observe, ""},
		{"not a member", notMember, ""},
		{"round trip", roundTrip, ""},
		{"in flight", inFlight, unless(h.CountsInFlight, "CountsInFlight")},
		{"capacity", capacity, ""},
		{"all at once", allAtOnce, unless(h.CountsTwice, "CountsTwice")},
		{"rejoin waits for the check", rejoinWaits, h.NoHealth},
		{"restore outlives the provider", restoreOutlives, ""},
		{"a new provider at every step", newProviders, ""},
		{"foreign restore", foreignRestore, ""},
		{"another hand", anotherHand, unless(h.HoldOut != nil && h.HeldOut != nil, "HoldOut")},
		{"forgets", forgets, unless(h.Forget != nil, "Forget")},
		{"readmitted", readmitted, unless(h.Readmit != nil, "Readmit")},
		{"removed", removed, unless(h.Remove != nil, "Remove")},
		{"unreachable", unreachable, unless(h.Cut != nil, "Cut")},
		{"hangs", hangs, unless(h.Hang != nil, "Hang")},
		{"denied", denied, unless(h.Deny != nil, "Deny")},
		{"answers lost", losesAnswers, unless(h.LoseAnswers != nil, "LoseAnswers")},
		{"changes ignored", ignores, unless(h.Ignore != nil, "Ignore")},
		{"cancelled", cancelled, ""},
		{"cut short", cutShort, ""},
		{"force", forces, unless(h.CountsInFlight, "CountsInFlight")},
		{"describes itself", describes, ""},
		{"rolling restart", rolling, unless(h.Restart != nil, "Restart")},
	}
}

// Run runs the suite. A case that cannot apply shows as skipped, with the reason.
func Run(t *testing.T, h Harness) {
	reasons := maps.Clone(h.Without)
	for _, c := range h.cases() {
		reason, given := reasons[c.name]
		delete(reasons, c.name)
		if given && c.missing == "" {
			t.Errorf("the harness leaves out %q (%s) and has all that it needs", c.name, reason)
		}
		t.Run(c.name, func(t *testing.T) {
			switch {
			case given:
				t.Skipf("cannot apply: %s", reason)
			case c.missing != "":
				t.Skipf("cannot apply: %s", c.missing)
			}
			c.run(t, h)
		})
	}
	for name := range reasons {
		t.Errorf("the harness leaves out %q, which is no case", name)
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
