package agent

import (
	"fmt"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
)

// NewBalancer makes the provider for one target of a balancer that this agent
// speaks to itself, by its type. It is the one place that knows every product.
func NewBalancer(b api.Balancer, server string) (lbclient.Provider, error) {
	switch b.Type {
	case "haproxy":
		return haproxy.New(haproxy.Config{Name: b.Name, Endpoints: b.Endpoints, Backends: b.Backends, Server: server})
	}
	return nil, &lbclient.Error{
		Class: lbclient.ClassUnsupported, Op: "use balancer " + b.Name,
		Text: fmt.Sprintf("this agent knows no balancer of type %q; update deploy-agent", b.Type),
	}
}

// provider makes the provider for one of the app's targets; one that cannot be
// made fails at every use, which ends a turn with the reason.
func (p *app) provider(b *api.Balancer, target, server string) lbclient.Provider {
	if b == nil {
		return activate.NoBalancer(server)
	}
	lb, err := p.open(*b, target, server)
	if err != nil {
		return activate.Broken(err)
	}
	return lb
}

func (p *app) open(b api.Balancer, target, server string) (lbclient.Provider, error) {
	switch {
	case b.Via == api.ViaAgent:
		return p.a.deps.Balancer(b, server)
	case b.Via == api.ViaCoordinator && p.a.deps.Broker != nil:
		return NewBrokered(p.a.deps.Broker, b.Name, p.a.cfg.Name, p.name, target), nil
	}
	return nil, &lbclient.Error{
		Class: lbclient.ClassUnsupported, Op: "use balancer " + b.Name,
		Text: fmt.Sprintf("this agent cannot speak to it via %q; update deploy-agent", b.Via),
	}
}
