package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/product"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/quiesce"
)

// openWith makes providers with the tokens for the clouds' balancers.
func openWith(token func(balancer string) (string, error)) func(b api.Balancer, node, server string) (lbclient.Provider, error) {
	return func(b api.Balancer, node, server string) (lbclient.Provider, error) {
		return product.Open(b, node, server, func() (string, error) { return token(b.Name) })
	}
}

// providers makes the provider for one of the app's targets; one that cannot be
// made fails at every use, which ends a turn with the reason. gate is the target's
// gate alone where that stands beside a balancer to which the coordinator speaks;
// nil otherwise. check tells, at any time, how a gate is to ask the release that
// runs.
func (p *app) providers(spec api.Spec, target, server string, check func() api.HealthCheck) (lb, gate lbclient.Provider) {
	b := spec.Balancer
	if b == nil {
		return activate.NoBalancer(server), nil
	}
	lb, err := p.open(spec, target, server, check)
	if err == nil && b.Gate != nil && b.Type != typeGate {
		// The balancer first: it counts who else serves, and refuses.
		timed, _ := lb.(lbclient.Timed)
		if gate, err = p.a.newGate(spec, target, server, check, timed); err == nil {
			lb = lbclient.Multi(lb, gate)
		}
	}
	if err == nil {
		lb, err = watched(lb, *b, health.FromAPI(spec.Health))
	}
	if err != nil {
		return activate.Broken(err), nil
	}
	return lb, gate
}

// typeGate is a balancer that is spoken to by nothing but the gates.
const typeGate = "gate"

func (p *app) open(spec api.Spec, target, server string, check func() api.HealthCheck) (lbclient.Provider, error) {
	b := *spec.Balancer
	switch {
	case b.Type == typeGate && b.Gate != nil:
		return p.a.newGate(spec, target, server, check, nil)
	case b.Via == api.ViaAgent:
		return p.a.deps.Balancer(b, p.a.cfg.Name, server)
	case b.Via == api.ViaCoordinator && p.a.deps.Broker != nil:
		return NewBrokered(p.a.deps.Broker, b.Name, p.a.cfg.Name, p.name, target), nil
	}
	return nil, &lbclient.Error{
		Class: lbclient.ClassUnsupported, Op: "use balancer " + b.Name,
		Text: fmt.Sprintf("this agent cannot speak to it via %q; update deploy-agent", b.Via),
	}
}

// quietWindow is how long a target must have been silent to be idle.
const quietWindow = 3 * time.Second

// watched adds what the kernel knows of connections to the target to a balancer
// that does not know what is in flight. The port is that of the health check, unless
// fleet.yaml names others.
// Nginx needs no help: its drain is idle when every process that could still
// send work has ended.
func watched(lb lbclient.Provider, b api.Balancer, check health.Check) (lbclient.Provider, error) {
	switch b.Type {
	case "caddy", "exec", typeGate, "hetzner", "digitalocean":
	default:
		return lb, nil
	}
	idle := b.Idle
	if idle == nil {
		idle = &api.Idle{}
	}
	var ports []uint16
	for _, n := range idle.Ports {
		ports = append(ports, uint16(n)) // 1 to 65535, as config has it
	}
	if port := check.Port(); len(ports) == 0 && port != 0 {
		ports = []uint16{port}
	}
	if len(ports) == 0 || lbclient.CapsOf(lb).InFlight {
		return lb, nil
	}
	quiet := quietWindow
	if idle.Window > 0 {
		quiet = idle.Window.D()
	}
	return quiesce.Wrap(lb, quiesce.Config{
		Ports: ports, Ignore: idle.Ignore, Address: ownLoopback(check.Address()), Quiet: quiet, Own: health.Own,
		// Nobody knows where the balancer behind a program checks.
		ChecksOnPort: b.Type == "exec",
	})
}

// ownLoopback is the address where it is a loopback address that somebody gave
// one target, such as 127.0.0.12, to tell it from others on the machine; else
// the zero value. An app that is checked at 127.0.0.1, or at its address in a
// private network, may well get its work at another one.
func ownLoopback(a netip.Addr) netip.Addr {
	if !a.IsLoopback() || a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback() {
		return netip.Addr{}
	}
	return a
}
