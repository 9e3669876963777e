package broker_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// faulty is a balancer's provider with a mistake in it, until it is mended.
type faulty struct {
	slow
	broken *atomic.Bool
}

func (f faulty) trip() {
	if f.broken.Load() {
		var members []lbclient.Member
		_ = members[3]
	}
}

func (f faulty) Observe(ctx context.Context) (lbclient.Pool, error) {
	f.trip()
	return f.slow.Observe(ctx)
}

func (f faulty) Preflight(context.Context) error { f.trip(); return nil }

func (f faulty) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	f.trip()
	return f.slow.BeginRejoin(ctx, r)
}

func (f faulty) Timing(context.Context) (lbclient.Timing, error) {
	return lbclient.Timing{Interval: 3 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2}, nil
}

func (f faulty) Caps() lbclient.Caps {
	return lbclient.Caps{Health: true, Disturbs: "a reload", Undocumented: "the weather"}
}

// A provider that panics takes nothing down with it: who asked is told, the log
// has the stack, and the next call finds the balancer usable.
func TestAPanicIsContained(t *testing.T) {
	s := newSlow()
	close(s.goOn)
	f := faulty{slow: s, broken: &atomic.Bool{}}
	var opened atomic.Int32
	h := newHouse(t, broker.Balancer{Open: func(string) (lbclient.Provider, error) { opened.Add(1); return f, nil }})
	p := h.provider("w1")
	f.broken.Store(true)
	_, err := p.Observe(t.Context())
	wantClass(t, "Observe", err, lbclient.ClassTransient, "panic: runtime error: index out of range", "please report")
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassTransient, "balancer edge for w1")
	wantClass(t, "BeginRejoin", p.BeginRejoin(t.Context(), lbclient.Restore{}), lbclient.ClassAmbiguous, "please report")
	if l := h.log.String(); !strings.Contains(l, "A provider panicked") || !strings.Contains(l, "contain_test.go") {
		t.Errorf("the stack is not in the log: %s", l)
	}
	f.broken.Store(false)
	before := opened.Load()
	if err := p.BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
		t.Errorf("the next change: %v", err)
	}
	if _, err := p.Observe(t.Context()); err != nil {
		t.Errorf("the next look: %v", err)
	}
	if opened.Load() == before {
		t.Error("the provider that panicked is used on")
	}
}

// What a provider says of itself and of its balancer's check reaches the agent.
func TestCapsAndTimingTravel(t *testing.T) {
	s := newSlow()
	close(s.goOn)
	f := faulty{slow: s, broken: &atomic.Bool{}}
	h := newHouse(t, broker.Balancer{Open: func(string) (lbclient.Provider, error) { return f, nil }})
	p := h.provider("w1")
	if caps := lbclient.CapsOf(p); caps != (lbclient.Caps{}) {
		t.Errorf("before any answer it claims %+v", caps)
	}
	got, err := p.(lbclient.Timed).Timing(t.Context())
	if want, _ := f.Timing(t.Context()); err != nil || got != want {
		t.Errorf("Timing: %+v, %v", got, err)
	}
	if caps := lbclient.CapsOf(p); caps != f.Caps() {
		t.Errorf("Caps: %+v", caps)
	}
	bare := newHouse(t, s.balancer())
	_, err = bare.provider("w1").(lbclient.Timed).Timing(t.Context())
	wantClass(t, "Timing of one that cannot say", err, lbclient.ClassUnsupported)
}

// Who asked for what, and what became of it, stands in the rollout's timeline;
// what is refused again and again stands there once.
func TestTheTimelineTellsOfEveryChange(t *testing.T) {
	w := newWorld(t)
	p := w.Provider("w1")
	r := snapshot(t, p)
	w.turns.take("w1")
	for range 3 {
		wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 0), lbclient.ClassUnsafe)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := w.turns.timeline()
	if len(got) != 2 {
		t.Fatalf("the timeline has %q", got)
	}
	for i, want := range []string{
		"hello@w1 unsafe: w1 asked for begin_drain of hello@w1 at edge: not done (unsafe): cannot drain hello@w1: no rollout gives it a turn",
		"hello@w1 : w1 asked for begin_rejoin of hello@w1 at edge: done in ",
	} {
		if !strings.HasPrefix(got[i], want) {
			t.Errorf("line %d is %q, want %q", i, got[i], want)
		}
	}
}

// A target that was drained through the coordinator comes back so, also when its
// balancer is left to the agents by then; nothing else is done there.
func TestTheWayBackOfABalancerThatIsTheAgentsNow(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.Balancers[0].WayBackOnly = true })
	lb, err := w.open("w1")
	if err != nil {
		t.Fatal(err)
	}
	r := snapshot(t, lb)
	w.command("set server web/w1 state drain")
	p := w.provider("w1")
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 0), lbclient.ClassDenied)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Error(err)
	}
	if got := w.phase("w1"); got != lbclient.PhaseServing {
		t.Errorf("w1 is %s", got)
	}
}

// So does one whose app is behind another balancer by then.
func TestTheWayBackOfAnAppThatMoved(t *testing.T) {
	other := newSlow()
	close(other.goOn)
	w := newWorld(t, func(c *broker.Config) {
		x := other.balancer()
		x.Name, x.Server = "new", c.Balancers[0].Server
		c.Balancers = append(c.Balancers, x)
		c.Apps[0].Balancer = "new"
	})
	lb, err := w.open("w1")
	if err != nil {
		t.Fatal(err)
	}
	r := snapshot(t, lb)
	w.command("set server web/w1 state drain")
	if err := w.provider("w1").BeginRejoin(t.Context(), r); err != nil {
		t.Error(err)
	}
	if got := w.phase("w1"); got != lbclient.PhaseServing {
		t.Errorf("w1 is %s", got)
	}
}
