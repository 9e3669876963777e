package hetznertest

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Balancer is a load balancer.
type Balancer struct {
	ID       int64 // 0 means the next one that is free
	Name     string
	Labels   map[string]string
	Services []Service
	Targets  []Target
}

// Service is one listen port of a balancer.
type Service struct {
	Protocol        string // "http" or "tcp"; "" means http
	ListenPort      int    // as the API shows it
	DestinationPort int
	// Listen is where it really listens; "" means a free port on 127.0.0.1.
	Listen string
	Check  Check
}

// Check is the health check of a service. Zero fields are those of the example
// in Hetzner's description: http to the destination port and the path /, every
// 15 seconds, 10 seconds at most, three times, 2?? and 3?? for healthy.
type Check struct {
	Protocol                   string
	Port                       int
	Interval, Timeout, Retries int
	Domain, Path, Response     string
	StatusCodes                []string
}

// Target is one target: exactly one of Server, IP and Selector is set.
type Target struct {
	Server       int64
	IP           string
	Selector     string
	UsePrivateIP bool
}

// same tells whether two targets are of the same thing.
func (t Target) same(o Target) bool {
	return t.Server == o.Server && t.IP == o.IP && t.Selector == o.Selector
}

func without(targets []Target, t Target) []Target {
	return slices.DeleteFunc(slices.Clone(targets), t.same)
}

// balancer is a running [Balancer].
type balancer struct {
	id       int64
	name     string
	labels   map[string]string
	created  time.Time
	services []*service
	targets  []Target       // as the API shows them
	wired    []spot         // as the traffic goes
	busy     map[int64]bool // running actions
}

// spot is one machine that gets traffic, by one of its addresses.
type spot struct {
	server  int64
	ip      string
	private bool
}

// AddBalancer adds a load balancer that begins to listen, and returns its id.
// Its first targets are wired and probed at once.
func (c *Cloud) AddBalancer(b Balancer) (int64, error) {
	lb := &balancer{
		name: b.Name, labels: maps.Clone(b.Labels), created: time.Now(),
		targets: slices.Clone(b.Targets), busy: make(map[int64]bool),
	}
	if lb.labels == nil {
		lb.labels = make(map[string]string)
	}
	for _, s := range b.Services {
		sv, err := c.newService(lb, s)
		if err != nil {
			for _, begun := range lb.services {
				begun.close()
			}
			return 0, err
		}
		lb.services = append(lb.services, sv)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	lb.id = b.ID
	if lb.id == 0 {
		lb.id = c.newID()
	}
	c.balancers[lb.id] = lb
	c.wire(lb)
	for _, s := range lb.services {
		c.work.Go(s.run)
	}
	return lb.id, nil
}

// Address is where a listen port of a balancer is really reached.
func (c *Cloud) Address(id int64, listenPort int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.balancers[id].services {
		if s.ListenPort == listenPort {
			return s.listener.Addr().String()
		}
	}
	panic(fmt.Sprintf("balancer %d has no listen port %d", id, listenPort))
}

// Targets are a balancer's targets as the API shows them.
func (c *Cloud) Targets(id int64) []Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return slices.Clone(c.balancers[id].targets)
}

// SetTargets replaces a balancer's targets at once, as another hand would that
// has been at work.
func (c *Cloud) SetTargets(id int64, targets ...Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.balancers[id].targets = slices.Clone(targets)
	c.wire(c.balancers[id])
}

// SetCheck replaces the health check of a listen port.
func (c *Cloud) SetCheck(id int64, listenPort int, check Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.balancers[id].services {
		if s.ListenPort == listenPort {
			s.Check = check.withDefaults(s.DestinationPort)
			s.restartProbes()
		}
	}
}

// DeleteBalancer deletes a balancer.
func (c *Cloud) DeleteBalancer(id int64) {
	c.mu.Lock()
	b := c.balancers[id]
	delete(c.balancers, id)
	b.targets = nil
	c.wire(b)
	c.mu.Unlock()
	for _, s := range b.services {
		s.close()
	}
}

// picks are the servers that a selector picks, by id.
func (c *Cloud) picks(text string) []*Server {
	s, err := parseSelector(text)
	if err != nil {
		return nil
	}
	var out []*Server
	for _, id := range slices.Sorted(maps.Keys(c.servers)) {
		if s.matches(c.servers[id].Labels) {
			out = append(out, c.servers[id])
		}
	}
	return out
}

