package gate_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

func TestRestartWhileDrained(t *testing.T) {
	w := newWorld(t, nil)
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.Await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	before := lbtest.DrainStatus(t, p, r).Epoch
	w.nodes["w1"].reopen(t)
	st := lbtest.DrainStatus(t, p, r)
	if st.Stage == lbclient.DrainIdle || st.Stage == lbclient.DrainNotAsked || st.Epoch == before {
		t.Errorf("a gate that has only just started says %+v, want that the drain is held, not idle, and another epoch than %s", st, before)
	}
	w.Await("the drain is idle again", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	if got := w.status("w1"); got != "DOWN" {
		t.Errorf("HAProxy says %s of a drained target after the gate's restart", got)
	}
}

// TestRestartAwaitsWhoPolledBefore: a poller that a new gate has not seen yet may
// still send work.
func TestRestartAwaitsWhoPolledBefore(t *testing.T) {
	var o gate.Options
	g, p := alone(t, nil, func(opts *gate.Options, _ *gate.Config) { o = *opts })
	r := lbtest.Snapshot(t, p)
	for _, from := range []string{"10.0.0.1", "10.0.0.2"} {
		poll(g, from)
	}
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	again, err := gate.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	poll(again, "10.0.0.1")
	st, err := again.Status(t.Context())
	if err != nil || !st.Drained || st.Refused.Done || !strings.Contains(st.Refused.Text, "10.0.0.2 polled before") {
		t.Errorf("got %+v, %v", st, err)
	}
}

// TestRestartWhileServing restarts a gate whose socket outlives it, as one
// passed by systemd does, under visitors.
func TestRestartWhileServing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kept, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	app := traffic.NewApp(t, "w1")
	o := gate.Options{
		Server: "w1", File: filepath.Join(t.TempDir(), "gate.json"), Check: check,
		App: func(context.Context) error { return nil },
	}
	run := func() (*gate.Gate, func()) {
		g, err := gate.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		inherited, err := net.FileListener(kept)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- gate.Serve(ctx, inherited, g) }()
		return g, func() {
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	g, stop := run()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	lb := haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{{
		Name: "web", Lines: []string{"option httpchk GET /ready"},
		Servers: []haproxytest.Server{{Name: "w1", Address: app.Address, Options: quick + " port " + port}},
	}}})
	serving := func(g *gate.Gate) bool {
		st, err := g.Status(t.Context())
		return err == nil && st.Phase() == lbclient.PhaseServing
	}
	w := &world{Front: lbtest.NewFront(t, 0), t: t, lb: lb}
	w.URL = lb.URL("web")
	w.Await("the target serves", func() bool { return serving(g) })
	stop()
	// Nobody answers for longer than HAProxy's fall x inter.
	until := time.Now().Add(4 * check.DownWithin() / 50)
	w.Await("the gate is away for a while", func() bool {
		if _, err := w.Get(); err != nil {
			t.Fatalf("a request failed while the gate was away: %v", err)
		}
		return time.Now().After(until)
	})
	g, stop = run()
	defer stop()
	w.Await("the target serves again", func() bool { return serving(g) })
	if got := w.status("w1"); !strings.HasPrefix(got, "UP") {
		t.Errorf("HAProxy says %s after the gate's restart", got)
	}
	down, err := lb.Command("show stat web 4 -1")
	if err != nil {
		t.Fatal(err)
	}
	// chkdown is the 23rd column.
	for l := range strings.Lines(down) {
		if f := strings.Split(l, ","); len(f) > 22 && f[1] == "w1" && f[22] != "0" {
			t.Errorf("HAProxy found the target down %s times", f[22])
		}
	}
}

// TestSoftStop refuses with 404, which HAProxy takes for a wish to be left in
// peace, and not for a failure.
func TestSoftStop(t *testing.T) {
	w := newWorld(t, func(o *gate.Options) { o.Refusal = http.StatusNotFound }, "http-check disable-on-404")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.Await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	if got := w.status("w1"); got != "NOLB" {
		t.Errorf("HAProxy says %s, want NOLB", got)
	}
}

// TestReloadIsNoticed: a HAProxy that has just started takes everybody for
// healthy until its first check, so it may send work to a closed gate. The
// kernel sees it.
func TestReloadIsNoticed(t *testing.T) {
	w := newWorld(t, nil)
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.Await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	c, err := net.Dial("tcp", w.Apps["w1"].Address) // what the new process would do
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted || !strings.Contains(st.Evidence, c.LocalAddr().String()) {
		t.Errorf("a new connection to a drained target: %+v", st)
	}
	w.Await("the drain is idle again", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
}
