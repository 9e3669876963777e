package digitalocean_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func TestGateIsBelievedOnlyOnceNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate, tag: "web", nodes: 2})
	p := w.alone("w1")
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	stage := func() lbclient.DrainStage {
		st, err := p.DrainStatus(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return st.Stage
	}
	time.Sleep(5 * second) // a gate that stays open is not believed however long
	if got := stage(); got != lbclient.DrainAccepted {
		t.Errorf("with an open gate the drain is %s", got)
	}
	w.gates["w1"].closed.Store(true)
	if got := stage(); got != lbclient.DrainAccepted {
		t.Errorf("right after the gate was closed the drain is %s", got)
	}
	w.Await("the balancer must have noticed", func() bool { return stage() == lbclient.DrainBusy })
	if w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("the balancer has not noticed")
	}
	w.gates["w1"].closed.Store(false)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
	if got := w.changes(); len(got) > 0 {
		t.Errorf("changed %q", got)
	}
}

func TestGateClosedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.gates["w1"].closed.Store(true)
	w.Front.SetHealthy("w2", false)
	wantClass(t, "BeginDrain with too few others", p.BeginDrain(t.Context(), r, 2), lbclient.ClassUnsafe)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Error(err)
	}
}

func TestNothingToSee(t *testing.T) {
	t.Parallel()
	walled := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Dial = walled }})
	p := w.alone("w1")
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	pool, err := p.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range pool.Members {
		if m.Phase != lbclient.PhaseUnknown {
			t.Errorf("%s is %s though nothing can be seen of it", m.Name, m.Phase)
		}
	}
	r := lbtest.Snapshot(t, p)
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Errorf("a drain for which nobody needs to serve: %v", err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(25 * second)
	for time.Now().Before(deadline) {
		if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinPending {
			t.Fatalf("got %+v, error %v, want pending", st, err)
		}
	}
}

func TestChecksThatNoGateCanFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Protocol = "tcp" })
	wantClass(t, "Preflight of a tcp check", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	wantClass(t, "BeginDrain with a tcp check", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsupported)
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Protocol, b.Check.Path = "http", "/" })
	wantClass(t, "Preflight of a check that misses the gate", p.Preflight(t.Context()), lbclient.ClassInvalid)
}
