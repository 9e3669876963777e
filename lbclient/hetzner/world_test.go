package hetzner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

const (
	// second is how long a second of the made cloud's health checks lasts.
	second   = 10 * time.Millisecond
	appPort  = 8080
	gatePort = 8079
)

// kind is how the targets of a world belong to its balancer.
type kind int

const (
	byServer kind = iota
	byPrivateServer
	byIP
	bySelector
)

type options struct {
	hetznertest.Options
	kind kind
	mode hetzner.Mode
	edit func(*hetzner.Config) // of every provider
}

// world is a made Hetzner Cloud with one balancer before several apps, each
// with a gate.
type world struct {
	*lbtest.Front
	t     *testing.T
	opt   options
	cloud *hetznertest.Cloud
	lb    int64
	ids   map[string]int64  // of servers
	ips   map[string]string // of targets of type ip
	gates map[string]*gate
}

var check = hetznertest.Check{Path: "/healthz", Interval: 4, Timeout: 60, Retries: 2}

// newWorld returns once the balancer calls every target healthy.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	o.Descriptions = os.Getenv("LOCKSTEP_API_SPECS")
	o.OnViolation = func(err error) { t.Errorf("the made cloud and the published description differ: %v", err) }
	if o.Second == 0 {
		o.Second = second
	}
	if o.ActionTime == 0 {
		o.ActionTime = 20 * time.Millisecond
	}
	cloud, err := hetznertest.New(o.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	w := &world{
		Front: lbtest.NewFront(t, 3), t: t, opt: o, cloud: cloud,
		ids: make(map[string]int64), ips: make(map[string]string), gates: make(map[string]*gate),
	}
	var targets []hetznertest.Target
	for i, name := range w.Targets() {
		g := newGate(t, name, w.Apps[name])
		w.gates[name] = g
		b := hetznertest.Backend{Ports: map[int]string{appPort: w.Apps[name].Address, gatePort: g.address}}
		if o.kind == byIP {
			w.ips[name] = fmt.Sprintf("198.51.100.%d", i+1)
			cloud.AddAddress(w.ips[name], b)
		} else {
			w.ids[name] = cloud.AddServer(hetznertest.Server{Name: name, Labels: map[string]string{"env": "prod"}, Backend: b, Private: true})
		}
		if o.kind != bySelector {
			targets = append(targets, w.target(name))
		}
	}
	if o.kind == bySelector {
		targets = append(targets, hetznertest.Target{Selector: "env=prod", UsePrivateIP: true})
	}
	c := check
	if o.mode == hetzner.ModeGate {
		c.Port, c.Path = gatePort, "/gate"
	}
	w.lb, err = cloud.AddBalancer(hetznertest.Balancer{
		Name: "front", Targets: targets,
		Services: []hetznertest.Service{{ListenPort: 80, DestinationPort: appPort, Check: c}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + cloud.Address(w.lb, 80)
	p := w.alone(w.Targets()[0])
	w.Await("every target is healthy", func() bool {
		for _, m := range w.observe(p) {
			if m.Phase != lbclient.PhaseServing {
				return false
			}
		}
		return true
	})
	return w
}

// target is a target of its own.
func (w *world) target(name string) hetznertest.Target {
	if w.opt.kind == byIP {
		return hetznertest.Target{IP: w.ips[name]}
	}
	return hetznertest.Target{Server: w.ids[name], UsePrivateIP: w.opt.kind == byPrivateServer}
}

func (w *world) config(target string) hetzner.Config {
	c := hetzner.Config{
		Name: "front", LoadBalancer: "front", Token: w.cloud.Token(), Endpoint: w.cloud.Endpoint(),
		Server: target, Mode: w.opt.mode, ActionPoll: 5 * time.Millisecond, RetryWait: time.Millisecond,
		ActionWait: 500 * time.Millisecond,
	}
	if w.opt.mode == hetzner.ModeGate {
		c.GatePort, c.GatePath = gatePort, "/gate"
	}
	if w.opt.kind == byIP {
		c.IP = w.ips[target]
		if c.IP == "" {
			c.IP = "198.51.100.99"
		}
		c.Names = make(map[string]string)
		for name, ip := range w.ips {
			c.Names[ip] = name
		}
	}
	if w.opt.edit != nil {
		w.opt.edit(&c)
	}
	return c
}

// alone is the package's own provider for a target.
func (w *world) alone(target string) lbclient.Provider {
	w.t.Helper()
	return w.made(w.config(target))
}

func (w *world) made(c hetzner.Config) lbclient.Provider {
	w.t.Helper()
	p, err := hetzner.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.Close() })
	return p
}

// Provider is the package's provider as it is used: before a gate where there
// is one, and with somebody who vouches for idleness.
func (w *world) Provider(target string) lbclient.Provider {
	p := w.alone(target)
	if g := w.gates[target]; g != nil && w.opt.mode == hetzner.ModeGate {
		p = lbclient.Multi(p, g)
	}
	return &quiet{Provider: p}
}

func (w *world) observe(p lbclient.Provider) []lbclient.Member {
	w.t.Helper()
	pool, err := p.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return pool.Members
}

func (w *world) phase(p lbclient.Provider, name string) lbclient.Phase {
	w.t.Helper()
	for _, m := range w.observe(p) {
		if m.Name == name {
			return m.Phase
		}
	}
	return lbclient.PhaseAbsent
}

// posts counts the changes that were asked for.
func (w *world) posts() int {
	n := 0
	for _, call := range w.cloud.Calls() {
		if strings.HasPrefix(call, http.MethodPost) {
			n++
		}
	}
	return n
}

// wantTargets wants the balancer to have these targets, whatever their order.
func (w *world) wantTargets(want ...hetznertest.Target) {
	w.t.Helper()
	got := make(map[hetznertest.Target]int)
	for _, t := range w.cloud.Targets(w.lb) {
		got[t]++
	}
	for _, t := range want {
		got[t]--
	}
	for t, n := range got {
		if n != 0 {
			w.t.Errorf("the balancer has target %+v %+d times as often as wanted", t, n)
		}
	}
}

// quiet stands for evidence from the node that nothing is in flight, a while
// after the balancer sends nothing new.
type quiet struct {
	lbclient.Provider
	since time.Time
}

func (q *quiet) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	st, err := q.Provider.DrainStatus(ctx, r)
	if err != nil || st.Stage != lbclient.DrainBusy {
		q.since = time.Time{}
		return st, err
	}
	if q.since.IsZero() {
		q.since = time.Now()
	}
	if time.Since(q.since) > 50*time.Millisecond {
		st.Stage, st.InFlight = lbclient.DrainIdle, 0
	}
	return st, nil
}

