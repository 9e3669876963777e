package haproxy_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func (w *world) wantAdmin(backend, server, want string) {
	w.t.Helper()
	if got, _ := w.state(backend, server); got != want {
		w.t.Errorf("%s/%s has administrative state %s, want %s", backend, server, got, want)
	}
}

const ready, drained = "0", "8"

func TestEveryBackendIsDrained(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web", "api")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	finish := w.Hold("w1")
	lbtest.Drain(t, p, r)
	w.wantAdmin("web", "w1", drained)
	w.wantAdmin("api", "w1", drained)
	for _, b := range []string{"web", "api"} {
		for range 4 {
			if who, err := w.get(b); who != "w2" || err != nil {
				t.Errorf("a request to %s went to %q, error %v", b, who, err)
			}
		}
	}
	// Half a drain is none.
	w.command("set server api/w1 state ready")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || !strings.Contains(st.Evidence, "api/w1") {
		t.Errorf("with one backend ready again: %+v", st)
	}
	lbtest.Drain(t, p, r)
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != 1 {
		t.Errorf("with a request in one backend: %+v", st)
	}
	if err := finish(); err != nil {
		t.Error(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantAdmin("web", "w1", ready)
	w.wantAdmin("api", "w1", ready)
}

// HAProxy lets a frontend have the name of a backend, and many do.
func TestAFrontendOfTheSameName(t *testing.T) {
	w := &world{Front: lbtest.NewFront(t, 2), t: t, backend: []string{"web"}, frontend: "web"}
	w.start(haproxytest.Options{})
	p := w.Provider("w1")
	pool, err := p.Observe(t.Context())
	if err != nil || len(pool.Members) != 2 || pool.Members[0].Phase != lbclient.PhaseServing {
		t.Fatalf("%+v, %v", pool, err)
	}
	r := lbtest.Snapshot(t, p)
	finish := w.Hold("w1")
	lbtest.Drain(t, p, r)
	w.wantAdmin("web", "w1", drained)
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != 1 {
		t.Errorf("with a request: %+v", st)
	}
	if err := finish(); err != nil {
		t.Error(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantAdmin("web", "w1", ready)
}

func TestLastInOneBackendIsLastEnough(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web", "api")
	m := newMeddler(t, w.lb, func(line string, ask func() []byte) []byte {
		if strings.HasPrefix(line, "set ") {
			t.Errorf("a refused drain sent %q", line)
		}
		return ask()
	})
	c := w.config("w1")
	c.Endpoints = []string{m.endpoint}
	p := provider(t, c)
	r := lbtest.Snapshot(t, p)
	w.command("set server api/w2 state drain")
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe, "backend api", m.endpoint, "w2 is DRAIN")
	w.wantAdmin("web", "w1", ready)
	w.wantAdmin("api", "w1", ready)
}

func TestOneOfTwoInstancesDown(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	v := w.twin(haproxytest.Options{})
	c := w.config("w1")
	c.Endpoints = []string{v.lb.Endpoint(), w.lb.Endpoint()}
	p := provider(t, c)
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	v.wantAdmin("web", "w1", drained)
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainIdle {
		t.Errorf("%+v", st)
	}
	gone := v.lb.Endpoint()
	v.lb.Stop()

	_, err := p.DrainStatus(t.Context(), r)
	lbtest.WantError(t, err, lbclient.ClassTransient, gone)
	_, err = p.Observe(t.Context())
	lbtest.WantError(t, err, lbclient.ClassTransient, gone)
	// The instance that is there gets the target back all the same.
	lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassTransient, gone)
	w.wantAdmin("web", "w1", ready)
	_, err = p.RejoinStatus(t.Context(), r)
	lbtest.WantError(t, err, lbclient.ClassTransient, gone)
	// And nothing is begun while one is missing.
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassTransient, gone)
	w.wantAdmin("web", "w1", ready)
}

func TestDrainIsUndoneWhenAnotherInstanceRefuses(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web", "api")
	v := w.twin(haproxytest.Options{Level: "operator"})
	c := w.config("w1")
	c.Endpoints = append(c.Endpoints, v.lb.Endpoint())
	p := provider(t, c)
	lbtest.WantError(t, p.Preflight(t.Context()), lbclient.ClassDenied, v.lb.Endpoint(), "level admin")
	r := lbtest.Snapshot(t, p)
	w.command("set server api/w1 state drain") // an earlier call of ours, say
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassDenied,
		v.lb.Endpoint(), "undone in web/w1 at "+w.lb.Endpoint())
	w.wantAdmin("web", "w1", ready)
	w.wantAdmin("api", "w1", drained)
}

