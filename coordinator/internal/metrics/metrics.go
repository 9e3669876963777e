// Package metrics shows the coordinator to Prometheus. What can be read from
// the pools is read at each scrape, so that it cannot differ from them.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Metrics is the coordinator's registry.
type Metrics struct {
	registry *prometheus.Registry
	rollouts *prometheus.CounterVec
}

// New returns a registry with the coordinator's own process in it.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rollouts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_rollouts_total", Help: "Rollouts that ended since the coordinator started, by how they ended.",
		}, []string{"app", "kind", "status"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "lockstep_build_info", Help: "Always 1; the version is in the label.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.rollouts, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds what the pools show. It is to be called once, before Handler is used.
func (m *Metrics) Watch(views func() []rollout.State) {
	m.registry.MustRegister(pools(views))
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Committed counts what a stored step brought about.
func (m *Metrics) Committed(_ string, effects []rollout.Effect) {
	for _, e := range effects {
		if c, ok := e.(rollout.Changed); ok && c.Rollout.Status.Final() {
			m.rollouts.WithLabelValues(c.Rollout.App, string(c.Rollout.Kind), string(c.Rollout.Status)).Inc()
		}
	}
}

// pools collects what the states of the pools say at the time of a scrape.
type pools func() []rollout.State

var (
	targetInRotation = prometheus.NewDesc("lockstep_target_in_rotation",
		"1 when the balancer has the target in rotation, by its agent's last report; 0 when not, or not known.", []string{"app", "node", "app_instance"}, nil)
	targetCurrent = prometheus.NewDesc("lockstep_target_current",
		"1 when the target is proved on the app's current release.", []string{"app", "node", "app_instance"}, nil)
	targetDrift = prometheus.NewDesc("lockstep_target_drift",
		"1 when the target runs, or would run after its next start, something else than it was left on, with no rollout under way.", []string{"app", "node", "app_instance"}, nil)
	nodeReachable = prometheus.NewDesc("lockstep_node_reachable",
		"1 when the node's agent is heard of.", []string{"node"}, nil)
	rolloutLive = prometheus.NewDesc("lockstep_rollout_live",
		"1 while a rollout of the app is under way.", []string{"app"}, nil)
	rolloutPaused = prometheus.NewDesc("lockstep_rollout_paused",
		"1 while the app's rollout waits for a person.", []string{"app"}, nil)
	appConverged = prometheus.NewDesc("lockstep_app_converged",
		"1 when every target of the app is proved on its current release and in rotation.", []string{"app"}, nil)
	turns = prometheus.NewDesc("lockstep_pool_turns",
		"Targets of the pool that have leave to be out of rotation.", []string{"pool"}, nil)
)

// Describe implements prometheus.Collector.
func (p pools) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{targetInRotation, targetCurrent, targetDrift, nodeReachable, rolloutLive, rolloutPaused, appConverged, turns} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p pools) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, on bool, labels ...string) {
		v := 0.0
		if on {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	reach := map[string]bool{}
	for _, s := range p() {
		held := 0
		for i := range s.Targets {
			t := &s.Targets[i]
			heard := s.Node(t.Node).Reach == rollout.Reachable
			reach[t.Node] = reach[t.Node] || heard
			gauge(targetInRotation, heard && t.Seen.Known && t.Seen.Rotation == rollout.RotationIn, t.App, t.Node, t.Instance)
			current := s.App(t.App).Current
			gauge(targetCurrent, heard && current != "" && t.Proved(current), t.App, t.Node, t.Instance)
			gauge(targetDrift, t.Drift != nil, t.App, t.Node, t.Instance)
			if t.Turn != 0 {
				held++
			}
		}
		for i := range s.Apps {
			a := &s.Apps[i]
			gauge(rolloutLive, a.Live != nil, a.Name)
			gauge(rolloutPaused, a.Live != nil && a.Live.Paused != nil, a.Name)
			gauge(appConverged, s.Converged(a.Name), a.Name)
		}
		ch <- prometheus.MustNewConstMetric(turns, prometheus.GaugeValue, float64(held), s.Pool)
	}
	for node, heard := range reach {
		gauge(nodeReachable, heard, node)
	}
}
