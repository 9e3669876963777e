package haproxy_test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// stickyWorld is an HAProxy that sends a visitor with the cookie SRV=w1 to w1, for
// as long as it lets anybody in there.
func stickyWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFront(t, 2), t: t, backend: []string{"web"}}
	be := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz", "cookie SRV insert indirect nocache"}}
	for _, n := range w.Names {
		be.Servers = append(be.Servers, haproxytest.Server{Name: n, Address: w.Apps[n].Address, Options: quick + " weight 7 cookie " + n})
	}
	w.start(haproxytest.Options{Backends: []haproxytest.Backend{be}})
	return w
}

// visitors come on a new connection each time.
var visitors = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

// visit is a request of a visitor who sticks to w1; it tells who answered.
func (w *world) visit() string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.lb.URL("web")+"/", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "SRV", Value: "w1"})
	resp, err := visitors.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return string(body)
}

func force(t *testing.T, p lbclient.Provider, r lbclient.Restore) {
	t.Helper()
	if err := p.(lbclient.Forcer).ForceIdle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// rejoin asks until it is done, as an agent does.
func (w *world) rejoin(p lbclient.Provider, r lbclient.Restore) {
	w.t.Helper()
	w.await("the rejoin is accepted", func() bool {
		err := p.BeginRejoin(w.t.Context(), r)
		if err != nil && !lbclient.ClassOf(err).Retryable() {
			w.t.Fatal(err)
		}
		return err == nil
	})
}

// Visitors who stick to a target are let in while it is drained, until force is
// used; what is in flight ends only when force is used again. All of it is undone
// by the record from before, also by a process that knows of nothing else.
func TestForce(t *testing.T) {
	w := stickyWorld(t)
	p := w.Provider("w1")
	if caps := lbclient.CapsOf(p); !caps.Health || !caps.InFlight || caps.Disturbs != "" {
		t.Errorf("it says of itself %+v", caps)
	}
	r := lbtest.Snapshot(t, p)
	lbtest.WantError(t, p.(lbclient.Forcer).ForceIdle(t.Context(), r), lbclient.ClassConflict, "the drain must come first")
	finish := w.Hold("w1")
	lbtest.Drain(t, p, r)
	if who := w.visit(); who != "w1" {
		t.Fatalf("a visitor who sticks to w1 came to %q in the drain", who)
	}
	force(t, p, r)
	if who := w.visit(); who != "w2" {
		t.Errorf("a visitor who sticks to w1 came to %q after the force", who)
	}
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != 1 || !strings.Contains(st.Evidence, "by force") {
		t.Errorf("with a request in flight: %+v", st)
	}
	// The agent is started again.
	p = w.Provider("w1")
	lbtest.Drain(t, p, r)
	force(t, p, r)
	w.await("what was in flight is gone", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	if err := finish(); err == nil {
		t.Error("the request in flight ended well, want it cut off")
	}
	force(t, p, r) // once more is harmless
	w.rejoin(w.Provider("w1"), r)
	if admin, weight := w.state("web", "w1"); admin != ready || weight != "7" {
		t.Errorf("put back with state %s, weight %s", admin, weight)
	}
	w.await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if who := w.visit(); who != "w1" {
		t.Errorf("a visitor who sticks to w1 came to %q after the rejoin", who)
	}
}

// HAProxy takes a server for healthy when its maintenance ends. Nobody is sent to
// one that is not, on its way back from a force.
func TestNobodyIsSentBackBeforeTheFirstCheck(t *testing.T) {
	w := stickyWorld(t)
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	force(t, p, r)
	w.SetHealthy("w1", false)
	lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassBusy, "until HAProxy has checked it once")
	w.wantAdmin("web", "w1", drained)
	w.rejoin(p, r)
	if s := w.show("web", "w1"); !strings.HasPrefix(s["status"], "DOWN") {
		t.Errorf("w1 fails its check and was put back as %s", s["status"])
	}
	w.SetHealthy("w1", true)
	w.await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
}

// Maintenance by another hand is not taken for our own force.
func TestForeignMaintenanceIsNoForce(t *testing.T) {
	w := stickyWorld(t)
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.command("set server web/w1 state maint")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked {
		t.Errorf("%+v", st)
	}
	lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassUnsafe, "another hand holds it out")
	w.wantAdmin("web", "w1", "1")
}

