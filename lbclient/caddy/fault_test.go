package caddy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy/caddytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func (w *world) wantList(handler, want string) {
	w.t.Helper()
	if got := w.list(handler); got != want {
		w.t.Errorf("handler %s has %s, want %s", handler, got, want)
	}
}

// TestPutBackAsItStood has attributes, a place in the middle, two handlers, and
// another hand that adds an upstream meanwhile.
func TestPutBackAsItStood(t *testing.T) {
	w := newWorld(t, 3, caddytest.Options{}, "web", "api")
	entry := func(i, max int) string { return fmt.Sprintf(`{"dial":%q,"max_requests":%d}`, w.Names[i], max) }
	before := "[" + entry(0, 5) + "," + entry(1, 7) + "," + entry(2, 9) + "]"
	w.set("web", before)
	api := w.list("api")
	p := w.Provider(w.Names[1])
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.wantList("web", "["+entry(0, 5)+","+entry(2, 9)+"]")
	for _, h := range []string{"web", "api"} {
		for range 6 {
			if who, err := w.get(h); err != nil || who == w.Names[1] {
				t.Errorf("a request to %s went to %q, error %v", h, who, err)
			}
		}
	}
	added := `{"dial":"127.0.0.1:1","max_requests":1}`
	w.set("web", "["+entry(0, 5)+","+added+","+entry(2, 9)+"]")
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantList("web", "["+entry(0, 5)+","+entry(1, 7)+","+added+","+entry(2, 9)+"]")
	w.wantList("api", api)
}

// TestOneHandlerFails loses the second of two handlers between the look and the
// change.
func TestOneHandlerFails(t *testing.T) {
	w := newWorld(t, 2, caddytest.Options{}, "web", "api")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	web := w.list("web")
	// Alone there, the target must stay, and so must it in the first.
	w.set("api", fmt.Sprintf(`[{"dial":%q}]`, w.Names[0]))
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 0), lbclient.ClassUnsafe, "last upstream of handler api", "503")
	w.wantList("web", web)
	w.set("api", web)
	lbtest.Drain(t, p, r)
	// Half a drain is none.
	w.set("api", web)
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || !strings.Contains(st.Evidence, "api") {
		t.Errorf("%+v", st)
	}
}

// TestChangedInBetween has another hand change the handler after it was read.
func TestChangedInBetween(t *testing.T) {
	w := newWorld(t, 3, caddytest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	other := fmt.Sprintf(`[{"dial":%q},{"dial":%q}]`, w.Names[0], w.Names[1])
	w.beforeChange = func() { w.set("web", other) }
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassConflict, "another hand")
	w.wantList("web", other)
	w.beforeChange = nil
	lbtest.Drain(t, p, r)
	w.wantList("web", fmt.Sprintf(`[{"dial":%q}]`, w.Names[1]))
}

