package digitalocean_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func wantClass(t *testing.T, what string, err error, want lbclient.Class) {
	t.Helper()
	if err == nil || lbclient.ClassOf(err) != want {
		t.Errorf("%s: got error %v, want class %s", what, err, want)
	}
	if err != nil && strings.Contains(err.Error(), "token-of-ours") {
		t.Errorf("%s: the error holds the token: %v", what, err)
	}
}

// changes are the changes of the balancer that the API was asked for.
func (w *world) changes() []string {
	var out []string
	for _, c := range w.cloud.Calls() {
		if c.Method != http.MethodGet {
			out = append(out, c.Method+" "+strings.TrimPrefix(c.Path, "/v2/load_balancers/"+w.lb)+" "+strings.TrimSpace(c.Body))
		}
	}
	return out
}

// TestLockIsWaitedOut has two agents whose changes come at the same time.
func TestLockIsWaitedOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	one, two := w.alone("w1"), w.alone("w2")
	r1, r2 := lbtest.Snapshot(t, one), lbtest.Snapshot(t, two)
	w.cloud.SetPace(20*second, 0)
	wantClass(t, "a removal that is not made yet", one.BeginDrain(t.Context(), r1, 1), lbclient.ClassBusy)
	err := two.BeginDrain(t.Context(), r2, 1)
	wantClass(t, "a change while another is under way", err, lbclient.ClassBusy)
	if err == nil || !strings.Contains(err.Error(), "processes previous actions") {
		t.Errorf("DigitalOcean's own words are missing: %v", err)
	}
	w.Await("the removal is made", func() bool { return one.BeginDrain(t.Context(), r1, 1) == nil })
	w.cloud.SetPace(0, 0)
	w.Await("the other is let in", func() bool { return two.BeginDrain(t.Context(), r2, 1) == nil })
}

func TestAcceptedAndMadeLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.cloud.SetPace(12*second, second)
	for range 3 {
		wantClass(t, "a removal that is not made yet", p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy)
	}
	st, err := p.DrainStatus(t.Context(), r)
	if err != nil || st.Stage != lbclient.DrainAccepted || st.InFlight != -1 {
		t.Errorf("got %+v, error %v, want accepted", st, err)
	}
	w.Await("the removal is made", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	if got := w.changes(); len(got) != 1 {
		t.Errorf("asked %q, want one removal", got)
	}
	w.Await("new work has ended", func() bool {
		st, err := p.DrainStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.DrainBusy && st.InFlight == -1
	})
	if w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("the balancer still sends work to a droplet called busy")
	}
	for range 3 {
		wantClass(t, "an addition that is not made yet", p.BeginRejoin(t.Context(), r), lbclient.ClassBusy)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinPending {
		t.Errorf("got %+v, error %v, want pending", st, err)
	}
	w.Await("the addition is made", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
}

// TestAbandonedDrain gives up a drain whose removal was accepted and not made.
func TestAbandonedDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.cloud.SetPace(8*second, 0)
	wantClass(t, "a removal that is not made yet", p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy)
	w.Await("it is put back", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

func TestLostAndLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.cloud.SetPace(8*second, 0)
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodDelete, Times: 1, Lose: true})
	wantClass(t, "a removal whose answer was lost", p.BeginDrain(t.Context(), r, 1), lbclient.ClassAmbiguous)
	w.Await("it converges", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodPost, Times: 1, Drop: true})
	wantClass(t, "an addition that was lost", p.BeginRejoin(t.Context(), r), lbclient.ClassAmbiguous)
	w.Await("it converges", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

func TestTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	for _, name := range w.Targets() {
		w.cloud.AddDroplet(digitaloceantest.Droplet{ID: w.ids[name], Name: name, Address: "127.10.0.1", Tags: []string{"web"}})
	}
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Tag = "web" })
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsupported)
	if got := w.changes(); len(got) > 0 {
		t.Errorf("changed %q", got)
	}
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

// TestOnlyItsOwnMembership goes through a whole turn and looks at every change.
func TestOnlyItsOwnMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	before := w.cloud.Members(w.lb)
	p := w.Provider("w2")
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := []string{`POST /droplets {}`, `DELETE /droplets {"droplet_ids":[3164445]}`, `POST /droplets {"droplet_ids":[3164445]}`}
	if got := w.changes(); !slices.Equal(got, want) {
		t.Errorf("changed %q, want %q", got, want)
	}
	if after := w.cloud.Members(w.lb); !slices.Equal(after, before) {
		t.Errorf("the members were %v and are %v", before, after)
	}
}

// fickle is a health source that changes its mind.
type fickle struct {
	asked atomic.Int32
	fails int // droplet that fails from the given question on
	from  int32
}

func (f *fickle) Health(_ context.Context, droplet int, _ digitalocean.Check) (digitalocean.Verdict, string) {
	if droplet == f.fails && f.asked.Add(1) >= f.from {
		return digitalocean.VerdictFails, "it has changed its mind"
	}
	return digitalocean.VerdictPasses, "well"
}

func TestTooFewAfterAll(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 6 * second} {
		f := &fickle{fails: 3164445, from: 2}
		w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Health = f }})
		p := w.alone("w1")
		r := lbtest.Snapshot(t, p)
		w.cloud.SetPace(slow, 0)
		var err error
		w.Await("an answer", func() bool {
			err = p.BeginDrain(t.Context(), r, 2)
			return lbclient.ClassOf(err) != lbclient.ClassBusy
		})
		wantClass(t, "a drain after which too few are left", err, lbclient.ClassUnsafe)
		if slow == 0 {
			if m := w.cloud.Members(w.lb); len(m) != 3 {
				t.Errorf("the members are %v: %v", m, err)
			}
		}
		w.Await("it is put back", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	}
}

// TestGateClosedFirst has the gate take the target out before the balancer was
// asked whether enough others serve.
// TestEvidence goes by the gate's own count of the balancer's probes alone:
// nothing can be looked at.
