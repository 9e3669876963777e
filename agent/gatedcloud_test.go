package agent_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

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

	hq := startHeadquarters(t, func(dir string) string {
		return fmt.Sprintf(cloudYAML, dir, cloud.Endpoint(), port, g.repo.dir, g.app.Address)
	}, map[string]string{"cloud": cloud.Token()})
	g.deps.Coordinator, g.deps.Broker = hq.own, hq.own
	g.start(t)
	doctor := func(result api.CheckResult, want string) func() bool {
		return func() bool {
			d, err := hq.admin.Doctor(t.Context())
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
		bs, err := hq.admin.Balancers(t.Context(), "cloud")
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
	one := g.repo.release(map[string]string{"version": "one"})
	var drained, why bool
	hq.deploy(one.SHA, func() {
		m := member()
		drained = drained || m.Phase == "draining"
		why = why || m.Phase == "draining" && strings.Contains(m.Detail, "unhealthy") && strings.Contains(m.Detail, "refused")
	})
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
