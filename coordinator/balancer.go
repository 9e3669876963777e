package coordinator

import (
	"fmt"
	"log/slog"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/product"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// cloudReads spares the hourly limits of clouds, 3600 calls at the strictest:
// a fleet at rest asks far less often, and a rollout is soon over.
const cloudReads = 2

// products are the types of balancers to which the coordinator can speak, with
// what is as in [broker.Balancer].
var products = map[string]struct {
	sameView       bool
	readsPerSecond float64
}{
	"haproxy":      {sameView: true},
	"nginx":        {},
	"caddy":        {},
	"exec":         {},
	"hetzner":      {readsPerSecond: cloudReads},
	"digitalocean": {readsPerSecond: cloudReads},
}

// open makes the provider for the target that a balancer knows by the name.
func open(f *config.Fleet, b *config.Balancer, server string) (lbclient.Provider, error) {
	return product.Open(b.Direct(), nodeOf(f, b, server), server, func() (string, error) { return string(b.Token().Bytes()), nil })
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
			Open:        func(server string) (lbclient.Provider, error) { return open(f, b, server) },
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