// spots are the machines that a target stands for.
func (c *Cloud) spots(t Target) []spot {
	switch {
	case t.IP != "":
		return []spot{{ip: t.IP}}
	case t.Server != 0:
		if c.servers[t.Server] == nil {
			return nil
		}
		return []spot{{server: t.Server, private: t.UsePrivateIP}}
	}
	var out []spot
	for _, s := range c.picks(t.Selector) {
		out = append(out, spot{server: s.ID, private: t.UsePrivateIP})
	}
	return out
}

func (c *Cloud) backend(sp spot) Backend {
	if sp.server != 0 {
		if s := c.servers[sp.server]; s != nil {
			return s.Backend
		}
	}
	return c.addresses[sp.ip]
}

// rewire lets the traffic of all balancers follow, after labels changed.
func (c *Cloud) rewire() {
	for _, b := range c.balancers {
		c.after(c.opt.DataPlaneLag, func() { c.wire(b) })
	}
}

// wire makes the traffic follow the targets now.
func (c *Cloud) wire(b *balancer) {
	var now []spot
	for _, t := range b.targets {
		for _, sp := range c.spots(t) {
			if !slices.Contains(now, sp) {
				now = append(now, sp)
			}
		}
	}
	for _, s := range b.services {
		for _, sp := range b.wired {
			if !slices.Contains(now, sp) {
				s.leave(sp)
			}
		}
		for _, sp := range now {
			if !slices.Contains(b.wired, sp) {
				s.join(sp, c.backend(sp))
			}
		}
	}
	b.wired = now
}

// object is the balancer as the API shows it.
func (c *Cloud) object(b *balancer) map[string]any {
	services, targets := []any{}, []any{}
	for _, s := range b.services {
		services = append(services, s.object())
	}
	for _, t := range b.targets {
		targets = append(targets, c.targetObject(b, t))
	}
	return map[string]any{
		"id": b.id, "name": b.name, "labels": b.labels, "created": b.created.UTC().Format(time.RFC3339),
		"public_net": map[string]any{
			"enabled": true,
			"ipv4":    map[string]any{"ip": "203.0.113.254", "dns_ptr": "lb.example.com"},
			"ipv6":    map[string]any{"ip": "2001:db8::1", "dns_ptr": "lb.example.com"},
		},
		"private_net": []any{map[string]any{"network": networkID, "ip": "10.0.0.254"}},
		"location":    locationObject(),
		"load_balancer_type": map[string]any{
			"id": 1, "name": "lb11", "description": "LB11", "max_connections": 10000, "max_services": 5, "max_targets": 25,
			"max_assigned_certificates": 10, "deprecated": nil, "prices": []any{},
		},
		"protection": map[string]any{"delete": false}, "algorithm": map[string]any{"type": "round_robin"},
		"services": services, "targets": targets,
		"included_traffic": 20 << 40, "outgoing_traffic": 0, "ingoing_traffic": 0,
	}
}

func (c *Cloud) targetObject(b *balancer, t Target) map[string]any {
	switch {
	case t.IP != "":
		return map[string]any{"type": "ip", "ip": map[string]any{"ip": t.IP}, "health_status": b.health(spot{ip: t.IP})}
	case t.Server != 0:
		return serverTarget(b, t.Server, t.UsePrivateIP)
	}
	picked := []any{}
	for _, s := range c.picks(t.Selector) {
		picked = append(picked, serverTarget(b, s.ID, t.UsePrivateIP))
	}
	return map[string]any{
		"type": "label_selector", "label_selector": map[string]any{"selector": t.Selector},
		"use_private_ip": t.UsePrivateIP, "targets": picked,
	}
}

func serverTarget(b *balancer, id int64, private bool) map[string]any {
	return map[string]any{
		"type": "server", "server": map[string]any{"id": id}, "use_private_ip": private,
		"health_status": b.health(spot{server: id, private: private}),
	}
}

// health is what the balancer reports of one machine, one entry a listen port.
func (b *balancer) health(sp spot) []any {
	out := []any{}
	for _, s := range b.services {
		out = append(out, s.verdict(sp))
	}
	return out
}
