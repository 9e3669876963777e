package agent_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

const cloudYAML = `coordinator:
  listen: 127.0.0.1:7400
  database: %[1]s/lockstep.db
  mirrors: %[1]s/mirrors
  admin_tokens: [{file: %[1]s/admin}]
github:
  webhook_secrets: [{file: %[1]s/webhook}]
nodes:
  web1: {token: {file: %[1]s/web1}}
balancers:
  cloud:
    type: hetzner
    load_balancer: front
    token: {file: %[1]s/cloud}
    endpoint: %[2]q
    mode: gate
    port: %[3]s
    min_healthy: 1
    drain_timeout: 90s
    rejoin_timeout: 90s
apps:
  hello:
    repo: %[4]s
    branch: main
    nodes: [web1]
    unit: hello.service
    health: {http: "http://%[5]s/healthz", interval: 100ms, passes: 2}
    balancer: cloud
    soak: 100ms
`

// A cloud's target leaves by its gate: the coordinator, which alone has the
// token, changes nothing there, and tells the gate how the cloud checks.
func TestACloudsTargetLeavesByItsGate(t *testing.T) {
	t.Parallel()
	g, other, otherGate := newGatedNode(t)
	_, port, _ := net.SplitHostPort(g.cfg.GateListen)
	gatePort, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	cloud, err := hetznertest.New(hetznertest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	const appPort = 8080
	targets := []hetznertest.Target{
		{Server: cloud.AddServer(hetznertest.Server{Name: "web1", Backend: hetznertest.Backend{Ports: map[int]string{appPort: g.app.Address, gatePort: g.cfg.GateListen}}})},
		{Server: cloud.AddServer(hetznertest.Server{Name: "web2", Backend: hetznertest.Backend{Ports: map[int]string{appPort: other.Address, gatePort: otherGate.Listener.Addr().String()}}})},
	}
	id, err := cloud.AddBalancer(hetznertest.Balancer{
		Name: "front", Targets: targets,
		Services: []hetznertest.Service{{ListenPort: 80, DestinationPort: appPort, Check: hetznertest.Check{Port: gatePort, Path: "/ready/other", Interval: 3, Timeout: 3, Retries: 2}}},
	})
	if err != nil {
		t.Fatal(err)
	}

	dir, log := t.TempDir(), &book{}
	for name, secret := range map[string]string{"admin": strings.Repeat("admin", 12), "webhook": strings.Repeat("webhook", 12), "web1": strings.Repeat("web1", 12), "cloud": cloud.Token()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yaml := fmt.Sprintf(cloudYAML, dir, cloud.Endpoint(), port, g.repo.dir, g.app.Address)
	if err := os.WriteFile(filepath.Join(dir, "fleet.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	url := startCoordinator(t, dir, log)
	client := func(secret string) *api.Client {
		c, err := api.NewClient(url, strings.Repeat(secret, 12), api.WithRetries(20), api.WithBackoff(50*time.Millisecond, 50*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	admin, own := client("admin"), client("web1")
	g.deps.Coordinator, g.deps.Broker = own, own
	g.start(t)
	doctor := func(result api.CheckResult, want string) func() bool {
		return func() bool {
			d, err := admin.Doctor(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range d.Checks {
				if c.Area == "balancer" && c.Result == result && strings.Contains(c.Text, want) {
					return true
				}
			}
			return false
		}
	}
	g.await("doctor tells that the cloud checks another path", doctor(api.CheckProblem, `asks for "/ready/other", but the gate answers on "/ready/hello"`))
	cloud.SetCheck(id, 80, hetznertest.Check{Port: gatePort, Path: "/ready/hello", Interval: 3, Timeout: 3, Retries: 2})
	member := func() api.BalancerMemberStatus {
		bs, err := admin.Balancers(t.Context(), "cloud")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range bs.Balancers[0].Members {
			if m.Name == "web1" {
				return m
			}
		}
		return api.BalancerMemberStatus{}
	}
	g.await("the cloud and the gate agree that web1 serves", func() bool {
		m := member()
		return m.Phase == "serving" && strings.Contains(m.Detail, "was admitted")
	})

	visitors := traffic.Visit("http://"+cloud.Address(id, 80), []*traffic.App{g.app, other})
	g.visitors = visitors
	// Not before, for automation would deploy it at once.
	g.repo.release(map[string]string{"version": "one"})
	r, err := admin.Deploy(t.Context(), hello, api.DeployRequest{By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	var drained, why bool
	for deadline := time.Now().Add(4 * patience); !r.Done; time.Sleep(100 * time.Millisecond) {
		page, err := admin.Events(t.Context(), r.ID, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r = page.Rollout; time.Now().After(deadline) {
			t.Fatalf("%s is still %s: %s\n%s", r.ID, r.Status, r.Text, log)
		}
		m := member()
		drained = drained || m.Phase == "draining"
		why = why || m.Phase == "draining" && strings.Contains(m.Detail, "unhealthy") && strings.Contains(m.Detail, "refused")
	}
	if r.Status != "succeeded" {
		t.Errorf("%s is %s: %s\n%s", r.ID, r.Status, r.Text, log)
	}
	if !drained || !why {
		t.Errorf("web1 was shown as draining: %t, with what the cloud says and whom the gate refused: %t", drained, why)
	}
	for _, call := range cloud.Calls() {
		if !strings.HasPrefix(call, http.MethodGet) {
			t.Errorf("the cloud was asked to change something: %s", call)
		}
	}
	g.nobodyFailed()
	g.await("doctor finds nothing wrong with it", doctor(api.CheckOK, "can be drained there"))
}
