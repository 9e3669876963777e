package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func loadFull(t *testing.T) *Fleet {
	t.Helper()
	secretsInEnv(t)
	f, err := Load("testdata/valid.full.yaml")
	must(t, err)
	return f
}

func TestPools(t *testing.T) {
	edge := &Balancer{Name: "edge", MaxUnavailable: Share{Count: 2}}
	apps := []*App{
		{Name: "shop", Balancer: edge, MaxUnavailable: Share{Count: 2}},
		{Name: "edge", MaxUnavailable: Share{Count: 3}}, // named like the balancer, and no part of its pool
		{Name: "blog", Balancer: edge, MaxUnavailable: Share{Count: 2}},
	}
	f := &Fleet{Apps: apps, Balancers: []*Balancer{{Name: "spare"}, edge}}
	want := []Pool{
		{Name: "edge", Balancer: edge, Apps: []*App{apps[0], apps[2]}, MaxUnavailable: 2},
		{Name: "app:edge", Apps: []*App{apps[1]}, MaxUnavailable: 3},
	}
	if got := f.Pools(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}

func TestSpec(t *testing.T) {
	f := loadFull(t)
	shop, worker := f.App("shop"), f.App("worker")
	want := api.Spec{
		Repo:           "git@github.com:me/shop.git",
		SourceVia:      api.ViaCoordinator,
		Unit:           "shop.service",
		Restart:        api.RestartStopStart,
		RestartTimeout: api.Duration(90 * time.Second),
		Health: api.HealthCheck{
			TCP: "[fd00::11]:8080", Interval: api.Duration(500 * time.Millisecond), Timeout: api.Duration(time.Second),
			Passes: 5, Failures: 2, Deadline: api.Duration(20 * time.Minute),
		},
		Balancer: &api.Balancer{
			Name: "edge", Type: "haproxy", Via: api.ViaCoordinator, Endpoints: []string{"unix:///run/haproxy/admin.sock", "tcp://10.0.0.2:9999"},
			Backends: []string{"web", "web-admin"}, MinHealthy: 1, DrainTimeout: api.Duration(90 * time.Second),
			OnDrainTimeout: "abort", RejoinTimeout: api.Duration(2 * time.Minute),
		},
	}
	if got := shop.Spec(f.Node("web1")); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, expected %+v", got, want)
	}
	if s := worker.Spec(f.Node("web1")); s.Balancer != nil || s.Health.HTTP != "" || s.Health.TCP != "" || s.Health.Deadline != api.Duration(5*time.Minute) {
		t.Errorf("an app without balancer and checks: %+v", s)
	}
	if got := shop.Recipe(); len(got.Build) != 2 || got.Env["VERSION"] != "1.10" || got.Env["CGO_ENABLED"] != "0" || got.Timeout != api.Duration(time.Hour) {
		t.Errorf("recipe: %+v", got)
	}
	if shop.Server(Place{Node: "web2"}) != "srv2" || worker.Server(Place{Node: "web1"}) != "" || f.Balancer("edge").Server(Place{Node: "other"}) != "other" {
		t.Error("the names of servers in the balancer")
	}
	if on := f.AppsOn("web1"); len(on) != 2 || on[0] != shop || on[1] != worker {
		t.Errorf("apps on web1: %v", on)
	}
}

func TestReleaseID(t *testing.T) {
	const sha = "9c3e5a7f10d2b4868a6c4e2f0d1b3957799bbddf"
	r := api.Recipe{Build: []string{"make"}, Env: map[string]string{"A": "1", "B": "2"}, Timeout: api.Duration(time.Minute)}
	// Directories on nodes are named so: a change would rebuild every release.
	if got := ReleaseID(sha, r); got != "9c3e5a7f10d2-c25cb1" {
		t.Errorf("got %s", got)
	}
	same := r
	same.Env = map[string]string{"B": "2", "A": "1"}
	if ReleaseID(sha, same) != ReleaseID(sha, r) {
		t.Error("the order of variables makes another release")
	}
	same.Timeout, same.Limits = 0, &api.BuildLimits{Memory: 1}
	if ReleaseID(sha, same) != ReleaseID(sha, r) {
		t.Error("what the build may use up makes another release")
	}
	if ReleaseID(sha, api.Recipe{Build: []string{}, Env: map[string]string{}}) != ReleaseID(sha, api.Recipe{}) {
		t.Error("nothing and an empty list make two releases")
	}
	for name, change := range map[string]func(*api.Recipe){
		"build": func(r *api.Recipe) { r.Build = []string{"make", "test"} },
		"env":   func(r *api.Recipe) { r.Env = map[string]string{"A": "1"} },
		"key":   func(r *api.Recipe) { r.Secrets = []string{"NPM_TOKEN"} },
	} {
		other := r
		change(&other)
		if ReleaseID(sha, other) == ReleaseID(sha, r) {
			t.Errorf("another %s makes the same release", name)
		}
	}
}