func TestDrainIsUndoneWhenCancelledHalfway(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	v := w.twin(haproxytest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	m := newMeddler(t, v.lb, func(line string, ask func() []byte) []byte {
		if strings.HasSuffix(line, "state drain") {
			cancel()
		}
		return ask()
	})
	c := w.config("w1")
	c.Endpoints = append(c.Endpoints, m.endpoint)
	p := provider(t, c)
	lbtest.WantError(t, p.BeginDrain(ctx, lbtest.Snapshot(t, p), 1), lbclient.ClassTransient, "undone in web/w1")
	w.wantAdmin("web", "w1", ready)
	v.wantAdmin("web", "w1", ready)
}

func TestReadingBackDecides(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	t.Run("done but the answer lost", func(t *testing.T) {
		m := newMeddler(t, w.lb, func(line string, ask func() []byte) []byte {
			if answer := ask(); !strings.HasPrefix(line, "set ") {
				return answer
			}
			return nil
		})
		c := w.config("w1")
		c.Endpoints = []string{m.endpoint}
		p := provider(t, c)
		r := lbtest.Snapshot(t, p)
		lbtest.Drain(t, p, r)
		w.wantAdmin("web", "w1", drained)
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Error(err)
		}
		w.wantAdmin("web", "w1", ready)
	})
	t.Run("answered but not done", func(t *testing.T) {
		m := newMeddler(t, w.lb, func(line string, ask func() []byte) []byte {
			if strings.HasPrefix(line, "set ") {
				return []byte("\n")
			}
			return ask()
		})
		c := w.config("w1")
		c.Endpoints = []string{m.endpoint}
		p := provider(t, c)
		r := lbtest.Snapshot(t, p)
		lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassConflict, "told to drain but is ready")
		w.command("set server web/w1 state drain")
		lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassConflict, "told to be ready")
		w.command("set server web/w1 state ready")
	})
	t.Run("answered by a process on its way out", func(t *testing.T) {
		m := newMeddler(t, w.lb, func(_ string, ask func() []byte) []byte {
			return []byte(strings.Replace(string(ask()), "\nStopping: 0\n", "\nStopping: 1\n", 1))
		})
		c := w.config("w1")
		c.Endpoints = []string{m.endpoint}
		_, err := provider(t, c).Observe(t.Context())
		lbtest.WantError(t, err, lbclient.ClassTransient, "is stopping")
	})
	t.Run("cut off", func(t *testing.T) {
		m := newMeddler(t, w.lb, func(_ string, ask func() []byte) []byte {
			answer := ask()
			return answer[:len(answer)-20]
		})
		c := w.config("w1")
		c.Endpoints = []string{m.endpoint}
		_, err := provider(t, c).Observe(t.Context())
		lbtest.WantError(t, err, lbclient.ClassTransient, "cut off")
	})
}

