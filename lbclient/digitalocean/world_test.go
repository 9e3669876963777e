package digitalocean_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

// second is how long a second of the tests' DigitalOcean lasts. Checks are given
// several of them to answer, because the machine may be busy with other tests.
const second = 25 * time.Millisecond

const (
	appPort  = 8080
	gatePort = 8079
)

// specFile is the published description of the API, if it is at hand.
func specFile(t *testing.T) string {
	dir := os.Getenv("LOCKSTEP_API_SPECS")
	if dir == "" {
		t.Log("LOCKSTEP_API_SPECS does not name the published descriptions: calls are not validated")
		return ""
	}
	return filepath.Join(dir, "digitalocean-load-balancers.openapi.json")
}

// world is a DigitalOcean with one balancer before several apps, each with a
// gate of its own.
type world struct {
	*lbtest.Front
	t     *testing.T
	cloud *digitaloceantest.Cloud
	lb    string
	ids   map[string]int
	gates map[string]*door
	mode  digitalocean.Mode
	edit  func(*digitalocean.Config) // of every provider
}

type options struct {
	digitaloceantest.Options
	mode  digitalocean.Mode
	tag   string
	nodes int
	edit  func(*digitalocean.Config)
}

// newWorld returns once every app gets requests.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	if o.Spec == "" {
		o.Spec = specFile(t)
	}
	if o.Second == 0 {
		o.Second = second
	}
	cloud, err := digitaloceantest.Start(o.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cloud.Close()
		for _, v := range cloud.Violations() {
			t.Errorf("not as the API is described: %s", v)
		}
	})
	w := &world{
		Front: lbtest.NewFront(t, 3), t: t, cloud: cloud,
		ids: make(map[string]int), gates: make(map[string]*door), mode: o.mode, edit: o.edit,
	}
	var members []int
	for i, name := range w.Targets() {
		id := 3164444 + i
		w.ids[name] = id
		w.gates[name] = newDoor(t, name, w.Apps[name])
		members = append(members, id)
		d := digitaloceantest.Droplet{ID: id, Name: name, Address: fmt.Sprintf("127.10.0.%d", 1+i), Ports: map[int]string{
			appPort: w.Apps[name].Address, gatePort: w.gates[name].address,
		}}
		if o.tag != "" {
			d.Tags = []string{o.tag}
		}
		cloud.AddDroplet(d)
	}
	spec := digitaloceantest.Balancer{
		Name: "front", Droplets: members, Tag: o.tag, Nodes: o.nodes,
		Check: digitaloceantest.Check{Protocol: "http", Port: appPort, Path: "/healthz", Interval: 1, Timeout: 8, Healthy: 2, Unhealthy: 2},
		Rules: []digitaloceantest.Rule{{Protocol: "http", Entry: 80, Target: appPort}},
	}
	if o.mode == digitalocean.ModeGate {
		spec.Check.Port, spec.Check.Path = gatePort, "/gate"
	}
	if w.lb, err = cloud.AddBalancer(spec); err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + cloud.Entry(w.lb, 80)
	for _, name := range w.Targets() {
		w.Await(name+" gets requests", func() bool { return cloud.Healthy(w.lb, w.ids[name]) })
	}
	return w
}

func (w *world) config(target string) digitalocean.Config {
	c := digitalocean.Config{
		Name: "front", Token: "token", Endpoint: w.cloud.URL(), LoadBalancer: w.lb, Target: target,
		Droplets: w.ids, Mode: w.mode, Dial: w.cloud.Dial, Settle: 2 * second,
	}
	if w.mode == digitalocean.ModeGate {
		c.GatePort, c.GatePath = gatePort, "/gate"
	}
	if w.edit != nil {
		w.edit(&c)
	}
	return c
}

// alone is the package's own provider for a target.
func (w *world) alone(target string) lbclient.Provider {
	w.t.Helper()
	p, err := digitalocean.NewPaced(w.config(target), second)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.Close() })
	return p
}

// Provider is the package's provider as it is used: with a gate where there is
// one, and with somebody who vouches for idleness.
func (w *world) Provider(target string) lbclient.Provider {
	p := w.alone(target)
	if w.mode == digitalocean.ModeGate {
		if g := w.gates[target]; g != nil {
			p = lbclient.Multi(p, g)
		}
	}
	return quiet{p}
}

// SetHealthy returns once the balancer knows, because what the provider sees
// itself it sees sooner.
func (w *world) SetHealthy(target string, healthy bool) {
	w.t.Helper()
	w.Front.SetHealthy(target, healthy)
	member := false
	for _, id := range w.cloud.Members(w.lb) {
		member = member || id == w.ids[target]
	}
	if healthy && (!member || w.gates[target].closed.Load()) {
		return
	}
	w.Await("the balancer knows of "+target, func() bool { return w.cloud.Healthy(w.lb, w.ids[target]) == healthy })
}

// quiet stands for evidence from the node that nothing is in flight.
type quiet struct{ lbclient.Provider }

func (q quiet) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	st, err := q.Provider.DrainStatus(ctx, r)
	if st.Stage == lbclient.DrainBusy {
		st.Stage, st.InFlight = lbclient.DrainIdle, 0
	}
	return st, err
}

// door is a simple health gate on a node, and the provider of it.
type door struct {
	name    string
	app     *traffic.App
	address string
	closed  atomic.Bool
}

func newDoor(t *testing.T, name string, app *traffic.App) *door {
	g := &door{name: name, app: app}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	g.address = strings.TrimPrefix(s.URL, "http://")
	return g
}

func (g *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.app.Healthy() || g.closed.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (g *door) Preflight(context.Context) error { return nil }
func (g *door) Close() error                    { return nil }

func (g *door) Observe(ctx context.Context) (lbclient.Pool, error) {
	m := lbclient.Member{Name: g.name, Phase: lbclient.PhaseServing, InFlight: -1, Detail: "open"}
	if g.closed.Load() {
		m.Phase, m.Detail = lbclient.PhaseDraining, "closed"
	}
	return lbclient.Pool{Members: []lbclient.Member{m}, Epoch: "gate", At: time.Now()}, g.late(ctx)
}

func (g *door) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	return lbclient.Restore{Provider: "gate", Target: g.name, Version: 1, WasServing: g.app.Healthy(), Data: json.RawMessage("{}")}, g.late(ctx)
}

func (g *door) late(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: "ask the gate", Err: err}
	}
	return nil
}

func (g *door) mine(ctx context.Context, r lbclient.Restore) error {
	if r.Provider != "gate" || r.Target != g.name {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: "use the gate", Text: "another's"}
	}
	return g.late(ctx)
}

func (g *door) BeginDrain(ctx context.Context, r lbclient.Restore, _ int) error {
	if err := g.mine(ctx, r); err != nil {
		return err
	}
	g.closed.Store(true)
	return nil
}

func (g *door) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	st := lbclient.DrainStatus{Stage: lbclient.DrainNotAsked, Epoch: "gate", InFlight: -1, Evidence: "open"}
	if g.closed.Load() {
		st.Stage, st.Evidence = lbclient.DrainBusy, "closed"
	}
	return st, g.mine(ctx, r)
}

func (g *door) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	if err := g.mine(ctx, r); err != nil {
		return err
	}
	g.closed.Store(false)
	return nil
}

func (g *door) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	st := lbclient.RejoinStatus{Stage: lbclient.RejoinServing, Evidence: "open"}
	if g.closed.Load() {
		st = lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked, Evidence: "closed"}
	}
	return st, g.mine(ctx, r)
}
