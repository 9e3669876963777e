package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	writeHealth   = `{http: "http://127.0.0.1:8080/healthz"}, {tcp: "127.0.0.1:8080"}, or none to do without`
	writeBalancer = "the name of a balancer, or none to do without"
)

func (l *loader) readApp(name string, v value) {
	o, ok := v.object("repo, branch, nodes, unit, health and balancer", "repo", "branch", "nodes", "instances", "order", "build", "unit", "run", "env_run", "run_memory", "restart", "health",
		"balancer", "backends", "env", "secrets", "build_limits", "build_timeout", "restart_timeout", "soak", "canary", "target_timeout", "progress_timeout",
		"prepare_timeout", "retries", "retry_backoff", "auto_rollback", "keep_releases", "force_push", "max_unavailable",
		"build_on", "build_skew", "artifact", "release_command", "release_command_timeout", "hooks", "shared", "recipe", "source")
	if !ok {
		return
	}
	a := &App{Name: name}
	l.fleet.Apps = append(l.fleet.Apps, a)
	l.apps[a] = o

	if v, ok := o.need("repo", writeRepo); ok {
		if a.Repo, ok = v.text(writeRepo); ok {
			if wrong := badRepo(a.Repo); wrong != "" {
				v.fail("%s", wrong)
			} else if strings.HasPrefix(a.Repo, "http://") || strings.HasPrefix(a.Repo, "git://") {
				v.warn("what comes over this connection can be changed on its way; write https:// or ssh://")
			}
		}
	}
	a.Source.Via = ViaAgent
	if v, ok := o.get("source"); ok {
		a.readSource(v)
	}
	if v, ok := o.need("branch", "main"); ok {
		if a.Branch, ok = v.text("main"); ok {
			if wrong := badBranch(a.Branch); wrong != "" {
				v.fail("%s", wrong)
			}
		}
	}
	if v, ok := o.need("nodes", "[web1]"); ok {
		for _, item := range v.items("[web1]") {
			if n, ok := item.text("the name of a node"); ok {
				if l.fleet.Node(n) == nil {
					item.fail("there is no node %s; %s", quoted(n), l.nodesThereAre())
				}
				if slices.Contains(a.Nodes, n) {
					item.fail("node %s is given twice; remove one", quoted(n))
					continue
				}
				a.Nodes = append(a.Nodes, n)
			}
		}
	}
	l.readInstances(a, o)
	if v, ok := o.get("order"); ok {
		a.readOrder(v)
	}
	if v, ok := o.get("build"); ok {
		a.Build = v.commands()
	}
	if v, ok := o.get("env"); ok {
		a.Env = v.environment()
	}
	a.readArtifact(o)
	a.readReleaseCommand(o)
	a.Restart = o.word("restart", "restart", api.RestartReload, api.RestartStopStart)
	a.readHooks(o)
	a.readShared(o)
	a.readRecipeFile(o)
	a.readBuild(o)
	a.readUnit(o)
	a.Health = defaultHealth
	if v, ok := o.need("health", writeHealth); ok {
		a.Health = v.health()
	}
	a.checkHealthPath(o)
	if v, ok := o.need("balancer", writeBalancer); ok {
		l.readAppBalancer(a, v)
	}
	if v, ok := o.get("backends"); ok {
		a.readBackends(v)
	}
	l.checkInstances(a, o)
	a.MaxUnavailable = o.share("max_unavailable")
	if v, ok := o.get("max_unavailable"); ok && a.Balancer != nil {
		v.fail("a pool behind a balancer has one limit; write it at balancers.%s", a.Balancer.Name)
	}
	a.Retries = o.count("retries", 2, 0, 100)
	a.RetryBackoff = o.duration("retry_backoff", 10*second, 0, day)
	a.AutoRollback = o.flag("auto_rollback", true)
	a.KeepReleases = o.count("keep_releases", 5, 1, 1000)
	a.ForcePush = ForcePush(o.word("force_push", string(ForcePushRefuse), string(ForcePushDeploy)))
	a.readTimes(o)
}

// readOrder reads what decides who goes when, apart from the canary.
func (a *App) readOrder(v value) {
	const write = "a command that succeeds on the node to be rolled last"
	o, ok := v.object(`{last_if: "/usr/local/bin/is-primary"}`, "last_if")
	if !ok {
		return
	}
	if v, ok := o.need("last_if", write); ok {
		if a.LastIf, ok = v.text(write); ok && (strings.TrimSpace(a.LastIf) == "" || strings.Contains(a.LastIf, "\x00")) {
			v.fail("expected a command, got %s", quoted(a.LastIf))
		}
	}
}