// closedPort is an address at which nobody listens until the test says so.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// forward lets a Unix socket be reached at address, until the test ends.
func forward(t *testing.T, address, socket string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				to, err := net.Dial("unix", socket)
				if err != nil {
					return
				}
				defer to.Close()
				go func() { _, _ = io.Copy(to, c) }()
				_, _ = io.Copy(c, to)
			}()
		}
	}()
}

// A standby that is down keeps nothing back where that is allowed; when it comes
// back in mid-turn the drain is asked for again, there too.
func TestAnUnreachableStandbyThatIsAllowed(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	v := w.twin(haproxytest.Options{})
	standby := closedPort(t)
	c := w.config("w1")
	c.Endpoints = []string{w.lb.Endpoint(), "tcp://" + standby}
	strict := provider(t, c)
	_, err := strict.Snapshot(t.Context())
	lbtest.WantError(t, err, lbclient.ClassTransient, standby, "nobody listens there")

	c.AllowUnreachable = 1
	p := provider(t, c)
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool, err := p.Observe(t.Context())
	if err != nil || len(pool.Members) != 2 || !strings.Contains(pool.Members[0].Detail, "nobody answers at tcp://"+standby) {
		t.Errorf("Observe: %+v, %v", pool, err)
	}
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	st := lbtest.DrainStatus(t, p, r)
	if st.Stage != lbclient.DrainIdle || !strings.Contains(st.Evidence, "nobody answers at tcp://"+standby) {
		t.Errorf("%+v", st)
	}
	before := st.Epoch

	forward(t, standby, strings.TrimPrefix(v.lb.Endpoint(), "unix://"))
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || st.Epoch == before {
		t.Errorf("with the standby back: %+v", st)
	}
	lbtest.Drain(t, p, r)
	v.wantAdmin("web", "w1", drained)
	force(t, p, r)
	p = provider(t, c)
	w.rejoin(p, r)
	for _, in := range []*world{w, v} {
		if admin, weight := in.state("web", "w1"); admin != ready || weight != "1" {
			t.Errorf("put back with state %s, weight %s", admin, weight)
		}
	}

	// Not both of them, and none that is there and says nothing.
	w.lb.Stop()
	v.lb.Stop()
	if _, err := p.DrainStatus(t.Context(), r); err == nil {
		t.Error("DrainStatus with nobody there: no error")
	}
}

func TestASilentInstanceIsNotExcused(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := w.config("w1")
	c.Endpoints = append(slices.Clone(c.Endpoints), "tcp://"+silent.Addr().String())
	c.AllowUnreachable, c.SocketTimeout = 1, 200*time.Millisecond
	_, err = provider(t, c).Snapshot(t.Context())
	lbtest.WantError(t, err, lbclient.ClassTransient, silent.Addr().String())
}

// A standby that dies in mid-turn keeps the target neither out nor from coming back.
func TestAStandbyThatDiesInMidTurn(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	v := w.twin(haproxytest.Options{})
	c := w.config("w1")
	c.Endpoints, c.AllowUnreachable = []string{v.lb.Endpoint(), w.lb.Endpoint()}, 1
	p := provider(t, c)
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	gone := v.lb.Endpoint()
	v.lb.Stop()
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainIdle || !strings.Contains(st.Evidence, gone) {
		t.Errorf("%+v", st)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantAdmin("web", "w1", ready)
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinServing || !strings.Contains(st.Evidence, gone) {
		t.Errorf("%+v, %v", st, err)
	}
}
