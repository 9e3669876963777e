package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy/caddytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// world is one Caddy before several apps, asked through a meddler.
type world struct {
	*lbtest.Front
	t       *testing.T
	lb      *caddytest.Process
	handler []string
	parked  string
	counts  bool
	meddler *httptest.Server
	mood    atomic.Value // of the meddler
	// beforeChange is called before a change goes on to Caddy.
	beforeChange func()
}

// newWorld starts apps, which are upstreams of every given handler.
func newWorld(t *testing.T, apps int, o caddytest.Options, handlers ...string) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFrontByAddress(t, apps), t: t, handler: handlers, parked: o.Parked}
	if o.Handlers == nil {
		for _, id := range handlers {
			o.Handlers = append(o.Handlers, caddytest.Handler{ID: id, Upstreams: dials(w.Names), Settings: inTurn})
		}
	}
	w.lb = caddytest.Start(t, o)
	w.meddle()
	w.URL = w.lb.URL(handlers[0])
	return w
}

// inTurn lets every upstream have its share, of few requests too.
var inTurn = map[string]any{"load_balancing": map[string]any{"selection_policy": map[string]any{"policy": "round_robin"}}}

func dials(addresses []string) []map[string]any {
	var out []map[string]any
	for _, a := range addresses {
		out = append(out, map[string]any{"dial": a})
	}
	return out
}

// Moods of the meddler.
const (
	honest = ""
	ignore = "answer changes without carrying them out"
	lose   = "carry changes out and lose the answer"
	deny   = "forbid everything"
	hang   = "say nothing"
	broken = "answer with a page of HTML"
	cut    = "cut every answer in half"
)

// again asks again what Caddy hung up on: as it takes up a change it drops
// connections to its admin API, which must not look like an answer of a proxy's.
type again struct{ http.RoundTripper }

func (a again) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	for i := 0; err != nil && i < 5 && r.Method == http.MethodGet && r.Context().Err() == nil; i++ {
		resp, err = a.RoundTripper.RoundTrip(r)
	}
	return resp, err
}

// meddle puts a proxy before the admin API that behaves as told.
func (w *world) meddle() {
	to, err := url.Parse(w.lb.Endpoint())
	if err != nil || to.Scheme != "http" {
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Header.Del("Origin") },
		Transport: again{&http.Transport{DisableKeepAlives: true}},
	}
	w.mood.Store(honest)
	w.meddler = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		change := r.Method != http.MethodGet
		if change && w.beforeChange != nil {
			w.beforeChange()
		}
		switch mood := w.mood.Load().(string); {
		case mood == hang:
			<-r.Context().Done()
		case mood == broken:
			out.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(out, "<html>Bad Gateway</html>")
		case mood == cut:
			rec := httptest.NewRecorder()
			proxy.ServeHTTP(rec, r)
			out.Header().Set("Etag", rec.Header().Get("Etag"))
			_, _ = out.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		case mood == ignore && change:
		case mood == deny:
			out.WriteHeader(http.StatusForbidden)
			fmt.Fprint(out, `{"error":"client is not allowed to access from origin ''"}`)
		case mood == lose && change:
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(out, r)
		}
	}))
	w.t.Cleanup(w.meddler.Close)
}

// feign sets what the meddler does, until mend.
func (w *world) feign(mood string) (mend func()) {
	w.mood.Store(mood)
	return func() { w.mood.Store(honest) }
}

func (w *world) config(server string) caddy.Config {
	c := caddy.Config{Name: "front", Endpoint: w.lb.Endpoint(), Handlers: w.handler, Server: server, Parked: w.parked, CountsRemoved: w.counts}
	if w.meddler != nil {
		c.Endpoint = w.meddler.URL
	}
	return c
}

func provider(t *testing.T, c caddy.Config) lbclient.Provider {
	t.Helper()
	p, err := caddy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) Provider(target string) lbclient.Provider { return provider(w.t, w.config(target)) }

// get returns the address of the app that answered.
func (w *world) get(handler string) (string, error) { return w.At(w.lb.URL(handler)).Get() }

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	w.Await(what, ok)
}

// list is what Caddy holds, and set what another hand puts there.
func (w *world) list(handler string) string {
	w.t.Helper()
	text, err := w.lb.Do(http.MethodGet, "/id/"+handler+"/upstreams", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var v []json.RawMessage
	if err := json.Unmarshal(text, &v); err != nil {
		w.t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(out)
}

func (w *world) set(handler, upstreams string) {
	w.t.Helper()
	if _, err := w.lb.Do(http.MethodPatch, "/id/"+handler+"/upstreams", []byte(upstreams)); err != nil {
		w.t.Fatal(err)
	}
}

// onEach runs a test for every Caddy at hand. A world's Caddy that forgets
// removed upstreams has a parked handler.
func onEach(t *testing.T, f func(t *testing.T, o caddytest.Options, counts bool)) {
	programs := caddytest.Programs()
	if len(programs) == 0 {
		t.Skip("no caddy is installed; install the caddy package to run this test")
	}
	for _, program := range programs {
		version, err := caddytest.Version(program)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(version, func(t *testing.T) {
			var n [3]int
			if _, err := fmt.Sscanf(version, "%d.%d.%d", &n[0], &n[1], &n[2]); err != nil {
				t.Fatalf("version %q: %v", version, err)
			}
			counts := n[0] > 2 || n[0] == 2 && (n[1] > 11 || n[1] == 11 && n[2] >= 2)
			o := caddytest.Options{Program: program}
			if !counts {
				o.Parked = "parked"
			}
			f(t, o, counts)
		})
	}
}

func harness(o caddytest.Options, counts bool) lbtest.Harness {
	return lbtest.Harness{
		New: func(t *testing.T) lbtest.World {
			w := newWorld(t, 3, o, "web")
			w.counts = counts
			return w
		},
		CountsInFlight: true,
		NoHealth:       "Caddy tells what its checks found up to ten seconds late, and sends work to a new upstream before its first check",
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*world).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Cut:         func(t *testing.T, w lbtest.World) { w.(*world).lb.Kill(); w.(*world).meddler.Close() },
		Hang:        func(t *testing.T, w lbtest.World) { w.(*world).feign(hang) },
		Deny:        func(t *testing.T, w lbtest.World) { w.(*world).feign(deny) },
		LoseAnswers: func(t *testing.T, w lbtest.World) func() { return w.(*world).feign(lose) },
		Ignore:      func(t *testing.T, w lbtest.World) func() { return w.(*world).feign(ignore) },
		Readmit: func(t *testing.T, w lbtest.World, target string) {
			list, err := json.Marshal(dials(w.Targets()))
			if err != nil {
				t.Fatal(err)
			}
			w.(*world).set("web", string(list))
		},
		CountsTwice: true, // in the very state that a change requires
		Without: map[string]string{
			"another hand":    `Caddy can hold a member out only by removing it, which is "not a member"`,
			"rolling restart": "a change of Caddy's configuration resets new connections, too; TestRollingRestart counts them",
			"removed":         "removing is how Caddy drains, so a removed target looks drained",
		},
	}
}

func TestContract(t *testing.T) {
	onEach(t, func(t *testing.T, o caddytest.Options, counts bool) { lbtest.Run(t, harness(o, counts)) })
}