// TestForgotten restarts Caddy, which then knows only its file.
func TestForgotten(t *testing.T) {
	w := newWorld(t, 2, caddytest.Options{Parked: "parked"}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	epoch := lbtest.DrainStatus(t, p, r).Epoch
	w.lb.Kill()
	_, err := p.DrainStatus(t.Context(), r)
	if err == nil || !lbclient.ClassOf(err).Retryable() {
		t.Errorf("of a dead Caddy: error %v", err)
	}
	if err := w.lb.Start(); err != nil {
		t.Fatal(err)
	}
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked || st.Epoch == epoch {
		t.Errorf("%+v, want another epoch than %q", st, epoch)
	}
}

// TestCaddyThatForgetsRequests has neither a parked handler nor a new Caddy.
func TestCaddyThatForgetsRequests(t *testing.T) {
	onEach(t, func(t *testing.T, o caddytest.Options, counts bool) {
		o.Parked = ""
		w := newWorld(t, 2, o, "web") // whose configuration says nothing of the version
		p := w.Provider(w.Names[0])
		r := lbtest.Snapshot(t, p)
		finish := w.Hold(w.Names[0])
		lbtest.Drain(t, p, r)
		want := int64(-1)
		if counts {
			want = 1 // as Caddy's build information tells
		}
		if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || st.InFlight != want {
			t.Errorf("with a request in flight: %+v, want busy with %d", st, want)
		}
		if err := finish(); err != nil {
			t.Error(err)
		}
		if counts {
			w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
		} else if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainBusy || !strings.Contains(st.Evidence, "parked") {
			t.Errorf("%+v, want busy for ever, and what to do", st)
		}
	})
}

func TestUnixSocket(t *testing.T) {
	onEach(t, func(t *testing.T, o caddytest.Options, counts bool) {
		o.Unix = true
		w := newWorld(t, 2, o, "web")
		w.counts = counts
		p := w.Provider(w.Names[0])
		if err := p.Preflight(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := lbtest.Snapshot(t, p)
		lbtest.Drain(t, p, r)
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPreflight(t *testing.T) {
	w := newWorld(t, 2, caddytest.Options{Parked: "parked"}, "web", "api")
	c := w.config(w.Names[0])
	if err := provider(t, c).Preflight(t.Context()); err != nil {
		t.Error(err)
	}
	for what, f := range map[string]func(*caddy.Config) (lbclient.Class, string){
		"another handler": func(c *caddy.Config) (lbclient.Class, string) {
			c.Handlers = []string{"web"}
			return lbclient.ClassUnsupported, "/config/apps/http/servers/api/routes/0/handle/0"
		},
		"no such handler": func(c *caddy.Config) (lbclient.Class, string) {
			c.Handlers = []string{"www"}
			return lbclient.ClassNotFound, `"@id": "www"`
		},
		"no such parked handler": func(c *caddy.Config) (lbclient.Class, string) {
			c.Handlers = append(c.Handlers, "parked")
			c.Parked = "www"
			return lbclient.ClassUnsupported, "the parked handler www"
		},
		"a host that means two": func(c *caddy.Config) (lbclient.Class, string) {
			c.Server = "127.0.0.1"
			return lbclient.ClassInvalid, "name one with its port"
		},
		"no member": func(c *caddy.Config) (lbclient.Class, string) {
			c.Server = "127.0.0.2:80"
			return lbclient.ClassNotFound, w.Names[1]
		},
	} {
		c := w.config(w.Names[0])
		class, words := f(&c)
		t.Run(what, func(t *testing.T) {
			lbtest.WantError(t, provider(t, c).Preflight(t.Context()), class, words)
		})
	}
	w.set("web", `[{"dial":"{env.APP}:80"},{"dial":"127.0.0.1:2"}]`)
	c = w.config("{env.APP}")
	if _, err := caddy.New(c); lbclient.ClassOf(err) != lbclient.ClassInvalid || err == nil {
		t.Errorf("a placeholder for a server: error %v", err)
	}
}

// TestUnhealthy has Caddy itself notice failures.
func TestUnhealthy(t *testing.T) {
	o := caddytest.Options{}
	w := newWorld(t, 3, o, "web")
	dead := "127.0.0.1:1"
	settings := `{"handler":"reverse_proxy","@id":"web","health_checks":{"passive":{"fail_duration":"10m","max_fails":2}},` +
		`"load_balancing":{"selection_policy":{"policy":"round_robin"}},"upstreams":` +
		fmt.Sprintf(`[{"dial":%q},{"dial":%q},{"dial":%q}]}`, w.Names[0], w.Names[1], dead)
	if _, err := w.lb.Do("PATCH", "/id/web", []byte(settings)); err != nil {
		t.Fatal(err)
	}
	p := w.Provider(w.Names[0])
	phase := func(name string) lbclient.Phase {
		pool, err := p.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pool.Members {
			if m.Name == name {
				return m.Phase
			}
		}
		return lbclient.PhaseAbsent
	}
	w.await("Caddy finds it failing", func() bool {
		_, _ = w.get("web") // some of these fail
		return phase(dead) == lbclient.PhaseUnhealthy
	})
	r := lbtest.Snapshot(t, p)
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 2), lbclient.ClassUnsafe, dead, "failures")
	lbtest.Drain(t, p, r)
}

func TestStrangeAnswers(t *testing.T) {
	w := newWorld(t, 2, caddytest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	before := w.list("web")
	for mood, words := range map[string]string{broken: "502", cut: ""} {
		mend := w.feign(mood)
		lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassTransient, words)
		_, err := p.DrainStatus(t.Context(), r)
		lbtest.WantError(t, err, lbclient.ClassTransient, words)
		mend()
	}
	w.wantList("web", before)
	c := w.config(w.Names[0])
	c.Timeout = 100 * time.Millisecond
	defer w.feign(hang)()
	_, err := provider(t, c).Observe(t.Context())
	lbtest.WantError(t, err, lbclient.ClassTransient, "100ms")
}

func TestConfigIsChecked(t *testing.T) {
	good := caddy.Config{Name: "front", Endpoint: "http://127.0.0.1:2019", Handlers: []string{"web"}, Server: "10.0.0.1:80"}
	if _, err := caddy.New(good); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*caddy.Config){
		"no name":           func(c *caddy.Config) { c.Name = "" },
		"no server":         func(c *caddy.Config) { c.Server = "" },
		"no handler":        func(c *caddy.Config) { c.Handlers = nil },
		"a path for an id":  func(c *caddy.Config) { c.Handlers = []string{"../config"} },
		"dots for an id":    func(c *caddy.Config) { c.Handlers = []string{".."} },
		"twice":             func(c *caddy.Config) { c.Handlers = []string{"a", "a"} },
		"parked and in use": func(c *caddy.Config) { c.Parked = "web" },
		"https":             func(c *caddy.Config) { c.Endpoint = "https://127.0.0.1:2019" },
		"a path":            func(c *caddy.Config) { c.Endpoint = "http://127.0.0.1:2019/config" },
		"a password":        func(c *caddy.Config) { c.Endpoint = "http://me:too@127.0.0.1:2019" },
		"no port":           func(c *caddy.Config) { c.Endpoint = "http://127.0.0.1" },
		"a relative socket": func(c *caddy.Config) { c.Endpoint = "unix://caddy.sock" },
		"too long":          func(c *caddy.Config) { c.Timeout = time.Hour },
		"negative":          func(c *caddy.Config) { c.Timeout = -1 },
	} {
		c := good
		change(&c)
		_, err := caddy.New(c)
		if err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
	p, err := caddy.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if d := lbclient.CapsOf(p).Disturbs; !strings.Contains(d, "keep-alive") || !strings.Contains(d, "new connections") {
		t.Errorf("what a change costs is not named: %q", d)
	}
}

// TestRecordIsChecked changes what would be sent to Caddy, which checks nothing.
func TestRecordIsChecked(t *testing.T) {
	w := newWorld(t, 2, caddytest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	for _, bad := range []string{":::bad", "10.0.0.9:80", "", "127.0.0.1:99999"} {
		broken := r
		broken.Data = json.RawMessage(strings.Replace(string(r.Data), `"dial":"`+w.Names[0], `"dial":"`+bad, 1))
		lbtest.WantError(t, p.BeginRejoin(t.Context(), broken), lbclient.ClassInvalid)
	}
}
