package haproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

// member observes one member.
func member(t *testing.T, p lbclient.Provider, name string) lbclient.Member {
	t.Helper()
	pool, err := p.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range pool.Members {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("%s is no member: %+v", name, pool)
	return lbclient.Member{}
}

func (w *world) awaitPhase(p lbclient.Provider, name string, want lbclient.Phase) {
	w.t.Helper()
	w.await(fmt.Sprintf("%s is %s", name, want), func() bool { return member(w.t, p, name).Phase == want })
}

// TestEveryKindOfServer has a backend of the kinds that HAProxy knows.
func TestEveryKindOfServer(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(s.Close)
	at := strings.TrimPrefix(s.URL, "http://")
	server := func(name, options string) haproxytest.Server {
		return haproxytest.Server{Name: name, Address: at, Options: options}
	}
	w := &world{Front: lbtest.NewFront(t, 0), t: t}
	w.start(haproxytest.Options{Backends: []haproxytest.Backend{{
		Name:  "web",
		Lines: []string{"option httpchk GET /", "http-check disable-on-404"},
		Servers: []haproxytest.Server{
			server("checked", quick),
			server("unchecked", ""),
			server("slow", quick+" slowstart 10m"),
			server("follower", "track web/checked"),
			server("faraway", "track checks/one"),
			server("spare", quick+" backup"),
			server("off", quick+" disabled"),
			server("unasked", "check inter 1s"),
		},
	}, {
		Name:    "checks",
		Lines:   []string{"option httpchk GET /", "http-check disable-on-404"},
		Servers: []haproxytest.Server{server("one", quick)},
	}}})
	p := provider(t, haproxy.Config{Name: "front", Endpoints: []string{w.lb.Endpoint()}, Backends: []string{"web"}, Server: "checked"})

	const serving, pending, unhealthy, out = lbclient.PhaseServing, lbclient.PhasePending, lbclient.PhaseUnhealthy, lbclient.PhaseForeignOut
	for _, name := range []string{"checked", "unchecked", "slow", "follower", "faraway", "spare"} {
		w.awaitPhase(p, name, serving)
	}
	w.awaitPhase(p, "off", out)
	if d := member(t, p, "spare").Detail; !strings.Contains(d, "backup") {
		t.Errorf("the detail of a backup is %q", d)
	}

	status.Store(http.StatusNotFound) // a soft stop, where the backend says so
	w.awaitPhase(p, "checked", unhealthy)
	w.awaitPhase(p, "follower", unhealthy)
	if d := member(t, p, "checked").Detail; !strings.Contains(d, "NOLB") {
		t.Errorf("the detail of a soft stop is %q", d)
	}
	w.awaitPhase(p, "unchecked", serving)

	status.Store(http.StatusInternalServerError)
	for _, name := range []string{"checked", "follower", "slow", "faraway", "spare"} {
		w.awaitPhase(p, name, unhealthy)
	}

	status.Store(http.StatusOK)
	w.awaitPhase(p, "checked", serving)
	w.awaitPhase(p, "follower", serving)
	w.awaitPhase(p, "slow", pending) // warming up

	// An enabled "disabled" server remembers how it began.
	w.command("set server web/off state ready")
	w.awaitPhase(p, "off", serving)
	// Out of maintenance HAProxy sends work before any check: "UP 1/3".
	w.command("set server web/unasked state maint")
	w.awaitPhase(p, "unasked", out)
	w.command("set server web/unasked state ready")
	if m := member(t, p, "unasked"); m.Phase != pending {
		t.Errorf("a server that HAProxy has not checked stands as %+v", m)
	}
	// Nobody checks what an operator told HAProxy not to check.
	w.command("disable health web/checked")
	w.awaitPhase(p, "checked", serving)
}

func TestBackupsDoNotCount(t *testing.T) {
	a, b := traffic.NewApp(t, "w1"), traffic.NewApp(t, "w2")
	w := &world{Front: lbtest.NewFront(t, 0), t: t}
	w.start(haproxytest.Options{Backends: []haproxytest.Backend{{Name: "web", Servers: []haproxytest.Server{
		{Name: "w1", Address: a.Address}, {Name: "sorry", Address: b.Address, Options: "backup"},
		{Name: "sorry2", Address: b.Address, Options: "backup"},
	}}}})
	c := haproxy.Config{Name: "front", Endpoints: []string{w.lb.Endpoint()}, Backends: []string{"web"}, Server: "w1"}
	p := provider(t, c)
	lbtest.WantError(t, p.BeginDrain(t.Context(), lbtest.Snapshot(t, p), 1), lbclient.ClassUnsafe, "sorry is no check, backup")
	c.Server = "sorry"
	p = provider(t, c)
	lbtest.Drain(t, p, lbtest.Snapshot(t, p))
}

// TestDrainedIsNotReadFromTheStatus: HAProxy shows DOWN for a drained server
// whose check fails, as it does during every deploy.
func TestDrainedIsNotReadFromTheStatus(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.SetHealthy("w1", false)
	w.await("HAProxy shows DOWN", func() bool { return w.show("web", "w1")["status"] == "DOWN" })
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainIdle {
		t.Errorf("while HAProxy shows DOWN: %+v", st)
	}
	lbtest.Drain(t, p, r)
}

func TestAnotherHandsWeightIsPutBack(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	w.command("set server web/w1 weight 40")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.command("set server web/w1 weight 7")
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if admin, weight := w.state("web", "w1"); admin != ready || weight != "40" {
		t.Errorf("state %s, weight %s; want ready with 40", admin, weight)
	}
	// A reload forgets it too.
	lbtest.Drain(t, p, r)
	if err := w.lb.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, weight := w.state("web", "w1"); weight != "40" {
		t.Errorf("after a reload the weight is %s, want 40", weight)
	}
}

func TestOutByAnotherHand(t *testing.T) {
	for _, c := range []struct {
		command, says string
		keeps         func(admin, weight string) bool
	}{
		{"set server web/w1 state maint", "in maintenance", func(a, _ string) bool { return a == "1" }},
		{"set server web/w1 state drain", "drained (by command)", func(a, _ string) bool { return a == drained }},
		{"set server web/w1 weight 0", "weight 0", func(a, w string) bool { return a == ready && w == "0" }},
	} {
		t.Run(c.says, func(t *testing.T) {
			w := newWorld(t, 2, haproxytest.Options{}, "web")
			p := w.Provider("w1")
			w.command(c.command)
			_, err := p.Snapshot(t.Context())
			lbtest.WantError(t, err, lbclient.ClassUnsafe, c.says, "another hand", w.lb.Endpoint())
			if !c.keeps(w.state("web", "w1")) {
				t.Error("its work was undone")
			}
		})
	}
}

// TestMaintenanceInMidDrain: an operator takes the target over while we hold it
// out. Their word stays, and the rejoin says why it cannot be done.
func TestMaintenanceInMidDrain(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web", "api")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.command("set server api/w1 state maint")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || !strings.Contains(st.Evidence, "maintenance") {
		t.Errorf("%+v", st)
	}
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe, "api/w1")
	lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassUnsafe, "in maintenance", "set server api/w1 state ready")
	w.wantAdmin("api", "w1", "1")
	w.wantAdmin("web", "w1", ready)
}
