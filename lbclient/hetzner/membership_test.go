package hetzner_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func TestASelectorIsNeverRemoved(t *testing.T) {
	w := newWorld(t, options{kind: bySelector, mode: hetzner.ModeRemove})
	p := w.alone("w1")
	wantError(t, p.Preflight(t.Context()), lbclient.ClassUnsupported, `"env=prod"`, "use mode gate")
	_, err := p.Snapshot(t.Context())
	wantError(t, err, lbclient.ClassUnsupported, "use mode gate")

	// Neither when the label came after the state was recorded.
	byself := newWorld(t, options{kind: byServer, mode: hetzner.ModeRemove})
	q := byself.alone("w1")
	r := lbtest.Snapshot(t, q)
	byself.cloud.SetTargets(byself.lb, hetznertest.Target{Selector: "env=prod"})
	wantError(t, q.BeginDrain(t.Context(), r, 0), lbclient.ClassUnsupported, "use mode gate")
	wantError(t, q.BeginRejoin(t.Context(), r), lbclient.ClassConflict, "another hand", "double")
	if w.posts()+byself.posts() != 0 {
		t.Error("something was changed")
	}
}

func TestATargetTwiceOver(t *testing.T) {
	for _, mode := range []hetzner.Mode{hetzner.ModeRemove, hetzner.ModeGate} {
		w := newWorld(t, options{kind: byServer, mode: mode})
		w.cloud.SetTargets(w.lb, append(w.cloud.Targets(w.lb), hetznertest.Target{Selector: "env=prod", UsePrivateIP: true})...)
		p := w.alone("w1")
		wantError(t, p.Preflight(t.Context()), lbclient.ClassUnsupported, "more than once", "by its private address")
		_, err := p.Snapshot(t.Context())
		wantError(t, err, lbclient.ClassUnsupported, "more than once")
		if n := len(w.observe(p)); n != 3 {
			t.Errorf("%d members are listed, want each once", n)
		}
	}
}

func TestAServerThatWasDeleted(t *testing.T) {
	w, p, r := removing(t)
	lbtest.Drain(t, p, r)
	w.cloud.DeleteServer(w.ids["w1"])
	wantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassNotFound, "not found", "does not list it")

	// One that is made anew under the name is another: the record is not of it.
	w.ids["w1"] = w.cloud.AddServer(hetznertest.Server{Name: "w1", Private: true,
		Backend: hetznertest.Backend{Ports: map[int]string{appPort: w.Apps["w1"].Address}}})
	w.cloud.SetTargets(w.lb, w.target("w1"), w.target("w2"), w.target("w3"))
	if got := lbtest.Snapshot(t, p); !strings.Contains(string(got.Data), id(w.ids["w1"])) {
		t.Errorf("the new server is %d, recorded is %s", w.ids["w1"], got.Data)
	}
	if st := lbtest.RejoinStatus(t, p, r); st.Stage != lbclient.RejoinNotAsked {
		t.Errorf("the record of the deleted server stands as %+v", st)
	}
}

