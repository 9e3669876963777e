package coordinator

import (
	"fmt"
	"log/slog"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/exec"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
)

// product is what the coordinator knows of one type of balancer.
type product struct {
	// open makes the provider for one target on a node.
	open func(b *config.Balancer, node, server string) (lbclient.Provider, error)
	// sameView and readsPerSecond are as in [broker.Balancer].
	sameView       bool
	readsPerSecond float64
}

// cloudReads spares the hourly limits of clouds, 3600 calls at the strictest:
// a fleet at rest asks far less often, and a rollout is soon over.
const cloudReads = 2

// products are the types of balancers to which the coordinator can speak.
var products = map[string]product{
	"haproxy": {
		open: func(b *config.Balancer, _, server string) (lbclient.Provider, error) {
			return haproxy.New(haproxy.Config{
				Name: b.Name, Endpoints: b.HAProxy.Endpoints, Backends: b.HAProxy.Backends, Server: server, AllowUnreachable: b.HAProxy.AllowUnreachable,
			})
		},
		sameView: true,
	},
	"nginx": {open: func(b *config.Balancer, _, server string) (lbclient.Provider, error) {
		n := b.Nginx
		return nginx.New(nginx.Config{
			Name: b.Name, Server: server, File: n.File, Upstreams: n.Upstreams, PIDFile: n.PIDFile, Test: n.Test, Reload: n.Reload,
		})
	}},
	"caddy": {open: func(b *config.Balancer, _, server string) (lbclient.Provider, error) {
		return caddy.New(caddy.Config{Name: b.Name, Server: server, Endpoint: b.Caddy.Endpoint, Handlers: b.Caddy.Handlers, Parked: b.Caddy.Parked})
	}},
	"exec": {open: func(b *config.Balancer, node, server string) (lbclient.Provider, error) {
		return exec.New(exec.Config{Name: b.Name, Node: node, Server: server, Command: b.Exec.Command})
	}},
	"hetzner":      {open: openHetzner, readsPerSecond: cloudReads},
	"digitalocean": {open: openDigitalOcean, readsPerSecond: cloudReads},
}

func openHetzner(b *config.Balancer, node, server string) (lbclient.Provider, error) {
	h := b.Hetzner
	c := hetzner.Config{
		Name: b.Name, LoadBalancer: h.LoadBalancer, Token: string(h.Token.Bytes()), Endpoint: h.Endpoint,
		Server: server, Mode: hetzner.Mode(h.Mode), IP: h.IPs[node], Names: map[string]string{},
	}
	for node, ip := range h.IPs {
		c.Names[ip] = b.Server(config.Place{Node: node})
	}
	if g := b.Gate; g != nil {
		c.GatePort, c.GatePath, c.GateStatus = g.Port, g.Path, g.Refusal
	}
	return hetzner.New(c)
}

func openDigitalOcean(b *config.Balancer, _, server string) (lbclient.Provider, error) {
	d := b.DigitalOcean
	c := digitalocean.Config{
		Name: b.Name, LoadBalancer: d.LoadBalancer, Token: string(d.Token.Bytes()), Endpoint: d.Endpoint,
		Target: server, Mode: digitalocean.Mode(d.Mode), Droplets: d.Droplets, Settle: d.Settle,
	}
	if g := b.Gate; g != nil {
		c.GatePort, c.GatePath = g.Port, g.Path
	}
	return digitalocean.New(c)
}

// nodeOf is the node whose target a balancer knows by the name; the name itself
// when it is that of a target which the configuration names no more.
func nodeOf(f *config.Fleet, b *config.Balancer, server string) string {
	for _, a := range f.Apps {
		if a.Balancer != b {
			continue
		}
		for _, p := range a.Places() {
			if b.Server(p) == server {
				return p.Node
			}
		}
	}
	for p, s := range b.Servers {
		if s == server {
			return p.Node
		}
	}
	return server
}

// newBroker prepares the broker for every balancer with via: coordinator, and the
// way back for those that had it when a turn began and have it no more.
func newBroker(f *config.Fleet, engine broker.Engine, log *slog.Logger) (*broker.Broker, error) {
	cfg := broker.Config{Engine: engine, Log: log}
	for _, b := range f.Balancers {
		left := b.Via != config.ViaCoordinator
		p, ok := products[b.Type]
		if !ok && left {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("cannot speak to balancer %s: the coordinator knows no type %q; write via: agent", b.Name, b.Type)
		}
		cfg.Balancers = append(cfg.Balancers, broker.Balancer{
			Name: b.Name, MinHealthy: b.MinHealthy, SameView: p.sameView, ReadsPerSecond: p.readsPerSecond,
			WayBackOnly: left,
			Server:      func(node, instance string) string { return b.Server(config.Place{Node: node, Instance: instance}) },
			Open:        func(server string) (lbclient.Provider, error) { return p.open(b, nodeOf(f, b, server), server) },
		})
	}
	for _, a := range f.Apps {
		if a.Balancer == nil {
			continue
		}
		servers := map[rollout.TargetID]string{}
		for _, p := range a.Places() {
			servers[rollout.TargetName(a.Name, p.Node, p.Instance)] = a.Server(p)
		}
		cfg.Apps = append(cfg.Apps, broker.App{Name: a.Name, Balancer: a.Balancer.Name, Servers: servers})
	}
	return broker.New(cfg), nil
}