func TestRevision(t *testing.T) {
	full := loadFull(t)
	first := full.Revision(full.App("shop"))
	for name, c := range map[string]struct {
		change  func(*App)
		another bool
	}{
		"nothing":       {func(*App) {}, false},
		"repo":          {func(a *App) { a.Repo = "git@github.com:me/shop2.git" }, true},
		"health":        {func(a *App) { a.Health.Passes++ }, true},
		"drain timeout": {func(a *App) { a.Balancer.DrainTimeout++ }, true},
		"no balancer":   {func(a *App) { a.Balancer = nil }, true},
		"server":        {func(a *App) { a.Balancer.Servers[Place{Node: "web1"}] = "other" }, true},
		"keep releases": {func(a *App) { a.KeepReleases++ }, true},
		"build":         {func(a *App) { a.Build = nil }, false}, // makes another release instead
		"retries":       {func(a *App) { a.Retries++ }, false},
		"branch":        {func(a *App) { a.Branch = "other" }, false},
	} {
		f := loadFull(t)
		a := f.App("shop")
		c.change(a)
		if got := f.Revision(a); (got != first) != c.another {
			t.Errorf("%s: another revision is %v, expected %v", name, got != first, c.another)
		}
	}
	full.Node("web1").Address = "10.0.0.99"
	if full.Revision(full.App("shop")) == first {
		t.Error("the agent of a node that moved is not told")
	}
}

func TestDefaultsThatDepend(t *testing.T) {
	f := loadFull(t)
	shop := f.App("shop")
	// A build of 1h, a health deadline of 20m, and a stop before a hook do not fit
	// the usual ones.
	if shop.PrepareTimeout != 65*time.Minute || shop.TargetTimeout != 31*time.Minute || shop.ProgressTimeout != 36*time.Minute {
		t.Errorf("prepare %s, target %s, progress %s", shop.PrepareTimeout, shop.TargetTimeout, shop.ProgressTimeout)
	}
	least, err := Load("testdata/valid.least.yaml")
	must(t, err)
	if h := least.App("hello"); h.PrepareTimeout != 35*time.Minute || h.TargetTimeout != 10*time.Minute || h.ProgressTimeout != 15*time.Minute || h.MaxUnavailable != (Share{Count: 1}) {
		t.Errorf("defaults: %+v", h)
	}
	// One target has no others that could be healthy.
	single := &loader{fleet: least, balancers: map[*Balancer]object{least.Balancers[0]: {value: value{r: &reader{}}}}}
	least.Apps[0].Nodes = []string{"web1"}
	single.checkPools()
	if least.Balancers[0].MinHealthy != 0 {
		t.Errorf("min_healthy of a single target: %d", least.Balancers[0].MinHealthy)
	}
}