func TestWhichMemberTheTargetIs(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeRemove})
	for name, edit := range map[string]func(*hetzner.Config){
		"by name":                 func(*hetzner.Config) {},
		"by id":                   func(c *hetzner.Config) { c.Server, c.ServerID = "shop-1", w.ids["w1"] },
		"by id, as its name":      func(c *hetzner.Config) { c.Server = id(w.ids["w1"]) },
		"by the metadata service": func(c *hetzner.Config) { c.Server, c.FromMetadata = "shop-1", true },
		"balancer by id":          func(c *hetzner.Config) { c.LoadBalancer = id(w.lb) },
	} {
		t.Run(name, func(t *testing.T) {
			c := w.config("w1")
			c.MetadataEndpoint = w.cloud.MetadataEndpoint(w.ids["w1"])
			edit(&c)
			p := w.made(c)
			if err := p.Preflight(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := lbtest.Snapshot(t, p); r.Target != c.Server || !strings.Contains(string(r.Data), id(w.ids["w1"])) {
				t.Errorf("recorded %+v %s, want server %d", r, r.Data, w.ids["w1"])
			}
			if got := w.phase(p, c.Server); got != lbclient.PhaseServing {
				t.Errorf("%s stands as %s", c.Server, got)
			}
			if got := w.phase(p, "w2"); got != lbclient.PhaseServing {
				t.Errorf("another member stands as %s", got)
			}
		})
	}
	for name, c := range map[string]struct {
		edit  func(*hetzner.Config)
		class lbclient.Class
		words string
	}{
		"no such balancer":    {func(c *hetzner.Config) { c.LoadBalancer = "rear" }, lbclient.ClassNotFound, "another project"},
		"no such balancer id": {func(c *hetzner.Config) { c.LoadBalancer = "7" }, lbclient.ClassNotFound, "id 7"},
		"no such server":      {func(c *hetzner.Config) { c.Server = "w9" }, lbclient.ClassNotFound, "give the server's id"},
		"no target":           {func(c *hetzner.Config) { c.ServerID = 7 }, lbclient.ClassNotFound, "server 7 is no target"},
		"no metadata":         {func(c *hetzner.Config) { c.FromMetadata, c.MetadataEndpoint = true, w.cloud.MetadataEndpoint(7) }, lbclient.ClassTransient, "is this a Hetzner Cloud server?"},
		"no such port":        {func(c *hetzner.Config) { c.Ports = []int{8443} }, lbclient.ClassInvalid, "no service on listen port 8443"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := w.config("w1")
			c.edit(&cfg)
			wantError(t, w.made(cfg).Preflight(t.Context()), c.class, c.words)
		})
	}
	t.Run("a name that two answer to", func(t *testing.T) {
		w.cloud.AddServer(hetznertest.Server{Name: "w1"})
		wantError(t, w.alone("w1").Preflight(t.Context()), lbclient.ClassInvalid, "2 servers", "give the server's id")
	})
}

// TestAPortThatNobodyServes has a second service that is down everywhere, and
// later one that only some serve.
func TestAPortThatNobodyServes(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeRemove})
	lb, err := w.cloud.AddBalancer(hetznertest.Balancer{
		Name: "two", Targets: w.cloud.Targets(w.lb),
		Services: []hetznertest.Service{
			{ListenPort: 80, DestinationPort: appPort, Check: check},
			{Protocol: "tcp", ListenPort: 443, DestinationPort: 1, Check: hetznertest.Check{Protocol: "tcp", Interval: 4, Timeout: 60, Retries: 2}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := w.config("w1")
	c.LoadBalancer = "two"
	p := w.made(c)
	w.Await("the balancer has its verdicts", func() bool {
		return strings.Contains(w.observe(p)[0].Detail, "80 healthy, 443 unhealthy (layer4_no_connection)")
	})
	r := lbtest.Snapshot(t, p)
	if !r.WasServing {
		t.Error("a port on which nobody is healthy counts")
	}
	lbtest.Drain(t, p, r)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Await("the target serves", func() bool { return lbtest.RejoinStatus(t, p, r).Stage == lbclient.RejoinServing })

	c.Ports = []int{443}
	if st := lbtest.Snapshot(t, w.made(c)); st.WasServing {
		t.Error("the port that was asked for does not count")
	}
	// The only one that serves a port may not leave it.
	w.cloud.ReportHealth(w.ids["w1"], 443, "healthy")
	wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe, "listen port 443")
	if got := w.cloud.Targets(lb); len(got) != 3 {
		t.Errorf("targets %v", got)
	}
}

// TestNobodyIsHealthy takes out one of a pool that is down as a whole, which a
// release that mends it needs.
func TestNobodyIsHealthy(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeRemove})
	p := w.alone("w1")
	for _, name := range w.Targets() {
		w.SetHealthy(name, false)
	}
	w.Await("all are down", func() bool {
		for _, m := range w.observe(p) {
			if m.Phase != lbclient.PhaseUnhealthy {
				return false
			}
		}
		return true
	})
	r := lbtest.Snapshot(t, p)
	if r.WasServing {
		t.Error("a target that is down is recorded as serving")
	}
	lbtest.Drain(t, p, r)
	w.SetHealthy("w1", true)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Await("the target serves", func() bool { return lbtest.RejoinStatus(t, p, r).Stage == lbclient.RejoinServing })
}

