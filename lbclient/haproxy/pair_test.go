package haproxy_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// pair is two HAProxies before the same apps, as keepalived has them, of which
// the second is asked through a meddler.
type pair struct {
	*world
	second *world
	mood   atomic.Value // of the meddler
	way    *meddler
	asked  atomic.Int64
	end    chan struct{}
}

// Moods of the meddler.
const (
	honest  = ""
	ignores = "answer changes without carrying them out"
	loses   = "carry changes out and lose the answer"
	hangs   = "say nothing"
)

func newPair(t *testing.T, apps int) *pair {
	t.Helper()
	w := newWorld(t, apps, haproxytest.Options{}, "web")
	p := &pair{world: w, second: w.twin(haproxytest.Options{}), end: make(chan struct{})}
	p.mood.Store(honest)
	p.way = newMeddler(t, p.second.lb, func(line string, ask func() []byte) []byte {
		change := strings.HasPrefix(line, "set ")
		switch mood := p.mood.Load().(string); {
		case mood == hangs:
			<-p.end
			return nil
		case mood == ignores && change:
			return []byte("\n")
		case mood == loses && change:
			ask()
			return nil
		}
		return ask()
	})
	t.Cleanup(func() { close(p.end) }) // before the meddler waits for its connections
	return p
}

func (p *pair) feign(mood string) (mend func()) {
	p.mood.Store(mood)
	return func() { p.mood.Store(honest) }
}

func (p *pair) Provider(target string) lbclient.Provider {
	c := p.config(target)
	c.Endpoints = append(c.Endpoints, p.way.endpoint)
	return provider(p.t, c)
}

// Get asks the two in turn: either may have the address at any time.
func (p *pair) Get() (string, error) {
	if p.asked.Add(1)%2 == 0 {
		return p.second.Get()
	}
	return p.world.Get()
}
func harnessOfAPair() lbtest.Harness {
	second := func(w lbtest.World) *world { return w.(*pair).second }
	return lbtest.Harness{
		New:            func(t *testing.T) lbtest.World { return newPair(t, 3) },
		CountsInFlight: true,
		CountsTwice:    true,
		HoldOut: func(_ *testing.T, w lbtest.World, target string) {
			second(w).command("set server web/" + target + " state maint")
		},
		HeldOut: func(_ *testing.T, w lbtest.World, target string) bool {
			admin, _ := second(w).state("web", target)
			return admin == "1"
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := second(w).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Readmit: func(_ *testing.T, w lbtest.World, target string) {
			second(w).command("set server web/" + target + " state ready")
		},
		Hang:        func(_ *testing.T, w lbtest.World) { w.(*pair).feign(hangs) },
		LoseAnswers: func(_ *testing.T, w lbtest.World) func() { return w.(*pair).feign(loses) },
		Ignore:      func(_ *testing.T, w lbtest.World) func() { return w.(*pair).feign(ignores) },
		Restart:     func(_ *testing.T, w lbtest.World, target string, while func()) { w.(*pair).Restart(target, while) },
		Without: map[string]string{
			"denied":      "a rejoin that has nothing to change needs no leave; TestDrainIsUndoneWhenAnotherInstanceRefuses",
			"unreachable": "TestContract, TestOneOfTwoInstancesDown",
			"removed":     "TestContract",
		},
	}
}

// TestContractOfAPair has everything befall the second of two instances.
func TestContractOfAPair(t *testing.T) { lbtest.Run(t, harnessOfAPair()) }

// TestFailoverInMidDrain has the instance with the address die while a target
// is drained, so that the standby takes over, and come back knowing of nothing.
func TestFailoverInMidDrain(t *testing.T) {
	w := newWorld(t, 3, haproxytest.Options{}, "web")
	var active atomic.Pointer[haproxytest.Process]
	active.Store(w.lb)
	way := newMeddler(t, nil, func(line string, _ func() []byte) []byte {
		lb := active.Load()
		if lb == nil {
			return nil
		}
		answer, err := lb.Command(line)
		if err != nil {
			t.Error(err)
		}
		return []byte(answer)
	})
	standby := w.twin(haproxytest.Options{})
	c := w.config("w1")
	c.Endpoints = []string{way.endpoint, standby.lb.Endpoint()}
	p := provider(t, c)
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	before := lbtest.DrainStatus(t, p, r)
	if before.Stage != lbclient.DrainIdle {
		t.Errorf("before the failover: %+v", before)
	}

	active.Store(nil)
	w.lb.Stop()
	for range 6 {
		if who, err := standby.Get(); err != nil || who == "w1" {
			t.Errorf("after the failover %q answers, error %v", who, err)
		}
	}
	// It may come back and take over at any time, so the target is not drained.
	_, err := p.DrainStatus(t.Context(), r)
	lbtest.WantError(t, err, lbclient.ClassTransient, way.endpoint)

	w.start(haproxytest.Options{})
	active.Store(w.lb)
	st := lbtest.DrainStatus(t, p, r)
	if st.Stage != lbclient.DrainNotAsked || st.Epoch == before.Epoch || !strings.Contains(st.Evidence, way.endpoint) {
		t.Errorf("with a new instance that knows of nothing: %+v", st)
	}
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.wantAdmin("web", "w1", drained)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantAdmin("web", "w1", ready)
	standby.wantAdmin("web", "w1", ready)
}

// TestStickyVisitors: HAProxy sends those who stick to a drained target still,
// and others not. While such a request is in flight the drain is not idle.
func TestStickyVisitors(t *testing.T) {
	w := &world{Front: lbtest.NewFront(t, 2), t: t, backend: []string{"web"}}
	be := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz", "cookie SRV insert indirect nocache"}}
	for _, n := range w.Names {
		be.Servers = append(be.Servers, haproxytest.Server{Name: n, Address: w.Apps[n].Address, Options: quick + " cookie " + n})
	}
	w.start(haproxytest.Options{Backends: []haproxytest.Backend{be}})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	sticky := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	get := func(path string) (string, error) {
		a, err := sticky.Get(w.URL + path)
		if err != nil {
			return "", err
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		return string(b), err
	}
	target, err := get("/")
	if err != nil {
		t.Fatal(err)
	}
	p := w.Provider(target)
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	done := make(chan error, 1)
	go func() {
		_, err := get("/hold?for=" + target)
		done <- err
	}()
	select {
	case <-w.Apps[target].Held:
	case err := <-done:
		t.Fatalf("the request of the visitor who sticks went elsewhere, error %v", err)
	}
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != 1 {
		t.Errorf("with a request of a visitor who sticks: %+v", st)
	}
	for range 6 {
		if who, err := w.Get(); err != nil || who == target {
			t.Errorf("a new visitor got %q, error %v", who, err)
		}
	}
	w.Apps[target].Finish <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
}