func TestAgentsAreToldWhatTheyNeed(t *testing.T) {
	secretsInEnv(t)
	f, err := Load("testdata/valid.balancers.yaml")
	must(t, err)
	for app, want := range map[string]api.Balancer{
		"edge": {Type: "nginx", Nginx: &api.Nginx{File: "/etc/nginx/upstreams.conf"}},
		"shop": {Type: "nginx", Via: api.ViaCoordinator},
		"own": {Type: "exec", Exec: &api.Exec{Command: []string{"/etc/lockstep/balancer", "--name", "own one"}}, Idle: &api.Idle{
			Ports: []int{8080, 8443}, Ignore: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/32"), netip.MustParsePrefix("fd00::/8")}, Window: api.Duration(2 * time.Second)}},
		"pair":    {Type: "haproxy", Endpoints: []string{"tcp://10.0.0.1:9999", "tcp://10.0.0.2:9999"}, Backends: []string{"web"}, AllowUnreachable: 1},
		"bare":    {Type: "hetzner", Via: api.ViaCoordinator, Idle: &api.Idle{Ports: []int{8080}}},
		"lone":    {Type: "exec", Via: api.ViaCoordinator},
		"cloud":   {Type: "hetzner", Via: api.ViaCoordinator},
		"ocean":   {Type: "digitalocean", Via: api.ViaCoordinator},
		"caddy":   {Type: "caddy", Caddy: &api.Caddy{Endpoint: "unix:///run/caddy/admin.sock", Handlers: []string{"web"}}},
		"parking": {Type: "caddy", Via: api.ViaCoordinator},
	} {
		a := f.App(app)
		got := *a.Spec(f.Node("web1")).Balancer
		want.Name, want.MinHealthy, want.DrainTimeout, want.RejoinTimeout = app, got.MinHealthy, got.DrainTimeout, got.RejoinTimeout
		want.OnDrainTimeout = a.Balancer.OnDrainTimeout
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, expected %+v", app, got, want)
		}
	}
	if got := string(f.Balancer("cloud").Hetzner.Token.Bytes()); got != "the-secret-of-CLOUD-0123456789" {
		t.Errorf("the coordinator's token: %q", got)
	}
}

// Whoever speaks to a balancer himself knows all that is needed, whoever that is.
func TestHowToSpeakToABalancer(t *testing.T) {
	secretsInEnv(t)
	f, err := Load("testdata/valid.balancers.yaml")
	must(t, err)
	for name, want := range map[string]api.Balancer{
		"shop": {Nginx: &api.Nginx{
			File: "/etc/nginx/shop.conf", Upstreams: []string{"shop", "shop-admin"}, PIDFile: "/run/other.pid",
			Test: []string{"sudo", "nginx", "-t"}, Reload: []string{"systemctl", "reload", "nginx"}}},
		"lone":    {Exec: &api.Exec{Command: []string{"/etc/lockstep/balancer"}}},
		"parking": {Caddy: &api.Caddy{Endpoint: "http://127.0.0.1:2019", Handlers: []string{"web", "admin"}, Parked: "all"}},
		"private": {Cloud: &api.Cloud{
			LoadBalancer: "4711", Endpoint: "https://proxy.example/v1", Mode: "remove", IPs: map[string]string{"web1": "10.0.0.11", "web2": "fd00::12"}}},
		"gated": {Cloud: &api.Cloud{LoadBalancer: "front", Mode: "gate"}, Gate: &api.Gate{Port: 9101, Path: "/ready/gated", Refusal: 503}},
		"ocean": {Cloud: &api.Cloud{
			LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6", Mode: "remove", Droplets: map[string]int{"web1": 3164444, "web2": 3164445},
			Settle: api.Duration(15 * time.Second)}},
	} {
		b := f.Balancer(name)
		got := b.Direct()
		got = api.Balancer{Nginx: got.Nginx, Caddy: got.Caddy, Exec: got.Exec, Cloud: got.Cloud, Gate: got.Gate}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %+v, expected %+v, %+v", name, got, got.Cloud, want, want.Cloud)
		}
		if token := string(b.Token().Bytes()); (token == "the-secret-of-CLOUD-0123456789") != (want.Cloud != nil) {
			t.Errorf("%s: the token is %q", name, token)
		}
	}
}

func TestRevisionOfBalancers(t *testing.T) {
	secretsInEnv(t)
	for name, c := range map[string]struct {
		app     string
		change  func(*Balancer)
		another bool
	}{
		"another file":                 {"edge", func(b *Balancer) { b.Nginx.File = "/etc/nginx/other.conf" }, true},
		"another address":              {"edge", func(b *Balancer) { b.Servers[Place{Node: "web1"}] = "10.0.0.99:8080" }, true},
		"another command":              {"own", func(b *Balancer) { b.Exec.Command = []string{"/bin/other"} }, true},
		"another handler":              {"caddy", func(b *Balancer) { b.Caddy.Handlers = []string{"other"} }, true},
		"what the coordinator does":    {"shop", func(b *Balancer) { b.Nginx.File = "/etc/nginx/other.conf" }, false},
		"an address at the cloud":      {"private", func(b *Balancer) { b.Hetzner.IPs["web1"] = "10.0.0.99" }, false},
		"another name at the cloud":    {"cloud", func(b *Balancer) { b.Servers[Place{Node: "web1"}] = "other" }, true},
		"from coordinator to an agent": {"shop", func(b *Balancer) { b.Via = ViaAgent }, true},
	} {
		f, err := Load("testdata/valid.balancers.yaml")
		must(t, err)
		before := f.Revision(f.App(c.app))
		c.change(f.App(c.app).Balancer)
		if got := f.Revision(f.App(c.app)) != before; got != c.another {
			t.Errorf("%s: another revision is %v, expected %v", name, got, c.another)
		}
	}
}

func TestNginxElsewhereIsWarnedOf(t *testing.T) {
	secretsInEnv(t)
	f, err := Load("testdata/valid.balancers.yaml")
	must(t, err)
	if len(f.Warnings) != 1 || f.Warnings[0].Path != "balancers.edge.via" {
		t.Errorf("got %v, expected one, of the agents that edit nginx", f.Warnings)
	}
}