// TestHealthThatIsOld has a balancer that reports what was.
func TestHealthThatIsOld(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeGate})
	p, g := w.alone("w1"), w.gates["w1"]
	r := lbtest.Snapshot(t, p)
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted || !strings.Contains(st.Evidence, "80 healthy") {
		t.Errorf("with the gate open: %+v", st)
	}
	lbtest.Drain(t, p, r)
	g.closed.Store(true)
	w.cloud.ReportHealth(w.ids["w1"], 80, "healthy")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted {
		t.Errorf("while the balancer has not noticed: %+v", st)
	}
	w.cloud.ReportHealth(w.ids["w1"], 80, "unknown")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted {
		t.Errorf("while the balancer does not know: %+v", st)
	}
	w.cloud.ReportHealth(w.ids["w1"], 80, "")
	w.Await("the balancer has noticed", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainBusy })
	if st := lbtest.DrainStatus(t, p, r); st.InFlight != -1 || !strings.Contains(st.Evidence, "answered 503") {
		t.Errorf("%+v", st)
	}
	g.closed.Store(false)
	w.cloud.ReportHealth(w.ids["w1"], 80, "unhealthy")
	if st := lbtest.RejoinStatus(t, p, r); st.Stage != lbclient.RejoinUnhealthy {
		t.Errorf("while the balancer has not noticed: %+v", st)
	}
	w.cloud.ReportHealth(w.ids["w1"], 80, "unknown")
	if st := lbtest.RejoinStatus(t, p, r); st.Stage != lbclient.RejoinPending {
		t.Errorf("while the balancer does not know: %+v", st)
	}
	w.cloud.ReportHealth(w.ids["w1"], 80, "")
	w.Await("the target serves", func() bool { return lbtest.RejoinStatus(t, p, r).Stage == lbclient.RejoinServing })
	if n := w.posts(); n != 0 {
		t.Errorf("gate mode changed something %d times", n)
	}
}

func TestAMembershipLostBehindAGate(t *testing.T) {
	w := newWorld(t, options{kind: bySelector, mode: hetzner.ModeGate})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.take("w1")
	_, err := p.DrainStatus(t.Context(), r)
	wantError(t, err, lbclient.ClassNotFound, "is no target")
	wantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassNotFound, "another hand removed it")
}

func TestChecksThatMissTheGate(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeGate})
	p := w.alone("w1")
	if err := p.Preflight(t.Context()); err != nil {
		t.Error(err)
	}
	good := hetznertest.Check{Port: gatePort, Path: "/gate", Interval: 4, Timeout: 60, Retries: 2}
	for words, edit := range map[string]func(*hetznertest.Check){
		`has protocol "tcp"`:  func(c *hetznertest.Check) { c.Protocol = "tcp" },
		"goes to port 8080":   func(c *hetznertest.Check) { c.Port = appPort },
		`asks for "/healthz"`: func(c *hetznertest.Check) { c.Path = "/healthz" },
		"takes status 503":    func(c *hetznertest.Check) { c.StatusCodes = []string{"200", "5??"} },
	} {
		c := good
		edit(&c)
		w.cloud.SetCheck(w.lb, 80, c)
		wantError(t, p.Preflight(t.Context()), lbclient.ClassUnsupported, "listen port 80", words)
	}
}

func TestTimingIsRead(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeGate})
	w.cloud.SetCheck(w.lb, 80, hetznertest.Check{Port: gatePort, Path: "/gate"})
	got, err := w.alone("w1").(lbclient.Timed).Timing(t.Context())
	want := lbclient.Timing{Interval: 15 * time.Second, Timeout: 10 * time.Second, Fall: 3, Rise: 3}
	if got != want || err != nil {
		t.Errorf("got %+v, error %v; want %+v", got, err, want)
	}
	if got.DownWithin() != 55*time.Second {
		t.Errorf("down within %s", got.DownWithin())
	}
}

// TestCallsAreCounted keeps a look cheap: the limit is shared by all programs of
// the project.
func TestCallsAreCounted(t *testing.T) {
	w := newWorld(t, options{kind: byServer, mode: hetzner.ModeRemove})
	p := w.made(w.config("w1"))
	r := lbtest.Snapshot(t, p)
	w.observe(p)
	for what, f := range map[string]func(){
		"Observe":      func() { w.observe(p) },
		"DrainStatus":  func() { lbtest.DrainStatus(t, p, r) },
		"RejoinStatus": func() { lbtest.RejoinStatus(t, p, r) },
		"Snapshot":     func() { lbtest.Snapshot(t, p) },
	} {
		before := len(w.cloud.Calls())
		f()
		if calls := w.cloud.Calls()[before:]; len(calls) != 1 || !strings.HasPrefix(calls[0], http.MethodGet) {
			t.Errorf("%s made the calls %q, want one", what, calls)
		}
	}
}
