package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Defaults is the complete configuration in effect, as a fleet file: every
// default is filled in, and loading it gives the same fleet. Secrets appear as
// where they come from.
func (f *Fleet) Defaults() []byte {
	w := &writer{}
	w.open("coordinator")
	c := f.Coordinator
	w.put("listen", plain(c.Listen))
	w.put("database", plain(c.Database))
	w.put("mirrors", plain(c.Mirrors))
	w.put("archives", plain(c.Archives))
	w.put("admin_tokens", list(c.AdminTokens, Secret.written))
	w.put("poll_interval", short(c.PollInterval))
	w.put("node_timeout", short(c.NodeTimeout))
	w.close()

	w.open("github")
	w.put("webhook_secrets", list(f.GitHub.WebhookSecrets, Secret.written))
	w.close()

	w.open("nodes")
	for _, n := range f.Nodes {
		w.put(plain(n.Name), "{address: "+plain(n.Address)+", token: "+n.Token.written()+"}")
	}
	w.close()

	if len(f.Balancers) > 0 {
		w.open("balancers")
		for _, b := range f.Balancers {
			w.balancer(b)
		}
		w.close()
	}

	w.open("apps")
	for _, a := range f.Apps {
		w.app(a)
	}
	w.close()
	return w.out.Bytes()
}

func (w *writer) balancer(b *Balancer) {
	w.open(b.Name)
	defer w.close()
	w.put("type", b.Type)
	w.put("via", string(b.Via))
	w.ofType(b)
	if b.Gate != nil {
		w.gate(b.Gate)
	}
	w.put("max_unavailable", plainShare(b.MaxUnavailable))
	w.put("min_healthy", strconv.Itoa(b.MinHealthy))
	w.put("drain_timeout", short(b.DrainTimeout))
	w.put("on_drain_timeout", b.OnDrainTimeout)
	if i := b.Idle; i != nil {
		w.open("idle")
		if len(i.Ports) > 0 {
			w.put("ports", list(i.Ports, strconv.Itoa))
		}
		if len(i.Ignore) > 0 {
			w.put("ignore", list(i.Ignore, func(p netip.Prefix) string { return plain(p.String()) }))
		}
		if i.Window > 0 {
			w.put("window", short(i.Window))
		}
		w.close()
	}
	w.put("rejoin_timeout", short(b.RejoinTimeout))
	if b.DigitalOcean == nil {
		w.put("servers", servers(b.Servers))
	}
}

// ofType writes what only balancers of b's type have.
func (w *writer) ofType(b *Balancer) {
	switch {
	case b.HAProxy != nil:
		w.put("endpoints", list(b.HAProxy.Endpoints, plain))
		w.put("backends", list(b.HAProxy.Backends, plain))
		if n := b.HAProxy.AllowUnreachable; n > 0 {
			w.put("allow_unreachable", strconv.Itoa(n))
		}
	case b.Nginx != nil:
		n := b.Nginx
		w.put("file", plain(n.File))
		w.given("upstreams", n.Upstreams)
		if n.PIDFile != "" {
			w.put("pid_file", plain(n.PIDFile))
		}
		w.given("test", n.Test)
		w.given("reload", n.Reload)
	case b.Caddy != nil:
		w.put("endpoint", plain(b.Caddy.Endpoint))
		w.put("handlers", list(b.Caddy.Handlers, plain))
		if b.Caddy.Parked != "" {
			w.put("parked", plain(b.Caddy.Parked))
		}
	case b.Exec != nil:
		w.put("command", list(b.Exec.Command, plain))
	case b.Hetzner != nil:
		w.cloud(b.Via, b.Hetzner.LoadBalancer, b.Hetzner.Token, b.Hetzner.Endpoint, b.Hetzner.Mode)
		if len(b.Hetzner.IPs) > 0 {
			w.put("ips", mapping(b.Hetzner.IPs))
		}
	case b.DigitalOcean != nil:
		d := b.DigitalOcean
		w.cloud(b.Via, d.LoadBalancer, d.Token, d.Endpoint, d.Mode)
		if len(d.Droplets) > 0 {
			var all []string
			for _, n := range slices.Sorted(maps.Keys(d.Droplets)) {
				all = append(all, plain(n)+": "+strconv.Itoa(d.Droplets[n]))
			}
			w.put("droplets", "{"+strings.Join(all, ", ")+"}")
		}
		w.put("settle", short(d.Settle))
	}
}

func (w *writer) cloud(via Via, loadBalancer string, token Secret, endpoint, mode string) {
	w.put("load_balancer", plain(loadBalancer))
	if via == ViaCoordinator {
		w.put("token", token.written())
	}
	if endpoint != "" {
		w.put("endpoint", plain(endpoint))
	}
	w.put("mode", mode)
}

// given writes a list that says something only when it is not empty.
func (w *writer) given(key string, items []string) {
	if len(items) > 0 {
		w.put(key, list(items, plain))
	}
}