func TestHangingSocketMeetsTheDeadline(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	c := w.config("w1")
	c.Endpoints = append(c.Endpoints, newMute(t))
	c.SocketTimeout = 100 * time.Millisecond
	p := provider(t, c)
	begun := time.Now()
	_, err := p.Snapshot(t.Context())
	lbtest.WantError(t, err, lbclient.ClassTransient, c.Endpoints[1], "100ms")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestTCPEndpoint(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	c := w.config("w1")
	c.Endpoints = []string{w.lb.TCPEndpoint()}
	p := provider(t, c)
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.wantAdmin("web", "w1", drained)
	if err := w.lb.Reload(); err != nil {
		t.Fatal(err)
	}
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || !strings.Contains(st.Evidence, "cannot be seen") {
		t.Errorf("after a reload on what may be another machine: %+v", st)
	}
}

// TestReloadInMidDrain has a request in flight in the process that a reload
// leaves behind, where its socket cannot be asked any more.
func TestReloadInMidDrain(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	finish := w.Hold("w1")
	lbtest.Drain(t, p, r)
	before := lbtest.DrainStatus(t, p, r)
	if err := w.lb.Reload(); err != nil {
		t.Fatal(err)
	}
	st := lbtest.DrainStatus(t, p, r)
	if st.Stage != lbclient.DrainNotAsked || st.Epoch == before.Epoch || !strings.Contains(st.Evidence, "reloaded") {
		t.Fatalf("after the reload: %+v", st)
	}
	w.await("the drain is held again", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	st = lbtest.DrainStatus(t, p, r)
	if st.Stage != lbclient.DrainBusy || st.InFlight != -1 || !strings.Contains(st.Evidence, "former process") {
		t.Errorf("while the former process has a request: %+v", st)
	}
	if err := finish(); err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	w.await("the former process has ended", func() bool { return w.lb.Former() == 0 })
}

// TestReloadBeforeTheDrain is the same where nothing was recorded beforehand:
// the former processes are found by what the later ones replaced.
func TestReloadBeforeTheDrain(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	finish := w.Hold("w1")
	for range 2 {
		if err := w.lb.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	p := w.Provider("w1")
	r := lbtest.Snapshot(t, p)
	w.await("the drain is held", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	w.await("only one former process is left", func() bool { return w.lb.Former() == 1 })
	// The one in the middle has ended, and with it the chain; what remains is
	// what the newest one says that it replaced.
	if st := lbtest.DrainStatus(t, p, r); st.Stage == lbclient.DrainNotAsked {
		t.Errorf("%+v", st)
	}
	if err := finish(); err != nil {
		t.Error(err)
	}
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
}

// TestTwoAgentsAtOnce drains both members of a pool at the same time. Whoever
// loses, or both, must give way.
func TestTwoAgentsAtOnce(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web")
	for range 15 {
		var wg sync.WaitGroup
		providers := []lbclient.Provider{w.Provider("w1"), w.Provider("w2")}
		restores := []lbclient.Restore{lbtest.Snapshot(t, providers[0]), lbtest.Snapshot(t, providers[1])}
		errs := make([]error, 2)
		for i := range providers {
			wg.Go(func() { errs[i] = providers[i].BeginDrain(t.Context(), restores[i], 1) })
		}
		wg.Wait()
		out := 0
		for i, err := range errs {
			if err != nil {
				lbtest.WantError(t, err, lbclient.ClassUnsafe)
			} else {
				out++
			}
			if err := providers[i].BeginRejoin(t.Context(), restores[i]); err != nil {
				t.Fatal(err)
			}
		}
		if out > 1 {
			t.Fatal("both members of a pool of two were drained")
		}
	}
}

func TestNotFoundNamesWhatExists(t *testing.T) {
	w := newWorld(t, 2, haproxytest.Options{}, "web", "api")
	c := w.config("w9")
	lbtest.WantError(t, provider(t, c).Preflight(t.Context()), lbclient.ClassNotFound, "no server w9", "w1, w2", "backend web")
	c.Server, c.Backends = "w1", []string{"web", "wbe"}
	lbtest.WantError(t, provider(t, c).Preflight(t.Context()), lbclient.ClassNotFound, "no backend wbe", "api, web")
	c.Backends = []string{"web"}
	c.Endpoints = []string{"unix:///nonexistent/admin.sock"}
	lbtest.WantError(t, provider(t, c).Preflight(t.Context()), lbclient.ClassTransient, "/nonexistent/admin.sock", "stats socket")
}
