package config

import (
	"net/netip"
	"slices"
	"time"
)

// Idle says how an agent tells from connections that nothing is in flight.
type Idle struct {
	Ports  []int          // on which targets take work; empty: that of the health check
	Ignore []netip.Prefix // whose connections are no traffic
	Window time.Duration  // of silence; 0: the agent's own
}

// countsItself are the types that need no help to tell what is in flight.
var countsItself = []string{"haproxy", "nginx"}

// forces are the types that can have means to end work by force.
var forces = []string{"haproxy", "exec"}

// readDraining reads how the drains of a balancer end.
func (l *loader) readDraining(b *Balancer, o object) {
	b.DrainTimeout = o.duration("drain_timeout", 30*second, 0, day)
	b.OnDrainTimeout = o.word("on_drain_timeout", "proceed", "abort", "force")
	if v, ok := o.get("on_drain_timeout"); ok && b.OnDrainTimeout == "force" && b.Type != "" && !slices.Contains(forces, b.Type) {
		v.fail("a balancer of type %s has no means to end work by force; write proceed or abort", b.Type)
	}
	v, ok := o.get("idle")
	if !ok {
		return
	}
	if slices.Contains(countsItself, b.Type) {
		v.fail("a balancer of type %s tells by itself when nothing is in flight; leave it out", b.Type)
		return
	}
	i, ok := v.object("{ports: [8080], ignore: [10.0.0.9], window: 3s}", "ports", "ignore", "window")
	if !ok {
		return
	}
	b.Idle = &Idle{Window: i.duration("window", 0, 100*time.Millisecond, 10*minute)}
	if v, ok := i.get("ports"); ok {
		for _, item := range v.items("[8080]") {
			if n, ok := item.count(1, 65535); ok {
				if slices.Contains(b.Idle.Ports, n) {
					item.fail("port %d is given twice; remove one", n)
				}
				b.Idle.Ports = append(b.Idle.Ports, n)
			}
		}
	}
	if v, ok := i.get("ignore"); ok {
		for _, item := range v.items("[10.0.0.9]") {
			if s, ok := item.text("an address, or a range of them such as 10.0.0.0/24"); ok {
				b.Idle.ignore(item, s)
			}
		}
	}
}

func (i *Idle) ignore(v value, s string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			v.fail("expected an address, or a range such as 10.0.0.0/24, got %s; write those whose connections are no traffic, such as a scraper of metrics", quoted(s))
			return
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Bits() == 0 {
		v.fail("%s is everybody, so that every drain would be idle at once; write those whose connections are no traffic", s)
	}
	i.Ignore = append(i.Ignore, p.Masked())
}
