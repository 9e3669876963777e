package agent_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// A balancer that nobody speaks to gets a target drained and back by its own
// checks, and no visitor notices. The gate's questions to the app, which another
// process asks, are not taken for work.
func TestATurnBehindAGate(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	before := g.server("web1", 22)
	if o := g.deploy("two", ""); !o.OK {
		t.Fatalf("outcome %+v", o)
	}
	if after := g.server("web1", 22); after == before {
		t.Errorf("HAProxy never found web1 down")
	}
	r := g.c.awaitApp(t, hello, "both are seen to serve", func(r api.AppReport) bool {
		b := r.Balancer
		return r.Targets[0].Rotation == api.RotationIn && b != nil && b.Refused == nil && len(b.Members) == 2 &&
			b.Members[0].Phase == "serving" && b.Members[1].Phase == "serving" && b.Timing != nil
	})
	if m := r.Balancer.Members[0]; m.Name != "web1" || !strings.Contains(m.Detail, "127.0.0.1 was admitted") {
		t.Errorf("web1 is told as %+v", m)
	}
	g.nobodyFailed()
}

// A commit may say at which path its release is asked. The gate asks there from the
// moment that the release serves, and where the release before it is asked again
// when that comes back.
func TestAReleaseIsAskedAtItsOwnPath(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	deploy := func(kind, path, fallback string) (string, api.Outcome) {
		r := g.repo.release(map[string]string{"kind": kind})
		r.Recipe.HealthPath = path
		id, turn := g.beginOf(r, fallback)
		o, _ := g.c.awaitTurn(t, hello, turn)
		return id, o
	}
	well := func(what string) {
		t.Helper()
		g.c.awaitApp(t, hello, what, func(r api.AppReport) bool {
			return r.Targets[0].Rotation == api.RotationIn && r.Targets[0].Health == api.Healthy && r.Targets[0].Detail == ""
		})
		if got := g.ask(); got != http.StatusOK {
			t.Errorf("%s: the gate answers %d", what, got)
		}
	}
	two, o := deploy("readyz", "/readyz", "")
	if !o.OK {
		t.Fatalf("outcome %+v", o)
	}
	well("the second release serves, and is asked at /readyz")
	found := g.server("web1", 22)
	g.stop()
	g.c.do(func() { clear(g.c.reports) })
	g.start(t)
	well("the agent is there again")
	if now := g.server("web1", 22); now != found {
		t.Errorf("HAProxy found web1 down as the agent came back")
	}
	g.c.set(hello, func(a *api.Assignment) { a.Spec.Health.Deadline = api.Duration(2 * time.Second) })
	if _, o := deploy("healthz sick", "", two); o.OK || !o.Reverted || o.Reason != api.ReasonUnhealthy {
		t.Fatalf("outcome of a release that is sick: %+v", o)
	}
	well("the second release serves again")
	if _, o := deploy("healthz", "", two); !o.OK {
		t.Fatalf("outcome of a release with the usual path: %+v", o)
	}
	well("the last release serves, and is asked at /healthz")
	g.nobodyFailed()
}

// An agent may be away for longer than any check takes.
func TestAnAgentThatIsAwayTakesNobodyOut(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	found := g.server("web1", 22)
	g.stop()
	away := time.Now()
	g.await("HAProxy has polled for twice as long as it takes to find a target down", func() bool {
		st := g.status()
		return len(st.Pollers) > 0 && st.Pollers[0].Last.After(away.Add(2*polled.DownWithin()))
	})
	if now := g.server("web1", 22); now != found || g.server("web1", 17) != "UP" {
		t.Errorf("HAProxy found web1 down %s times, %s before; it is %s", now, found, g.server("web1", 17))
	}
	g.nobodyFailed()
}

// The gate's own restart goes unnoticed when its socket outlives it.
func TestAGateThatIsRestartedTakesNobodyOut(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	found, epoch := g.server("web1", 22), g.status().Epoch
	g.endGate(syscall.SIGTERM)
	g.await("a check of HAProxy waits for the gate to come back", func() bool { return g.waiting() > 0 })
	g.startGate()
	g.await("the new gate knows that web1 serves", func() bool {
		st := g.status()
		return st.Epoch != epoch && st.Phase() == lbclient.PhaseServing
	})
	if now := g.server("web1", 22); now != found || g.server("web1", 17) != "UP" {
		t.Errorf("HAProxy found web1 down %s times, %s before; it is %s", now, found, g.server("web1", 17))
	}
	if o := g.deploy("two", ""); !o.OK {
		t.Errorf("outcome of a turn after it: %+v", o)
	}
	g.nobodyFailed()
}

// A gate that dies while its target is out comes back closed.
func TestAGateThatIsKilledStaysClosed(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	held := make(chan error, 1)
	go func() {
		for {
			r, err := http.Get(g.lb.URL("web") + "/hold?for=web1")
			if err == nil {
				r.Body.Close()
				if r.StatusCode == http.StatusConflict {
					continue // the other one answered
				}
				if r.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %s", r.Status)
				}
			}
			held <- err
			return
		}
	}()
	<-g.app.Held
	_, turn := g.begin("two", "")
	g.await("HAProxy sends nothing new to web1", func() bool { return g.server("web1", 17) == "DOWN" })
	for range 2 {
		g.endGate(syscall.SIGKILL)
		g.startGate()
		if got := g.ask(); got != http.StatusServiceUnavailable {
			t.Errorf("a gate that was killed in mid-drain answers %d", got)
		}
		if got := g.server("web1", 17); got != "DOWN" {
			t.Errorf("HAProxy says %s", got)
		}
	}
	g.app.Finish <- struct{}{}
	if err := <-held; err != nil {
		t.Errorf("the request in flight failed: %v", err)
	}
	if o, _ := g.c.awaitTurn(t, hello, turn); !o.OK {
		t.Errorf("outcome %+v", o)
	}
	if got := g.ask(); got != http.StatusOK {
		t.Errorf("after the turn the gate answers %d", got)
	}
	g.nobodyFailed()
}

// A gate that agent.yaml does not offer is refused in words that tell what to
// write, and where.
func TestAnAgentWithoutAGateSaysSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ listen, want string }{
		"no gate":      {"", `write gate: {listen: ":9101"} in /etc/lockstep/agent.yaml`},
		"another port": {"10.0.0.11:9102", `balancers.front.port`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t)
			s.cfg.File, s.cfg.GateListen = "/etc/lockstep/agent.yaml", c.listen
			s.c.set(hello, func(a *api.Assignment) {
				a.Spec.Health.TCP = "127.0.0.1:1"
				a.Spec.Balancer = &api.Balancer{Name: "front", Type: "gate", Gate: &api.Gate{Port: 9101, Path: "/ready/hello"}}
			})
			s.start(t)
			s.c.awaitApp(t, hello, "the agent refuses", func(r api.AppReport) bool {
				return r.Balancer != nil && r.Balancer.Refused != nil && strings.Contains(r.Balancer.Refused.Text, c.want)
			})
		})
	}
}
