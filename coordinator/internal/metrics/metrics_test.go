package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// pool is one of two targets on release r1: web1 serves it, web2 is unknown and
// holds a turn.
func pool() rollout.State {
	return rollout.State{
		Pool: "edge", MaxUnavailable: 1,
		Apps: []rollout.App{{Name: "hello", Current: "r1", Live: &rollout.Rollout{ID: "hello-2", Paused: &rollout.Mark{By: "ann"}}}},
		Nodes: []rollout.Node{
			{Name: "web1", Reach: rollout.Reachable}, {Name: "web2", Reach: rollout.Unreachable},
		},
		Targets: []rollout.Target{
			{ID: "hello@web1", App: "hello", Node: "web1", Drift: &rollout.Drift{Release: "r1", Linked: "r0"}, Seen: rollout.Sighting{Known: true, Release: "r1", Rotation: rollout.RotationIn, Health: rollout.Healthy}},
			// What was last seen of it was good; that proves nothing now.
			{ID: "hello@web2", App: "hello", Node: "web2", Turn: 7, Seen: rollout.Sighting{Known: true, Release: "r1", Rotation: rollout.RotationIn, Health: rollout.Healthy}},
		},
	}
}

func TestMetrics(t *testing.T) {
	m := New("1.2.3")
	m.Watch(func() []rollout.State { return []rollout.State{pool(), {Pool: "empty"}} })
	done := rollout.Changed{Rollout: rollout.Rollout{App: "hello", Kind: rollout.Deploy, Status: rollout.Succeeded}}
	live := rollout.Changed{Rollout: rollout.Rollout{App: "hello", Kind: rollout.Deploy, Status: rollout.Rolling}}
	m.Committed("edge", []rollout.Effect{done, live, rollout.Noted{At: time.Now()}})
	m.Committed("edge", []rollout.Effect{done})

	const want = `
# HELP lockstep_app_converged 1 when every target of the app is proved on its current release and in rotation.
# TYPE lockstep_app_converged gauge
lockstep_app_converged{app="hello"} 0
# HELP lockstep_build_info Always 1; the version is in the label.
# TYPE lockstep_build_info gauge
lockstep_build_info{version="1.2.3"} 1
# HELP lockstep_node_reachable 1 when the node's agent is heard of.
# TYPE lockstep_node_reachable gauge
lockstep_node_reachable{node="web1"} 1
lockstep_node_reachable{node="web2"} 0
# HELP lockstep_pool_turns Targets of the pool that have leave to be out of rotation.
# TYPE lockstep_pool_turns gauge
lockstep_pool_turns{pool="edge"} 1
lockstep_pool_turns{pool="empty"} 0
# HELP lockstep_rollout_live 1 while a rollout of the app is under way.
# TYPE lockstep_rollout_live gauge
lockstep_rollout_live{app="hello"} 1
# HELP lockstep_rollout_paused 1 while the app's rollout waits for a person.
# TYPE lockstep_rollout_paused gauge
lockstep_rollout_paused{app="hello"} 1
# HELP lockstep_rollouts_total Rollouts that ended since the coordinator started, by how they ended.
# TYPE lockstep_rollouts_total counter
lockstep_rollouts_total{app="hello",kind="deploy",status="succeeded"} 2
# HELP lockstep_target_current 1 when the target is proved on the app's current release.
# TYPE lockstep_target_current gauge
lockstep_target_current{app="hello",app_instance="",node="web1"} 1
lockstep_target_current{app="hello",app_instance="",node="web2"} 0
# HELP lockstep_target_drift 1 when the target runs, or would run after its next start, something else than it was left on, with no rollout under way.
# TYPE lockstep_target_drift gauge
lockstep_target_drift{app="hello",app_instance="",node="web1"} 1
lockstep_target_drift{app="hello",app_instance="",node="web2"} 0
# HELP lockstep_target_in_rotation 1 when the balancer has the target in rotation, by its agent's last report; 0 when not, or not known.
# TYPE lockstep_target_in_rotation gauge
lockstep_target_in_rotation{app="hello",app_instance="",node="web1"} 1
lockstep_target_in_rotation{app="hello",app_instance="",node="web2"} 0
`
	names := []string{
		"lockstep_app_converged", "lockstep_build_info", "lockstep_node_reachable", "lockstep_pool_turns", "lockstep_rollout_live",
		"lockstep_rollout_paused", "lockstep_rollouts_total", "lockstep_target_current", "lockstep_target_drift", "lockstep_target_in_rotation",
	}
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "lockstep_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestScrape(t *testing.T) {
	m := New("1.2.3")
	m.Watch(func() []rollout.State { return []rollout.State{pool()} })
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `lockstep_node_reachable{node="web1"} 1`) || !strings.Contains(rec.Body.String(), "go_goroutines") {
		t.Errorf("answered %d\n%s", rec.Code, rec.Body)
	}
}
