package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
	"github.com/lockstep-deploy/lockstep/lbclient/quiesce"
)

// agentAddress is where the agents' own health checks come from, so that they
// are not taken for traffic: everything is on one machine here.
const agentAddress = "127.0.0.9"

// check is what HAProxy is configured to do in these tests.
var check = lbclient.Timing{Interval: 50 * time.Millisecond, Timeout: 5 * time.Second, Fall: 2, Rise: 2}

const quick = "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2"

// node is one node's gate with its app.
type node struct {
	app    *traffic.App
	opts   gate.Options
	port   int
	viewer gate.Viewer
	server *httptest.Server

	mu   sync.Mutex
	gate *gate.Gate
	in   func(http.Handler) http.Handler // what happens to looks at it; nil is nothing
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	var h http.Handler = n.gate
	if n.in != nil && strings.HasSuffix(r.URL.Path, "/status") {
		h = n.in(h)
	}
	n.mu.Unlock()
	h.ServeHTTP(w, r)
}

func (n *node) between(in func(http.Handler) http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.in = in
}

// reopen makes the gate anew, as when its process is restarted.
func (n *node) reopen(t *testing.T) {
	t.Helper()
	g, err := gate.Open(n.opts)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = g
}

// world is a real HAProxy that polls the gates of several nodes.
type world struct {
	*lbtest.Front
	t     *testing.T
	nodes map[string]*node
	lb    *haproxytest.Process
}

func newWorld(t *testing.T, change func(*gate.Options), lines ...string) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFront(t, 3), t: t, nodes: make(map[string]*node)}
	be := haproxytest.Backend{Name: "web", Lines: append([]string{"option httpchk GET " + gate.DefaultPath}, lines...)}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(agentAddress)}}).DialContext,
	}}
	for _, name := range w.Targets() {
		dir := t.TempDir()
		n := &node{app: w.Apps[name]}
		n.opts = gate.Options{
			Server: name, File: filepath.Join(dir, "gate.json"), HoldFile: filepath.Join(dir, "hold"), Check: check,
			App: func(ctx context.Context) error { return healthy(ctx, client, "http://"+n.app.Address+"/healthz") },
		}
		if change != nil {
			change(&n.opts)
		}
		n.reopen(t)
		n.server = httptest.NewServer(n)
		t.Cleanup(n.server.Close)
		n.port = n.server.Listener.Addr().(*net.TCPAddr).Port
		var err error
		if n.viewer, err = gate.Remote(n.server.URL + n.gate.StatusPath()); err != nil {
			t.Fatal(err)
		}
		w.nodes[name] = n
		be.Servers = append(be.Servers, haproxytest.Server{
			Name: name, Address: n.app.Address, Options: quick + " port " + strconv.Itoa(n.port),
		})
	}
	w.lb = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{be}})
	w.URL = w.lb.URL("web")
	for _, name := range w.Targets() {
		w.Await(name+" serves", func() bool { return w.phase(name) == lbclient.PhaseServing })
	}
	return w
}

func healthy(ctx context.Context, client *http.Client, url string) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	a, err := client.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return errors.New("it answers " + a.Status)
	}
	return nil
}

func (w *world) phase(target string) lbclient.Phase {
	w.t.Helper()
	st, err := w.nodes[target].viewer.Status(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return st.Phase()
}

// status is a server's status in HAProxy's own eyes.
func (w *world) status(target string) string {
	w.t.Helper()
	answer, err := w.lb.Command("show stat web 4 -1")
	if err != nil {
		w.t.Fatal(err)
	}
	for l := range strings.Lines(answer) {
		if f := strings.Split(l, ","); len(f) > 17 && f[1] == target {
			return f[17]
		}
	}
	w.t.Fatalf("HAProxy knows no %s", target)
	return ""
}

// bare is the gate's provider without the kernel's evidence.
func (w *world) bare(target string) lbclient.Provider {
	w.t.Helper()
	n := w.nodes[target]
	if n == nil {
		n = w.nodes["w1"]
	}
	peers := make(map[string]gate.Viewer)
	for name, o := range w.nodes {
		if o != n {
			peers[name] = o.viewer
		}
	}
	p, err := gate.New(gate.Config{Name: "front", Server: target, File: n.opts.File, Gate: n.viewer, Peers: peers})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) Provider(target string) lbclient.Provider {
	w.t.Helper()
	port := uint16(1)
	if a := w.Apps[target]; a != nil {
		port = netip.MustParseAddrPort(a.Address).Port()
	}
	p, err := quiesce.Wrap(w.bare(target), quiesce.Config{
		Ports: []uint16{port}, Quiet: 100 * time.Millisecond, Ignore: []netip.Prefix{netip.MustParsePrefix(agentAddress + "/32")},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) eachNode(f func(n *node)) {
	for _, n := range w.nodes {
		f(n)
	}
}
func harness() lbtest.Harness {
	return lbtest.Harness{
		New: func(t *testing.T) lbtest.World { return newWorld(t, nil) },
		HoldOut: func(t *testing.T, w lbtest.World, target string) {
			if err := os.WriteFile(w.(*world).nodes[target].opts.HoldFile, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		HeldOut: func(_ *testing.T, w lbtest.World, target string) bool {
			_, err := os.Stat(w.(*world).nodes[target].opts.HoldFile)
			return err == nil
		},
		Readmit: func(t *testing.T, w lbtest.World, target string) {
			if err := os.Remove(w.(*world).nodes[target].opts.File); err != nil {
				t.Fatal(err)
			}
		},
		Cut: func(_ *testing.T, w lbtest.World) { w.(*world).eachNode(func(n *node) { n.server.Close() }) },
		Hang: func(_ *testing.T, w lbtest.World) {
			w.(*world).eachNode(func(n *node) {
				n.between(func(http.Handler) http.Handler {
					return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
				})
			})
		},
		Ignore: func(_ *testing.T, w lbtest.World) func() {
			w.(*world).eachNode(func(n *node) {
				was := httptest.NewRecorder()
				n.gate.ServeHTTP(was, httptest.NewRequest(http.MethodGet, n.gate.StatusPath(), http.NoBody))
				n.between(func(http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, was.Body) })
				})
			})
			return func() { w.(*world).eachNode(func(n *node) { n.between(nil) }) }
		},
		Restart:     func(_ *testing.T, w lbtest.World, target string, while func()) { w.(*world).Restart(target, while) },
		CountsTwice: true,
		Without: map[string]string{
			"in flight":    "the gate cannot count; TestInFlight follows a request through the kernel's evidence",
			"force":        "the gate cannot end work",
			"forgets":      "the state is a file and outlives everybody; TestRestartWhileDrained",
			"removed":      "the gate is made for its target; a balancer that stops polling is TestNobodyPolls",
			"denied":       "there are no credentials; a directory that cannot be written to is TestPreflight",
			"answers lost": "a file has no answer to lose, and a look that fails is the case \"unreachable\"",
		},
	}
}

// TestContract runs the suite against a real HAProxy that polls real gates, with
// the kernel's evidence for what is in flight.
func TestContract(t *testing.T) { lbtest.Run(t, harness()) }