func (l *loader) readAppBalancer(a *App, v value) {
	if v.is("none") {
		return
	}
	name, ok := v.text(writeBalancer)
	if !ok {
		return
	}
	if a.Balancer = l.fleet.Balancer(name); a.Balancer != nil {
		return
	}
	var names []string
	for _, b := range l.fleet.Balancers {
		names = append(names, b.Name)
	}
	if len(names) == 0 {
		v.fail("there is no balancer %s; add it to balancers, or write none", quoted(name))
	} else {
		v.fail("there is no balancer %s; write %s, or none", quoted(name), either(names))
	}
}

// readTimes reads the durations. The default of one that holds others is as
// long as they need.
func (a *App) readTimes(o object) {
	a.BuildTimeout = o.duration("build_timeout", 30*minute, second, day)
	a.RestartTimeout = o.duration("restart_timeout", 90*second, second, day)
	a.Soak = o.duration("soak", 10*second, 0, day)
	soak := a.Soak
	if v, ok := o.get("canary"); ok {
		if c, ok := v.object("{node: web1, soak: 1m}", "node", "soak"); ok {
			a.Canary = &Canary{Soak: c.duration("soak", minute, 0, day)}
			soak = max(soak, a.Canary.Soak)
			if v, ok := c.need("node", "one of the app's nodes"); ok {
				a.Canary.Node, ok = v.text("one of the app's nodes")
				if ok && len(a.Nodes) > 0 && !slices.Contains(a.Nodes, a.Canary.Node) {
					v.fail("%s is none of the app's nodes; write %s", quoted(a.Canary.Node), either(a.Nodes))
				}
			}
		}
	}

	prepare := a.BuildTimeout
	a.PrepareTimeout = o.duration("prepare_timeout", max(35*minute, prepare+5*minute), second, 7*day)
	if v, ok := o.get("prepare_timeout"); ok && a.PrepareTimeout < prepare {
		v.warn("%s is over before build_timeout is; write more than %s", short(a.PrepareTimeout), short(prepare))
	}

	turn := a.RestartTimeout + a.Health.Deadline.D() + soak + a.hookTime()
	if b := a.Balancer; b != nil {
		turn += b.DrainTimeout + b.RejoinTimeout
	}
	a.TargetTimeout = o.duration("target_timeout", max(10*minute, roundUp(turn+minute)), second, 7*day)
	if v, ok := o.get("target_timeout"); ok && a.TargetTimeout < turn {
		v.warn("%s is over before drain, restart, health deadline, rejoin and soak can be; write %s or more", short(a.TargetTimeout), short(roundUp(turn)))
	}
	a.ProgressTimeout = o.duration("progress_timeout", max(15*minute, a.TargetTimeout+5*minute), second, 7*day)
	if v, ok := o.get("progress_timeout"); ok && a.ProgressTimeout < a.TargetTimeout {
		v.warn("%s is over before one target's target_timeout is; write more than %s", short(a.ProgressTimeout), short(a.TargetTimeout))
	}
}

func roundUp(d time.Duration) time.Duration {
	return (d + minute - 1).Truncate(minute)
}

var defaultHealth = api.HealthCheck{
	Interval: api.Duration(second),
	Timeout:  api.Duration(3 * second),
	Passes:   3,
	Failures: 3,
	Deadline: api.Duration(5 * minute),
}

func (v value) health() api.HealthCheck {
	h := defaultHealth
	if v.is("none") {
		return h
	}
	o, ok := v.object(writeHealth, "http", "tcp", "version", "interval", "timeout", "passes", "failures", "deadline")
	if !ok {
		return h
	}
	web, hasHTTP := o.get("http")
	tcp, hasTCP := o.get("tcp")
	switch {
	case hasHTTP == hasTCP:
		v.fail("expected one of http and tcp; write %s", writeHealth)
	case hasHTTP:
		if h.HTTP, ok = web.text("http://127.0.0.1:8080/healthz"); ok && !isWebURL(withInstance(withAddress(h.HTTP, defaultAddress), "80")) {
			web.fail("expected an http or https URL without user or fragment; write http://127.0.0.1:8080/healthz")
		}
	case hasTCP:
		if h.TCP, ok = tcp.text("127.0.0.1:8080"); ok && !isHostPort(withInstance(withAddress(h.TCP, defaultAddress), "80"), false) {
			tcp.fail("expected host:port, got %s; write 127.0.0.1:8080", quoted(h.TCP))
		}
	}
	if v, ok := o.get("version"); ok {
		h.Version = v.version()
		if hasTCP {
			v.fail("a connection does not tell a version; write health: {http: …}, or leave version out")
		}
	}
	h.Interval = api.Duration(o.duration("interval", h.Interval.D(), 10*time.Millisecond, time.Hour))
	h.Timeout = api.Duration(o.duration("timeout", h.Timeout.D(), 10*time.Millisecond, time.Hour))
	h.Passes = o.count("passes", h.Passes, 1, 1000)
	h.Failures = o.count("failures", h.Failures, 1, 1000)
	h.Deadline = api.Duration(o.duration("deadline", h.Deadline.D(), 100*time.Millisecond, day))
	if least := time.Duration(h.Passes-1) * h.Interval.D(); h.Deadline.D() <= least {
		d, _ := o.get("deadline")
		d.fail("%d passes, one every %s, take longer than the deadline of %s; write more than %s", h.Passes, short(h.Interval.D()), short(h.Deadline.D()), short(least))
	}
	return h
}

