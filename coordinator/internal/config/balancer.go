package config

import "slices"

func (l *loader) readBalancer(name string, v value) {
	if name == "none" {
		v.fail("a balancer cannot be named none: an app without one says balancer: none")
		return
	}
	o, ok := v.object("type, endpoints and backend", "type", "via", "endpoints", "backend", "backends", "max_unavailable",
		"min_healthy", "drain_timeout", "on_drain_timeout", "rejoin_timeout", "servers")
	b := &Balancer{Name: name}
	// Known even when it is wrong, so that apps behind it are not called dangling.
	l.fleet.Balancers = append(l.fleet.Balancers, b)
	if !ok {
		return
	}
	l.balancers[b] = o
	if v, ok := o.need("type", "haproxy"); ok {
		b.Type, _ = v.word("haproxy")
	}
	b.Via = Via(o.word("via", string(ViaAgent), string(ViaCoordinator)))
	const socket = `["unix:///run/haproxy/admin.sock"]`
	if v, ok := o.need("endpoints", socket); ok {
		b.Endpoints = v.list(socket, "an admin socket, unix:///path or tcp://host:port", isEndpoint)
	}
	one, hasOne := o.get("backend")
	many, hasMany := o.get("backends")
	switch {
	case hasOne && hasMany:
		many.fail("expected one of backend and backends; put all of them in backends")
	case hasOne:
		if s, ok := one.text("the name of the backend in haproxy.cfg"); ok {
			if !isWord(s) {
				one.fail("expected the name of a backend in haproxy.cfg, got %s", quoted(s))
			}
			b.Backends = []string{s}
		}
	case hasMany:
		b.Backends = many.list("[web]", "the name of a backend in haproxy.cfg", isWord)
	default:
		one.fail("missing; write the name of the backend in haproxy.cfg, such as web")
	}
	b.MaxUnavailable = o.count("max_unavailable", 1, 1, 1000)
	b.MinHealthy = o.count("min_healthy", 1, 0, 1000)
	b.DrainTimeout = o.duration("drain_timeout", 30*second, 0, day)
	b.OnDrainTimeout = o.word("on_drain_timeout", "proceed", "abort")
	b.RejoinTimeout = o.duration("rejoin_timeout", 60*second, second, day)
	l.readServers(b, o)
}

func (l *loader) readServers(b *Balancer, o object) {
	v, ok := o.get("servers")
	if !ok {
		return
	}
	servers, ok := v.object("a node and its server's name in haproxy.cfg, such as {web1: srv1}")
	if !ok {
		return
	}
	b.Servers = map[string]string{}
	for _, node := range servers.keys {
		v := servers.values[node]
		if l.fleet.Node(node) == nil {
			servers.places[node].fail("there is no node of this name; %s", l.nodesThereAre())
		}
		s, ok := v.text("the name of the server in haproxy.cfg")
		if !ok {
			continue
		}
		if !isWord(s) {
			v.fail("expected the name of a server in haproxy.cfg, got %s", quoted(s))
			continue
		}
		b.Servers[node] = s
	}
}

// checkPools judges what depends on how many targets a balancer has, and fills
// in the default that does.
func (l *loader) checkPools() {
	for _, b := range l.fleet.Balancers {
		o, ok := l.balancers[b]
		if !ok {
			continue
		}
		var nodes []string
		for _, a := range l.fleet.Apps {
			if a.Balancer != b {
				continue
			}
			a.MaxUnavailable = b.MaxUnavailable
			for _, n := range a.Nodes {
				if !slices.Contains(nodes, n) {
					nodes = append(nodes, n)
				}
			}
		}
		if len(nodes) == 0 {
			o.warn("no app is behind this balancer")
			continue
		}
		if len(nodes) == 1 && !o.has("min_healthy") {
			b.MinHealthy = 0
		}
		if v, _ := o.get("max_unavailable"); b.MaxUnavailable >= len(nodes) && len(nodes) > 1 {
			v.warn("%d lets all %d targets be out of rotation at once; write %d or less", b.MaxUnavailable, len(nodes), len(nodes)-1)
		}
		if v, _ := o.get("min_healthy"); b.MinHealthy >= len(nodes) {
			v.warn("%d others must serve before one is drained, but apps here have %d targets in all; unless the balancer has others, nothing is ever deployed", b.MinHealthy, len(nodes))
		}
		l.checkServers(b, nodes, o)
	}
}

// checkServers finds nodes that would be drained in another's place.
func (l *loader) checkServers(b *Balancer, nodes []string, o object) {
	seen := map[string]string{}
	for _, n := range nodes {
		s := b.Server(n)
		if other, twice := seen[s]; twice {
			v, _ := o.get("servers")
			v.fail("nodes %s and %s are both server %s in the balancer; give each its own", other, n, quoted(s))
		}
		seen[s] = n
	}
}
