package gate_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func TestInFlight(t *testing.T) {
	w := newWorld(t, nil)
	finish := w.Hold("w1")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.Await("HAProxy sends nothing new", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainBusy })
	if got := w.status("w1"); got != "DOWN" {
		t.Errorf("the gate concludes that nothing new comes while HAProxy says %s", got)
	}
	// Silent for longer than the quiet window, the request is still seen.
	until := time.Now().Add(300 * time.Millisecond)
	w.Await("the request is seen for a while", func() bool {
		if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != 1 {
			t.Fatalf("with a request in flight: %+v", st)
		}
		return time.Now().After(until)
	})
	if err := finish(); err != nil {
		t.Errorf("the request in flight did not survive: %v", err)
	}
	w.Await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
}

// alone is a gate that nobody polls, with its provider.
func alone(t *testing.T, app func(context.Context) error, change func(*gate.Options, *gate.Config)) (*gate.Gate, lbclient.Provider) {
	t.Helper()
	if app == nil {
		app = func(context.Context) error { return nil }
	}
	o := gate.Options{Server: "w1", File: filepath.Join(t.TempDir(), "gate.json"), App: app, Check: check}
	c := gate.Config{Name: "front", Server: "w1", File: o.File, CapacityElsewhere: true}
	if change != nil {
		change(&o, &c)
	}
	g, err := gate.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Gate = g
	p, err := gate.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g, p
}

func poll(g *gate.Gate, from string) int {
	r := httptest.NewRequest(http.MethodOptions, g.Path(), http.NoBody)
	r.RemoteAddr = from + ":4000"
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w.Code
}

func TestAnswers(t *testing.T) {
	sick := errors.New("no database")
	var app error
	var hold string
	g, p := alone(t, func(context.Context) error { return app }, func(o *gate.Options, _ *gate.Config) {
		o.Refusal = http.StatusTeapot
		o.HoldFile = o.File + ".hold"
		hold = o.HoldFile
		o.Check.Interval = time.Nanosecond // ask the app each time
	})
	want := func(what string, status int) {
		t.Helper()
		if got := poll(g, "10.0.0.1"); got != status {
			t.Errorf("%s: answered %d, want %d", what, got, status)
		}
	}
	want("never drained", http.StatusOK)
	app = sick
	want("the app is not healthy", http.StatusTeapot)
	app = nil
	want("the app is healthy again", http.StatusOK)
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 3); err != nil {
		t.Fatal(err)
	}
	want("drained", http.StatusTeapot)
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginRejoin(t.Context(), r); lbclient.ClassOf(err) != lbclient.ClassUnsafe {
		t.Errorf("a rejoin while another hand holds the gate: %v", err)
	}
	want("held by another hand", http.StatusTeapot)
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	want("let go by the other hand", http.StatusOK)
}

