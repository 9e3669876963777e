package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// turns is an engine that gives turns to whom the test says.
type turns struct {
	mu   sync.Mutex
	none map[string]bool // nodes without a turn
	// lines are what the timeline got.
	lines []string
}

func (e *turns) View(app string) (rollout.State, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := rollout.State{}
	for _, n := range nodes {
		t := rollout.Target{ID: rollout.TargetName(app, n, ""), App: app, Node: n}
		if !e.none[n] {
			t.Turn = 7
		}
		s.Targets = append(s.Targets, t)
	}
	return s, true
}

// Apply keeps the lines that go to the timeline.
func (e *turns) Apply(_ context.Context, app string, make func(at time.Time) rollout.Event) ([]rollout.Effect, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ev, ok := make(time.Now()).(rollout.BalancerAsked)
	if !ok || ev.App != app || ev.At.IsZero() {
		return nil, fmt.Errorf("%s was told %+v", app, ev)
	}
	e.lines = append(e.lines, string(ev.Target)+" "+string(ev.Class)+": "+ev.Text)
	return nil, nil
}

func (e *turns) timeline() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lines)
}

func (e *turns) take(node string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.none[node] = true
}

var nodes = []string{"w1", "w2", "w3", "no-such-target"}

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// house is a coordinator's HTTP interface with a broker behind it.
type house struct {
	t      *testing.T
	broker *broker.Broker
	turns  *turns
	log    *logged
	url    string
	// lose, while set, has changes carried out and their answers lost.
	lose atomic.Bool
}

// newHouse serves a broker to the agents of the nodes; each runs app hello.
func newHouse(t *testing.T, lb broker.Balancer, change ...func(*broker.Config)) *house {
	t.Helper()
	h := &house{t: t, turns: &turns{none: map[string]bool{}}, log: &logged{}}
	servers := map[rollout.TargetID]string{}
	tokens := &httpapi.Tokens{}
	for _, n := range nodes {
		servers[rollout.TargetName("hello", n, "")] = n
		tokens.AddNode(n, "token-of-"+n)
	}
	tokens.AddNode("stranger", "token-of-stranger")
	lb.Name = "edge"
	lb.Server = func(node, _ string) string { return node }
	cfg := broker.Config{
		Balancers: []broker.Balancer{lb}, Engine: h.turns, Fresh: -1,
		Apps: []broker.App{{Name: "hello", Balancer: "edge", Servers: servers}},
		Log:  slog.New(slog.NewTextHandler(h.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	h.broker = broker.New(cfg)
	handler := httpapi.New(httpapi.Config{
		Broker: h.broker, Tokens: tokens, Webhook: http.NotFoundHandler(), Metrics: http.NotFoundHandler(), Log: cfg.Log,
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.lose.Load() {
			handler.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte(`"op":"begin_`)) {
			handler.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	h.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		if err := h.broker.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// client speaks for a node, as its agent does.
func (h *house) client(node string) *api.Client {
	h.t.Helper()
	c, err := api.NewClient(h.url, "token-of-"+node, api.WithRetries(0))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.CloseIdleConnections)
	return c
}

// provider is what the agent of a node drains its target with.
func (h *house) provider(node string) lbclient.Provider {
	h.t.Helper()
	return agent.NewBrokered(h.client(node), "edge", node, "hello", "hello@"+node)
}

// world is a real HAProxy that only the broker can speak to.
type world struct {
	*lbtest.Front
	*house
	lb *haproxytest.Process
}

func newWorld(t *testing.T, change ...func(*broker.Config)) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFront(t, 3)}
	be := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz"}}
	for _, n := range w.Targets() {
		be.Servers = append(be.Servers, haproxytest.Server{
			Name: n, Address: w.Apps[n].Address, Options: "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2",
		})
	}
	w.lb = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{be}})
	w.URL = w.lb.URL("web")
	w.house = newHouse(t, broker.Balancer{MinHealthy: 1, SameView: true, ReadsPerSecond: 10000, Open: w.open}, change...)
	w.Await("all serve", func() bool {
		for _, n := range w.Targets() {
			if w.phase(n) != lbclient.PhaseServing {
				return false
			}
		}
		return strings.Contains(w.command("show stat web 4 -1"), "L7OK")
	})
	return w
}

func (w *world) open(server string) (lbclient.Provider, error) {
	return haproxy.New(haproxy.Config{
		Name: "edge", Endpoints: []string{w.lb.Endpoint()}, Backends: []string{"web"}, Server: server, SocketTimeout: time.Second,
	})
}

func (w *world) Provider(target string) lbclient.Provider { return w.provider(target) }

func (w *world) command(line string) string {
	answer, err := w.lb.Command(line)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

// phase is how a target stands, as its balancer itself tells.
func (w *world) phase(target string) lbclient.Phase {
	w.t.Helper()
	p, err := w.open(target)
	if err != nil {
		w.t.Fatal(err)
	}
	defer p.Close()
	pool, err := p.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range pool.Members {
		if m.Name == target {
			return m.Phase
		}
	}
	return lbclient.PhaseAbsent
}