func (w *writer) app(a *App) {
	w.open(a.Name)
	defer w.close()
	w.put("repo", plain(a.Repo))
	w.put("source", a.Source.written())
	w.put("branch", plain(a.Branch))
	w.put("nodes", list(a.Nodes, plain))
	w.given("instances", a.Instances)
	if a.LastIf != "" {
		w.put("order", "{last_if: "+plain(a.LastIf)+"}")
	}
	w.put("build", list(a.Build, plain))
	w.put("env", mapping(a.Env))
	w.given("secrets", a.Secrets)
	l := a.BuildLimits
	w.put("build_limits", fmt.Sprintf("{memory: %s, cpu_weight: %d, io_weight: %d, tasks: %d, silence: %s}",
		plainMemory(l), l.CPUWeight, l.IOWeight, l.Tasks, short(l.Silence.D())))
	w.put("build_on", plain(string(a.BuildOn)))
	w.put("build_skew", string(a.BuildSkew))
	w.given("artifact", a.Artifact)
	if len(a.ReleaseCommand) > 0 {
		w.put("release_command", list(a.ReleaseCommand, plain))
		w.put("release_command_timeout", short(a.ReleaseTimeout))
	}
	w.given("shared", a.Shared)
	if f := a.RecipeFile; f != nil {
		w.put("recipe", "{file: "+plain(f.File)+", may_set: "+list(f.MaySet, plain)+"}")
	}
	if h := a.Hooks; h != nil {
		w.open("hooks")
		w.given("before_drain", h.BeforeDrain)
		w.given("after_drain", h.AfterDrain)
		w.given("while_stopped", h.WhileStopped)
		w.given("before_rejoin", h.BeforeRejoin)
		w.given("after_rejoin", h.AfterRejoin)
		w.put("timeout", short(h.Timeout.D()))
		w.close()
	}
	if a.Generated() {
		w.put("run", plain(a.Run))
		w.put("env_run", mapping(a.EnvRun))
		if a.RunMemory > 0 {
			w.put("run_memory", sized(a.RunMemory))
		}
	} else {
		w.put("unit", plain(a.Unit))
	}
	w.put("restart", a.Restart)
	w.health(a.Health)
	if a.Balancer != nil {
		w.put("balancer", plain(a.Balancer.Name))
		w.given("backends", a.Backends)
	} else {
		w.put("balancer", "none")
		w.put("max_unavailable", plainShare(a.MaxUnavailable))
	}
	w.put("build_timeout", short(a.BuildTimeout))
	w.put("prepare_timeout", short(a.PrepareTimeout))
	w.put("restart_timeout", short(a.RestartTimeout))
	w.put("soak", short(a.Soak))
	if a.Canary != nil {
		w.put("canary", fmt.Sprintf("{node: %s, soak: %s}", plain(a.Canary.Node), short(a.Canary.Soak)))
	}
	w.put("target_timeout", short(a.TargetTimeout))
	w.put("progress_timeout", short(a.ProgressTimeout))
	w.put("retries", strconv.Itoa(a.Retries))
	w.put("retry_backoff", short(a.RetryBackoff))
	w.put("auto_rollback", strconv.FormatBool(a.AutoRollback))
	w.put("keep_releases", strconv.Itoa(a.KeepReleases))
	w.put("force_push", string(a.ForcePush))
}

func (w *writer) health(h api.HealthCheck) {
	// The settings of "health: none" cannot be changed, so they go unsaid.
	if h.HTTP == "" && h.TCP == "" {
		w.put("health", "none")
		return
	}
	w.open("health")
	defer w.close()
	if h.HTTP != "" {
		w.put("http", plain(h.HTTP))
	} else {
		w.put("tcp", plain(h.TCP))
	}
	if v := h.Version; v != nil && v.Header != "" {
		w.put("version", "{header: "+plain(v.Header)+"}")
	} else if v != nil {
		w.put("version", "{json: "+plain(v.JSON)+"}")
	}
	w.put("interval", short(h.Interval.D()))
	w.put("timeout", short(h.Timeout.D()))
	w.put("passes", strconv.Itoa(h.Passes))
	w.put("failures", strconv.Itoa(h.Failures))
	w.put("deadline", short(h.Deadline.D()))
}

// writer writes block mappings of one-line values.
type writer struct {
	out   bytes.Buffer
	depth int
}

func (w *writer) open(key string) {
	fmt.Fprintf(&w.out, "%s%s:\n", strings.Repeat("  ", w.depth), plain(key))
	w.depth++
}

func (w *writer) close() { w.depth-- }

func (w *writer) put(key, value string) {
	fmt.Fprintf(&w.out, "%s%s: %s\n", strings.Repeat("  ", w.depth), key, value)
}

func list[T any](items []T, write func(T) string) string {
	all := make([]string, len(items))
	for i, item := range items {
		all[i] = write(item)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

func mapping(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, plain(k)+": "+plain(m[k]))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// servers writes the names in a balancer, those of a node's instances together.
func servers(m map[Place]string) string {
	nodes := map[string]map[string]string{}
	for p, s := range m {
		if nodes[p.Node] == nil {
			nodes[p.Node] = map[string]string{}
		}
		nodes[p.Node][p.Instance] = s
	}
	var all []string
	for _, n := range slices.Sorted(maps.Keys(nodes)) {
		if s, single := nodes[n][""]; single {
			all = append(all, plain(n)+": "+plain(s))
		} else {
			all = append(all, plain(n)+": "+mapping(nodes[n]))
		}
	}
	return "{" + strings.Join(all, ", ") + "}"
}

func plainShare(s Share) string {
	if s.Percent == 0 {
		return s.String()
	}
	return plain(s.String())
}

func (s Secret) written() string {
	if s.env != "" {
		return "{env: " + plain(s.env) + "}"
	}
	return "{file: " + plain(s.file) + "}"
}

var (
	needsNoQuotes = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9._/@-]*$`)
	otherType     = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|y|n|null|none)$`)
)

// plain is s as a YAML string, in quotes unless it is a simple word.
func plain(s string) string {
	if needsNoQuotes.MatchString(s) && !otherType.MatchString(s) {
		return s
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic("config: a string cannot be written as JSON: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// short is a duration as people write it: 35m, not 35m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
