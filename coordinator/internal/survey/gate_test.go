package survey

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// gatedCloud puts a cloud in the place of HAProxy, whose targets leave by their
// gates.
var gatedCloud = []string{
	`type: haproxy, endpoints: ["unix:///run/haproxy/admin.sock"], backend: web`, "type: hetzner, load_balancer: front, token: {file: webhook}, mode: gate",
	"health: none", `health: {tcp: "{address}:8080"}`,
}

// A cloud finds a target unhealthy whose gate is closed. Why, its node knows.
func TestTheGateSaysWhy(t *testing.T) {
	const refused = "the gate is closed; 10.0.0.1 was refused 3 times in 9s, the last 1s ago"
	for name, c := range map[string]struct {
		cloud  lbclient.Phase
		report func(*api.AppReport)
		phase  string
		says   string
	}{
		"open": {lbclient.PhaseServing, func(a *api.AppReport) { a.Balancer.Members[0].Detail = "the gate is open" }, "serving", "by the cloud; the gate is open"},
		"closed": {lbclient.PhaseUnhealthy, func(a *api.AppReport) {
			a.Balancer.Members[0].Phase, a.Balancer.Members[0].Detail = "draining", refused
		}, "draining", "by the cloud; " + refused},
		"held by another hand":      {lbclient.PhaseUnhealthy, func(a *api.AppReport) { a.Balancer.Members[0].Phase = "foreign_out" }, "foreign_out", "by the cloud"},
		"open, and found unhealthy": {lbclient.PhaseUnhealthy, func(*api.AppReport) {}, "unhealthy", "by the cloud"},
		"closed, and found healthy": {lbclient.PhaseServing, func(a *api.AppReport) { a.Balancer.Members[0].Phase = "draining" }, "serving", "by the cloud"},
		"not to be seen": {lbclient.PhaseUnhealthy, func(a *api.AppReport) {
			a.Balancer.Failed = &api.BalancerFailure{Class: "transient", Text: "connection refused"}
		}, "unhealthy", "its gate: connection refused"},
		// Its agent looks at nothing else then.
		"in its turn": {lbclient.PhaseUnhealthy, func(a *api.AppReport) {
			a.Balancer.Members[0].Detail = "the gate is open"
			a.Targets = []api.TargetReport{{Target: "hello@web1", Turn: 3, Rotation: api.RotationDraining, Detail: refused}}
		}, "draining", "by the cloud; " + refused},
		"on its way back": {lbclient.PhaseUnhealthy, func(a *api.AppReport) {
			a.Targets = []api.TargetReport{{Target: "hello@web1", Turn: 3, Rotation: api.RotationIn, Detail: "the gate is open"}}
		}, "unhealthy", "by the cloud; the gate is open"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, gatedCloud...)
			s.pool.Members[0] = lbclient.Member{Name: "srv1", Phase: c.cloud, Detail: "by the cloud"}
			s.contact("web1", func(r *runner.Contact) { c.report(&r.Apps[0]) })
			bs, err := s.Balancers(t.Context(), "edge")
			if err != nil {
				t.Fatal(err)
			}
			m := bs.Balancers[0].Members[0]
			if m.Name != "srv1" || m.Phase != c.phase || !strings.HasPrefix(m.Detail, "by the cloud") || !strings.HasSuffix(m.Detail, c.says) {
				t.Errorf("got %+v, want %s: …%s", m, c.phase, c.says)
			}
		})
	}
}

// Where a gate stands beside the cloud, both must be in order.
func TestDoctorAsksTheNodeForItsGate(t *testing.T) {
	s := newStage(t, gatedCloud...)
	s.report("web1", func(r *api.BalancerReport) {
		r.Refused = &api.BalancerFailure{Class: "invalid", Text: "there is no gate"}
	})
	var found []string
	for _, c := range s.Doctor(t.Context()).Checks {
		if c.Result != api.CheckOK {
			found = append(found, string(c.Result)+" "+c.Area+" "+c.Subject+": "+c.Text)
		}
	}
	if len(found) != 1 || !strings.HasPrefix(found[0], "problem balancer srv1 at edge: there is no gate (as web1 found") {
		t.Errorf("found %q", found)
	}
}