// gate is a health gate on a node, and the provider of it.
type gate struct {
	name    string
	address string
	closed  atomic.Bool
}

func newGate(t *testing.T, name string, app *traffic.App) *gate {
	g := &gate{name: name}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		// The app's own health as it is seen from outside.
		conn, err := net.DialTimeout("tcp", app.Address, time.Second)
		if err == nil {
			conn.Close()
		}
		if err != nil || g.closed.Load() || !app.Healthy() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	g.address = strings.TrimPrefix(s.URL, "http://")
	return g
}

func (g *gate) fail(ctx context.Context, r *lbclient.Restore) error {
	if err := ctx.Err(); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: "ask the gate", Err: err}
	}
	if r != nil && (r.Provider != "gate" || r.Target != g.name) {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: "use the gate", Text: "another's"}
	}
	return nil
}

func (g *gate) Preflight(context.Context) error { return nil }
func (g *gate) Close() error                    { return nil }

func (g *gate) Observe(ctx context.Context) (lbclient.Pool, error) {
	m := lbclient.Member{Name: g.name, Phase: lbclient.PhaseServing, InFlight: -1, Detail: "open"}
	if g.closed.Load() {
		m.Phase, m.Detail = lbclient.PhaseDraining, "closed"
	}
	return lbclient.Pool{Members: []lbclient.Member{m}, Epoch: "gate", At: time.Now()}, g.fail(ctx, nil)
}

func (g *gate) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	return lbclient.Restore{Provider: "gate", Target: g.name, Version: 1, WasServing: true, Data: json.RawMessage("{}")}, g.fail(ctx, nil)
}

func (g *gate) BeginDrain(ctx context.Context, r lbclient.Restore, _ int) error {
	err := g.fail(ctx, &r)
	if err == nil {
		g.closed.Store(true)
	}
	return err
}

func (g *gate) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	st := lbclient.DrainStatus{Stage: lbclient.DrainNotAsked, Epoch: "gate", InFlight: -1, Evidence: "open"}
	if g.closed.Load() {
		st.Stage, st.Evidence = lbclient.DrainBusy, "closed"
	}
	return st, g.fail(ctx, &r)
}

func (g *gate) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	err := g.fail(ctx, &r)
	if err == nil {
		g.closed.Store(false)
	}
	return err
}

func (g *gate) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	st := lbclient.RejoinStatus{Stage: lbclient.RejoinServing, Evidence: "open"}
	if g.closed.Load() {
		st = lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked, Evidence: "closed"}
	}
	return st, g.fail(ctx, &r)
}

// wantError is [lbtest.WantError] for an error that must not have the token.
func wantError(t *testing.T, err error, class lbclient.Class, words ...string) {
	t.Helper()
	lbtest.WantError(t, err, class, words...)
	if strings.Contains(err.Error(), hetznertest.DefaultToken+" ") {
		t.Errorf("the error has the token: %v", err)
	}
}

func id(n int64) string { return strconv.FormatInt(n, 10) }
