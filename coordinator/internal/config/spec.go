package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Recipe is what, with a commit, makes a release of the app.
func (a *App) Recipe() api.Recipe {
	limits := a.BuildLimits
	r := api.Recipe{
		Build: a.Build, Env: a.Env, Timeout: api.Duration(a.BuildTimeout), Artifact: a.Artifact,
		Secrets: a.Secrets, Limits: &limits, ReleaseCommand: a.ReleaseCommand, Hooks: a.Hooks, Run: a.run(), Shared: a.Shared,
		HealthPath: a.HealthPath,
	}
	if len(a.ReleaseCommand) > 0 {
		r.ReleaseTimeout = api.Duration(a.ReleaseTimeout)
	}
	return r
}

// Spec is how the app runs on a node, whatever the release.
func (a *App) Spec(n *Node) api.Spec {
	s := api.Spec{Repo: a.Repo, Unit: a.Unit, RestartTimeout: api.Duration(a.RestartTimeout), Health: a.Health, LastIf: a.LastIf}
	s.Generated = a.Generated()
	if a.Restart != "restart" {
		s.Restart = a.Restart
	}
	if a.Source.Via == ViaCoordinator {
		s.SourceVia = api.ViaCoordinator
	}
	s.Health.HTTP = withAddress(s.Health.HTTP, n.Address)
	s.Health.TCP = withAddress(s.Health.TCP, n.Address)
	if b := a.Balancer; b != nil {
		s.Balancer = b.spec()
		if a.Backends != nil {
			s.Balancer.Backends = a.Backends
		}
		if b.Gate != nil {
			s.Balancer.Gate = b.Gate.spec(a)
		}
	}
	return s
}

// spec is what agents are told. How to speak to a balancer is told to those who
// do; HAProxy's place always was.
func (b *Balancer) spec() *api.Balancer {
	s := b.Direct()
	if b.Via == ViaCoordinator {
		s.Via = api.ViaCoordinator
		s.Nginx, s.Caddy, s.Exec, s.Cloud = nil, nil, nil, nil
	}
	return &s
}

// Direct is what somebody must know who speaks to the balancer himself, besides
// [Balancer.Token]. The gate that a cloud polls is that of its only app.
func (b *Balancer) Direct() api.Balancer {
	s := api.Balancer{
		Name:           b.Name,
		Type:           b.Type,
		MinHealthy:     b.MinHealthy,
		DrainTimeout:   api.Duration(b.DrainTimeout),
		OnDrainTimeout: b.OnDrainTimeout,
		RejoinTimeout:  api.Duration(b.RejoinTimeout),
		Nginx:          b.Nginx,
		Caddy:          b.Caddy,
		Exec:           b.Exec,
	}
	if i := b.Idle; i != nil {
		s.Idle = &api.Idle{Ports: i.Ports, Ignore: i.Ignore, Window: api.Duration(i.Window)}
	}
	if h := b.HAProxy; h != nil {
		s.Endpoints, s.Backends, s.AllowUnreachable = h.Endpoints, h.Backends, h.AllowUnreachable
	}
	if g := b.Gate; g != nil {
		s.Gate = &api.Gate{Port: g.Port, Path: g.Path, Refusal: g.Refusal}
	}
	switch {
	case b.Hetzner != nil:
		h := b.Hetzner
		s.Cloud = &api.Cloud{LoadBalancer: h.LoadBalancer, Endpoint: h.Endpoint, Mode: h.Mode}
		for node, ip := range h.IPs {
			if s.Cloud.IPs == nil {
				s.Cloud.IPs = map[string]string{}
			}
			s.Cloud.IPs[b.Server(Place{Node: node})] = ip
		}
	case b.DigitalOcean != nil:
		d := b.DigitalOcean
		s.Cloud = &api.Cloud{
			LoadBalancer: d.LoadBalancer, Endpoint: d.Endpoint, Mode: d.Mode, Droplets: d.Droplets, Settle: api.Duration(d.Settle),
		}
	}
	return s
}

// Token is what a cloud asks for; empty for any other balancer.
func (b *Balancer) Token() Secret {
	switch {
	case b.Hetzner != nil:
		return b.Hetzner.Token
	case b.DigitalOcean != nil:
		return b.DigitalOcean.Token
	}
	return Secret{}
}

// Goal is what tells one of the app's targets from the others on its node, apart
// from what a rollout wants of it.
func (a *App) Goal(n *Node, instance string) api.Goal {
	g := api.Goal{Instance: instance, Server: a.Server(Place{n.Name, instance})}
	if instance != "" {
		h := a.healthOf(n, instance)
		g.Unit, g.Health = a.UnitOf(instance), &h
	}
	return g
}

// Server is the name of the app's target at a place in its balancer, "" without
// a balancer.
func (a *App) Server(p Place) string {
	if a.Balancer == nil {
		return ""
	}
	return a.Balancer.Server(p)
}

// Revision changes exactly when the app's agents must be told something new
// that no release brings: a spec, a target, the name of a server, or how many
// releases to keep.
func (f *Fleet) Revision(a *App) string {
	specs, servers := map[string]api.Spec{}, map[string]string{}
	for _, n := range a.Nodes {
		specs[n] = a.Spec(f.Node(n))
	}
	for _, p := range a.Places() {
		servers[p.String()] = a.Server(p)
	}
	return digest(struct {
		Specs        map[string]api.Spec
		Servers      map[string]string
		KeepReleases int
	}{specs, servers, a.KeepReleases}, 12)
}

// ReleaseID is the id of the release that a recipe makes of a commit: the first
// 12 digits of each full SHA, and 6 that stand for the recipe. How long the
// build or the release command may take, and what they may use up, makes no other
// release.
func ReleaseID(sha string, r api.Recipe) string {
	r.Timeout, r.Limits, r.ReleaseTimeout = 0, nil, 0
	if r.Hooks != nil {
		h := *r.Hooks
		h.Timeout = 0
		r.Hooks = &h
	}
	return sha[:min(12, len(sha))] + "-" + digest(r, 6)
}

// digest is the first digits of the SHA-256 of v's JSON, whose maps are sorted.
func digest(v any, digits int) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("config: plain data cannot be written as JSON: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])[:digits]
}