func TestInstances(t *testing.T) {
	secretsInEnv(t)
	f, err := Load("testdata/valid.instances.yaml")
	must(t, err)
	shop := f.App("shop")
	var where []string
	for _, p := range shop.Places() {
		where = append(where, p.String()+"="+shop.Server(p))
	}
	want := []string{"web1:8000=first", "web1:8001=web1-8001", "web1:8002=web1-8002", "web2:8000=web2-8000", "web2:8001=web2-8001", "web2:8002=web2-8002"}
	if !slices.Equal(where, want) {
		t.Errorf("targets in the order of rollouts: %v, expected %v", where, want)
	}
	if s := shop.Spec(f.Node("web2")); s.LastIf != "systemctl is-active --quiet primary.target" {
		t.Errorf("last_if: %q", s.LastIf)
	}
	g := shop.Goal(f.Node("web2"), "8001")
	if g.Unit != "shop@8001.service" || g.Health == nil || g.Health.HTTP != "http://[fd00::12]:8001/healthz" || g.Server != "web2-8001" {
		t.Errorf("goal: %+v, %+v", g, g.Health)
	}
	// Percentages are of each pool's targets, rounded down, and never of none.
	got := map[string]int{}
	for _, p := range f.Pools() {
		got[p.Name] = p.MaxUnavailable
	}
	if want := map[string]int{"edge": 3, "front": 1, "door": 1, "app:worker": 2}; !reflect.DeepEqual(got, want) {
		t.Errorf("max_unavailable: %v, expected %v", got, want)
	}
	if n := (Share{Percent: 10}).Of(5); n != 1 {
		t.Errorf("10%% of 5 are %d, expected 1", n)
	}
}

// Agents look at each other's gates, and an instance's is below its app's.
func TestGates(t *testing.T) {
	secretsInEnv(t)
	f, err := Load("testdata/valid.balancers.yaml")
	must(t, err)
	front := f.App("front")
	got := front.Spec(f.Node("web1")).Balancer.Gate
	want := &api.Gate{
		Port: 9101, Path: "/ready/front", Refusal: 404, Pollers: []string{"10.0.0.1/32", "fd00::/64"}, MinPollers: 2,
		Check: &api.BalancerCheck{Interval: api.Duration(2 * time.Second), Timeout: api.Duration(time.Second), Fall: 2, Rise: 3},
		Peers: map[string]string{"srv1": "http://10.0.0.11:9101/ready/front/status", "web2": "http://10.0.0.12:9101/ready/front/status"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if g := f.App("tagged").Spec(f.Node("web1")).Balancer.Gate; g.Check != nil || g.Peers != nil || g.Path != "/up" {
		t.Errorf("at a cloud, which tells how it checks and counts who serves: %+v", g)
	}
	front.Instances = []string{"8000", "8001"}
	spec := front.Spec(f.Node("web2"))
	one := spec.Of(front.Goal(f.Node("web2"), "8001"))
	if one.Balancer.Gate.Path != "/ready/front/8001" || spec.Balancer.Gate.Path != "/ready/front" {
		t.Errorf("an instance's gate is at %s, the app's at %s", one.Balancer.Gate.Path, spec.Balancer.Gate.Path)
	}
	if n := len(spec.Balancer.Gate.Peers); n != 4 {
		t.Errorf("%d gates, want those of all instances: %v", n, spec.Balancer.Gate.Peers)
	}
}

// Apps that share an HAProxy have backends of their own, and are one pool.
func TestBackendsOfAnApp(t *testing.T) {
	edge := &Balancer{Name: "edge", Type: "haproxy", HAProxy: &HAProxy{Backends: []string{"shop", "api"}}}
	f := &Fleet{Balancers: []*Balancer{edge}, Apps: []*App{
		{Name: "shop", Balancer: edge, Backends: []string{"shop"}, MaxUnavailable: Share{Count: 1}},
		{Name: "both", Balancer: edge, MaxUnavailable: Share{Count: 1}},
	}}
	for app, want := range map[string][]string{"shop": {"shop"}, "both": {"shop", "api"}} {
		if got := f.App(app).Spec(&Node{Address: "10.0.0.11"}).Balancer.Backends; !slices.Equal(got, want) {
			t.Errorf("%s is drained in %v, want %v", app, got, want)
		}
	}
	if pools := f.Pools(); len(pools) != 1 {
		t.Errorf("the apps are %d pools", len(pools))
	}
}