// version reads where an app's answer says which version it is.
func (v value) version() *api.Version {
	const write = "{header: X-Version} or {json: version}"
	o, ok := v.object(write, "header", "json")
	if !ok {
		return nil
	}
	header, hasHeader := o.get("header")
	field, hasJSON := o.get("json")
	w := &api.Version{}
	switch {
	case hasHeader == hasJSON:
		v.fail("expected one of header and json; write %s", write)
	case hasHeader:
		if w.Header, ok = header.text("the name of a header, such as X-Version"); ok && !headerName.MatchString(w.Header) {
			header.fail("expected the name of a header, such as X-Version, got %s", quoted(w.Header))
		}
	case hasJSON:
		if w.JSON, ok = field.text("the name of a field, such as version"); ok && !fieldName.MatchString(w.JSON) {
			field.fail("expected the name of a field, with dots between those of objects within objects, such as build.sha, got %s", quoted(w.JSON))
		}
	}
	return w
}

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")
	fieldName  = regexp.MustCompile(`^[^.\x00-\x1f\x7f]{1,100}(\.[^.\x00-\x1f\x7f]{1,100}){0,9}$`)
)

// withAddress puts a node's address in the place of "{address}", in brackets
// where it is an IPv6 one.
func withAddress(s, address string) string {
	if ip, err := netip.ParseAddr(address); err == nil && ip.Is6() {
		address = "[" + address + "]"
	}
	return strings.ReplaceAll(s, "{address}", address)
}

// isHost tells whether s is an IP address or a host name.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return isHostPort(s+":1", false)
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	return u.Port() == "" || isHostPort(u.Host, false)
}

func (v value) commands() []string {
	const write = `["go build -o bin/app ."]`
	if s, ok := v.node.(*ast.SequenceNode); ok && len(s.Values) == 0 {
		return nil
	}
	return v.list(write, "a command", isCommand)
}

// list reads a list of distinct strings, or of commands, which may repeat.
func (v value) list(write, what string, fit func(string) bool) []string {
	var all []string
	for _, item := range v.items(write) {
		s, ok := item.text(what)
		if !ok {
			continue
		}
		if !fit(s) {
			item.fail("expected %s, got %s", what, quoted(s))
		}
		if what != "a command" && slices.Contains(all, s) {
			item.fail("%s is given twice; remove one", quoted(s))
		}
		all = append(all, s)
	}
	return all
}

// environment reads the variables of a build. A number is taken as it is
// spelled; true and null must be quoted, since YAML has several spellings.
func (v value) environment() map[string]string {
	o, ok := v.object("{NAME: value}")
	if !ok {
		return nil
	}
	env := map[string]string{}
	for _, name := range o.keys {
		if !isEnvName(name) {
			o.places[name].fail("expected the name of an environment variable, of letters, digits and underscores")
			continue
		}
		if isOwn(name) {
			o.places[name].fail("expected a name that does not begin with %s: those are set by Lockstep; write another one, or leave it out", ownPrefix)
			continue
		}
		v := o.values[name]
		switch n := v.node.(type) {
		case *ast.StringNode:
			env[name] = n.Value
		case *ast.LiteralNode:
			env[name] = n.Value.Value
		case *ast.IntegerNode, *ast.FloatNode:
			env[name] = n.GetToken().Value
		default:
			v.fail("expected a string, got %s; write it in quotes", v.what())
		}
		if strings.Contains(env[name], "\x00") {
			v.fail("a variable cannot hold a zero byte")
		}
	}
	return env
}

// checkUnits finds apps that would restart each other.
func (l *loader) checkUnits() {
	for i, a := range l.fleet.Apps {
		for _, b := range l.fleet.Apps[:i] {
			i := slices.IndexFunc(a.units(), func(u string) bool { return slices.Contains(b.units(), u) })
			if a.Unit == "" || i < 0 {
				continue
			}
			var both []string
			for _, n := range a.Nodes {
				if slices.Contains(b.Nodes, n) {
					both = append(both, n)
				}
			}
			if len(both) > 0 {
				v, own := l.apps[a].get("unit")
				if !own {
					v, _ = l.apps[a].get("run")
				}
				v.fail("%s is also the unit of app %s on %s; give each app its own", a.units()[i], b.Name, strings.Join(both, ", "))
			}
		}
	}
}

func (l *loader) nodesThereAre() string {
	names := map[string]bool{}
	for _, n := range l.fleet.Nodes {
		names[n.Name] = true
	}
	if len(names) == 0 {
		return "add it to nodes"
	}
	return fmt.Sprintf("add it to nodes, or write %s", either(slices.Sorted(maps.Keys(names))))
}
