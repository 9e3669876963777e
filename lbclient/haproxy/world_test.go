package haproxy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// quick is how the servers of the tests are checked.
const quick = "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2"

// app is one instance of an application. It answers / with its name, /healthz
// as it was told, and /hold?for=NAME, if that is its name, when it is told.
type app struct {
	name    string
	address string
	handler http.Handler
	server  *httptest.Server
	sick    atomic.Bool
	held    chan struct{} // one for each request that is held
	finish  chan struct{}
}

func newApp(t *testing.T, name string) *app {
	a := &app{name: name, held: make(chan struct{}, 16), finish: make(chan struct{}, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("for") != name {
			w.WriteHeader(http.StatusConflict)
			return
		}
		a.held <- struct{}{}
		select {
		case <-a.finish:
			fmt.Fprint(w, name)
		case <-r.Context().Done():
		}
	})
	a.handler = mux
	a.server = httptest.NewServer(mux)
	t.Cleanup(func() { a.server.Close() })
	a.address = strings.TrimPrefix(a.server.URL, "http://")
	return a
}

// restart closes the app's port and, after down, opens it again.
func (a *app) restart(t *testing.T, down func()) {
	t.Helper()
	a.server.Close()
	down()
	l, err := net.Listen("tcp", a.address)
	if err != nil {
		t.Fatal(err)
	}
	a.server = httptest.NewUnstartedServer(a.handler)
	a.server.Listener.Close()
	a.server.Listener = l
	a.server.Start()
}

// world is one HAProxy before several apps.
type world struct {
	t       *testing.T
	lb      *haproxytest.Process
	apps    map[string]*app
	names   []string
	backend []string
	client  *http.Client
}

// newWorld starts apps w1, w2, ... which are servers of every given backend.
func newWorld(t *testing.T, apps int, o haproxytest.Options, backends ...string) *world {
	t.Helper()
	w := &world{t: t, apps: make(map[string]*app), backend: backends}
	for i := range apps {
		name := fmt.Sprintf("w%d", i+1)
		w.names = append(w.names, name)
		w.apps[name] = newApp(t, name)
	}
	w.start(o)
	return w
}

// twin is another HAProxy before the same apps.
func (w *world) twin(o haproxytest.Options) *world {
	w.t.Helper()
	out := *w
	out.start(o)
	return &out
}

func (w *world) start(o haproxytest.Options) {
	w.t.Helper()
	if o.Backends == nil {
		for _, b := range w.backend {
			be := haproxytest.Backend{Name: b, Lines: []string{"option httpchk GET /healthz"}}
			for _, n := range w.names {
				be.Servers = append(be.Servers, haproxytest.Server{Name: n, Address: w.apps[n].address, Options: quick})
			}
			o.Backends = append(o.Backends, be)
		}
	}
	w.lb = haproxytest.Start(w.t, o)
	// Each request comes on a connection of its own, as new visitors do.
	w.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	for _, b := range w.backend {
		for _, n := range w.names {
			w.await(b+"/"+n+" passes its first check", func() bool {
				s := w.show(b, n)
				return s["status"] == "UP" && strings.HasPrefix(s["check_status"], "L7OK") || s["check_status"] == ""
			})
		}
	}
}

// show is a server's line of "show stat", by column.
func (w *world) show(backend, server string) map[string]string {
	w.t.Helper()
	answer := w.command("show stat " + backend + " 4 -1")
	lines := strings.Split(strings.TrimPrefix(answer, "# "), "\n")
	names := strings.Split(lines[0], ",")
	for _, l := range lines[1:] {
		f := strings.Split(l, ",")
		if len(f) == len(names) && f[1] == server {
			out := make(map[string]string)
			for i := range f {
				out[names[i]] = f[i]
			}
			return out
		}
	}
	w.t.Fatalf("no server %s in %q", server, answer)
	return nil
}

// state is a server's administrative state and weight in use, as HAProxy
// numbers them.
func (w *world) state(backend, server string) (admin, weight string) {
	w.t.Helper()
	for l := range strings.Lines(w.command("show servers state " + backend)) {
		if f := strings.Fields(l); len(f) > 8 && f[3] == server {
			return f[6], f[7]
		}
	}
	w.t.Fatalf("no server %s/%s", backend, server)
	return "", ""
}

func (w *world) command(line string) string {
	w.t.Helper()
	answer, err := w.lb.Command(line)
	if err != nil {
		w.t.Fatalf("%s: %v", line, err)
	}
	return answer
}

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) config(server string) haproxy.Config {
	return haproxy.Config{Name: "front", Endpoints: []string{w.lb.Endpoint()}, Backends: w.backend, Server: server}
}

func provider(t *testing.T, c haproxy.Config) lbclient.Provider {
	t.Helper()
	p, err := haproxy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) Targets() []string { return w.names }

func (w *world) Provider(target string) lbclient.Provider { return provider(w.t, w.config(target)) }

func (w *world) Get() (string, error) { return w.get(w.backend[0]) }

func (w *world) get(backend string) (string, error) {
	return w.fetch(w.lb.URL(backend) + "/")
}

var errElsewhere = errors.New("another target answered")

func (w *world) fetch(url string) (string, error) {
	r, err := w.client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode == http.StatusConflict {
		err = errElsewhere
	} else if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", r.Status)
	}
	return string(body), err
}

func (w *world) Hold(target string) func() error {
	w.t.Helper()
	a := w.apps[target]
	url := w.lb.URL(w.backend[0]) + "/hold?for=" + target
	ended := make(chan error, 1)
	go func() {
		for {
			_, err := w.fetch(url)
			if !errors.Is(err, errElsewhere) {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-a.held:
	case err := <-ended:
		w.t.Fatalf("the request to hold ended early: %v", err)
	}
	return func() error {
		a.finish <- struct{}{}
		return <-ended
	}
}

func (w *world) SetHealthy(target string, healthy bool) { w.apps[target].sick.Store(!healthy) }

func TestContract(t *testing.T) {
	lbtest.Run(t, lbtest.Harness{
		New: func(t *testing.T) lbtest.World {
			return newWorld(t, 3, haproxytest.Options{}, "web")
		},
		CountsInFlight: true,
		HoldOut: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
		},
		HeldOut: func(t *testing.T, w lbtest.World, target string) bool {
			admin, _ := w.(*world).state("web", target)
			return admin == "1"
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*world).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Cut: func(t *testing.T, w lbtest.World) { w.(*world).lb.Stop() },
	})
}