// TestAClosedGateLeavesItsAppAlone: a question to the app would pass for work
// that still arrives.
func TestAClosedGateLeavesItsAppAlone(t *testing.T) {
	asked := 0
	g, p := alone(t, func(context.Context) error { asked++; return nil }, func(o *gate.Options, _ *gate.Config) {
		o.Check.Interval = time.Nanosecond // ask the app each time
	})
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	asked = 0
	poll(g, "10.0.0.1")
	lbtest.DrainStatus(t, p, r)
	if _, err := p.Observe(t.Context()); err != nil || asked != 0 {
		t.Errorf("the app was asked %d times, %v", asked, err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if poll(g, "10.0.0.1"); asked == 0 {
		t.Error("an open gate does not ask its app")
	}
}

// TestAPeerThatIsGoneSilently uses up its own time only.
func TestAPeerThatIsGoneSilently(t *testing.T) {
	silent := func() gate.Viewer { return gone{} }
	_, p := alone(t, nil, func(_ *gate.Options, c *gate.Config) {
		c.Peers = map[string]gate.Viewer{"w2": silent(), "w3": silent(), "w4": silent()}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pool, err := p.Observe(ctx)
	if err != nil || ctx.Err() != nil || len(pool.Members) != 4 {
		t.Fatalf("%+v, %v", pool, err)
	}
	for _, m := range pool.Members[1:] {
		if m.Phase != lbclient.PhaseUnknown {
			t.Errorf("a peer that does not answer is %+v", m)
		}
	}
}

// gone is a gate on a node that answers nothing.
type gone struct{}

func (gone) Status(ctx context.Context) (gate.Status, error) {
	<-ctx.Done()
	return gate.Status{}, ctx.Err()
}

// TestUnreadableState: a file that makes no sense may have said drained.
func TestUnreadableState(t *testing.T) {
	var file string
	g, p := alone(t, nil, func(o *gate.Options, _ *gate.Config) { file = o.File })
	r := lbtest.Snapshot(t, p)
	for what, text := range map[string]string{
		"empty": "", "cut off": `{"version":1,"ser`, "of another target": `{"version":1,"server":"w2","drained":false,"at":"2026-01-02T03:04:05Z"}`,
		"newer": `{"version":2,"server":"w1"}`, "with more": `{"version":1,"server":"w1"} {}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := poll(g, "10.0.0.1"); got != gate.DefaultRefusal {
			t.Errorf("a file %s: answered %d", what, got)
		}
		if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked {
			t.Errorf("a file %s: %+v, want that the drain is asked for again", what, st)
		}
		if _, err := p.Snapshot(t.Context()); lbclient.ClassOf(err) != lbclient.ClassUnsafe {
			t.Errorf("a file %s: Snapshot gives %v", what, err)
		}
		if err := p.Preflight(t.Context()); lbclient.ClassOf(err) != lbclient.ClassUnsafe || !strings.Contains(err.Error(), file) {
			t.Errorf("a file %s: Preflight gives %v", what, err)
		}
		if pool, err := p.Observe(t.Context()); err != nil || pool.Members[0].Phase != lbclient.PhaseUnknown {
			t.Errorf("a file %s: %+v, %v", what, pool, err)
		}
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Errorf("a file %s: BeginRejoin: %v", what, err)
		}
		if got := poll(g, "10.0.0.1"); got != http.StatusOK {
			t.Errorf("after the rejoin: answered %d", got)
		}
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 {
		t.Errorf("files left behind: %v", left)
	}
}

// TestPassingFault: a state that was read before stands while the file cannot
// be read, so that a fault takes nobody out.
func TestPassingFault(t *testing.T) {
	var file string
	g, p := alone(t, nil, func(o *gate.Options, _ *gate.Config) { file = o.File })
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	broken := func() {
		t.Helper()
		if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	broken()
	if got := poll(g, "10.0.0.1"); got != gate.DefaultRefusal {
		t.Errorf("drained, then not readable: answered %d", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := poll(g, "10.0.0.1"); got != http.StatusOK {
		t.Errorf("no file: answered %d", got)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := poll(g, "10.0.0.1"); got != http.StatusOK {
		t.Errorf("open, then not readable: answered %d", got)
	}
	if err := p.BeginDrain(t.Context(), r, 0); err == nil {
		t.Error("a drain that could not be written down succeeded")
	}
}

func TestNobodyPolls(t *testing.T) {
	g, p := alone(t, nil, func(o *gate.Options, _ *gate.Config) {
		o.Check.Timeout, o.AppTimeout = 0, time.Second
		o.Check.Interval = 300 * time.Millisecond
	})
	if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != lbclient.ClassTransient {
		t.Errorf("just started: Preflight gives %v", err)
	}
	r := lbtest.Snapshot(t, p)
	if r.WasServing {
		t.Error("a target whose gate nobody polls is said to serve")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := p.Preflight(t.Context())
		if lbclient.ClassOf(err) == lbclient.ClassNotFound && strings.Contains(err.Error(), "no balancer polls it") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Preflight gives %v", err)
		}
	}
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted || !strings.Contains(st.Evidence, "0 addresses poll the gate, want 1") {
		t.Errorf("with nobody polling: %+v", st)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinPending {
		t.Errorf("with nobody polling: %+v, %v", st, err)
	}
	poll(g, "10.0.0.1")
	if err := p.Preflight(t.Context()); err != nil {
		t.Errorf("polled: Preflight gives %v", err)
	}
}

// TestWhosePollsCount: a stranger's polls are answered and do not count.
func TestWhosePollsCount(t *testing.T) {
	g, _ := alone(t, nil, func(o *gate.Options, _ *gate.Config) {
		o.Pollers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	})
	for _, from := range []string{"10.0.0.1", "10.1.0.1", "[::ffff:10.0.0.2]", "[2001:db8::1]"} {
		if got := poll(g, from); got != http.StatusOK {
			t.Errorf("%s was answered %d", from, got)
		}
	}
	st, err := g.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var who []string
	for _, p := range st.Pollers {
		who = append(who, p.Address.String())
	}
	if got := strings.Join(who, " "); got != "10.0.0.1 10.0.0.2" {
		t.Errorf("polls of %s count", got)
	}
	own := httptest.NewRequest(http.MethodGet, g.Path(), http.NoBody)
	own.RemoteAddr = "10.0.0.3:4000"
	own.Header.Set("User-Agent", gate.OwnAgent+"look")
	answer := httptest.NewRecorder()
	if g.ServeHTTP(answer, own); answer.Code != http.StatusOK {
		t.Errorf("a look of our own was answered %d", answer.Code)
	}
	if st, err := g.Status(t.Context()); err != nil || len(st.Pollers) != 2 {
		t.Errorf("a look of our own counts: %+v, %v", st.Pollers, err)
	}
	elsewhere := httptest.NewRecorder()
	g.ServeHTTP(elsewhere, httptest.NewRequest(http.MethodGet, "/else", http.NoBody))
	if elsewhere.Code != http.StatusNotFound {
		t.Errorf("another path is answered %d", elsewhere.Code)
	}
}

// TestAppThatHangs does not make the balancer wait.
func TestAppThatHangs(t *testing.T) {
	g, _ := alone(t, func(ctx context.Context) error { <-ctx.Done(); return nil }, func(o *gate.Options, _ *gate.Config) {
		o.AppTimeout = 20 * time.Millisecond
	})
	if got := poll(g, "10.0.0.1"); got != gate.DefaultRefusal {
		t.Errorf("an app that does not answer is admitted with %d", got)
	}
}

func TestPreflight(t *testing.T) {
	_, p := alone(t, nil, func(o *gate.Options, c *gate.Config) {
		o.File = filepath.Join(filepath.Dir(o.File), "missing", "gate.json")
		c.File = o.File
	})
	if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != lbclient.ClassDenied {
		t.Errorf("Preflight gives %v", err)
	}
}

func TestAnotherFile(t *testing.T) {
	_, p := alone(t, nil, func(_ *gate.Options, c *gate.Config) { c.File += ".other" })
	if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
		t.Errorf("Preflight gives %v", err)
	}
}
