package coordinator

import (
	"fmt"
	"log/slog"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
)

// product is what the coordinator knows of one type of balancer.
type product struct {
	// open makes the provider for one target.
	open func(b *config.Balancer, server string) (lbclient.Provider, error)
	// sameView and readsPerSecond are as in [broker.Balancer].
	sameView       bool
	readsPerSecond float64
}

// products are the types of balancers to which the coordinator can speak.
var products = map[string]product{
	"haproxy": {
		open: func(b *config.Balancer, server string) (lbclient.Provider, error) {
			return haproxy.New(haproxy.Config{Name: b.Name, Endpoints: b.Endpoints, Backends: b.Backends, Server: server})
		},
		sameView: true,
	},
}

// newBroker prepares the broker for every balancer with via: coordinator.
func newBroker(f *config.Fleet, engine broker.Engine, log *slog.Logger) (*broker.Broker, error) {
	cfg := broker.Config{Engine: engine, Log: log}
	for _, b := range f.Balancers {
		if b.Via != config.ViaCoordinator {
			continue
		}
		p, ok := products[b.Type]
		if !ok {
			return nil, fmt.Errorf("cannot speak to balancer %s: the coordinator knows no type %q; write via: agent", b.Name, b.Type)
		}
		cfg.Balancers = append(cfg.Balancers, broker.Balancer{
			Name: b.Name, MinHealthy: b.MinHealthy, SameView: p.sameView, ReadsPerSecond: p.readsPerSecond,
			Server: b.Server,
			Open:   func(server string) (lbclient.Provider, error) { return p.open(b, server) },
		})
	}
	for _, a := range f.Apps {
		if a.Balancer == nil {
			continue
		}
		servers := map[string]string{}
		for _, n := range a.Nodes {
			servers[n] = a.Server(n)
		}
		cfg.Apps = append(cfg.Apps, broker.App{Name: a.Name, Balancer: a.Balancer.Name, Servers: servers})
	}
	return broker.New(cfg), nil
}
