package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// balancerType is how a balancer of one type is read.
type balancerType struct {
	keys   []string // besides those that all types have
	server string   // what a target is called in the balancer
	fits   func(server string) bool
	vias   []Via // the first is the default
	read   func(l *loader, b *Balancer, o object)
}

// commonKeys are the keys of every balancer.
var commonKeys = []string{"type", "via", "max_unavailable", "min_healthy", "drain_timeout", "on_drain_timeout", "rejoin_timeout", "idle"}

func (l *loader) readBalancer(name string, v value) {
	if name == "none" {
		v.fail("a balancer cannot be named none: an app without one says balancer: none")
		return
	}
	b := &Balancer{Name: name, Where: fmt.Sprintf("%s:%d", v.r.file, v.at.Line)}
	// Known even when it is wrong, so that apps behind it are not called dangling.
	l.fleet.Balancers = append(l.fleet.Balancers, b)
	t, known := balancerTypes[v.balancerType()]
	var keys []string // of another type, any will do
	if known {
		keys = slices.Concat(commonKeys, t.keys)
	}
	o, ok := v.object("type and what belongs to it", keys...)
	if !ok {
		return
	}
	l.balancers[b] = o
	if v, ok := o.need("type", "haproxy"); ok {
		b.Type, _ = v.word(slices.Sorted(maps.Keys(balancerTypes))...)
	}
	b.MaxUnavailable = o.share("max_unavailable")
	b.MinHealthy = o.count("min_healthy", 1, 0, 1000)
	l.readDraining(b, o)
	b.RejoinTimeout = o.duration("rejoin_timeout", 60*second, second, day)
	if !known {
		return
	}
	b.Via = t.vias[0]
	if v, ok := o.get("via"); ok {
		both := []string{string(ViaAgent), string(ViaCoordinator)}
		if s, ok := v.word(both...); ok {
			if b.Via = Via(s); !slices.Contains(t.vias, b.Via) {
				v.fail("the gates are on the nodes, where only their agents can close them; write agent, or leave it out")
			}
		}
	}
	t.read(l, b, o)
	l.readServers(b, t, o)
}

// balancerType is the word at the key type, "" when there is none.
func (v value) balancerType() string {
	m, ok := v.node.(*ast.MappingNode)
	if !ok {
		return ""
	}
	for _, pair := range m.Values {
		if name, _ := keyName(pair.Key); name == "type" {
			if s, ok := pair.Value.(*ast.StringNode); ok {
				return s.Value
			}
			return ""
		}
	}
	return ""
}

// byNode reads a mapping whose keys are nodes.
func (l *loader) byNode(v value, write string, read func(node string, v value)) {
	nodes, ok := v.object(write)
	if !ok {
		return
	}
	for _, node := range nodes.keys {
		if l.fleet.Node(node) == nil {
			nodes.places[node].fail("there is no node of this name; %s", l.nodesThereAre())
		}
		read(node, nodes.values[node])
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
		apps := l.appsBehind(b)
		for _, a := range apps {
			a.MaxUnavailable = b.MaxUnavailable
		}
		places := placesOf(apps)
		if len(places) == 0 {
			o.warn("no app is behind this balancer")
			continue
		}
		if len(places) == 1 && !o.has("min_healthy") {
			b.MinHealthy = 0
		}
		if v, _ := o.get("max_unavailable"); b.MaxUnavailable.Of(len(places)) >= len(places) && len(places) > 1 {
			v.warn("%s lets all %d targets be out of rotation at once; write %d or less", b.MaxUnavailable, len(places), len(places)-1)
		}
		if v, _ := o.get("min_healthy"); b.MinHealthy >= len(places) {
			v.warn("%d others must serve before one is drained, but apps here have %d targets in all; unless the balancer has others, nothing is ever deployed", b.MinHealthy, len(places))
		}
		l.checkServers(b, places, o)
		l.checkEvidence(b)
		if b.Gate != nil {
			l.checkGate(b, apps, nodesOf(places), o)
		}
	}
	l.checkGatePlaces()
}

// checkEvidence finds what would keep a drain from being seen to end, and
// nginx that is likely to be on another machine.
func (l *loader) checkEvidence(b *Balancer) {
	nodes := map[string]bool{}
	for _, a := range l.fleet.Apps {
		if a.Balancer != b {
			continue
		}
		for _, n := range a.Nodes {
			nodes[n] = true
		}
		cloud := b.Hetzner != nil || b.DigitalOcean != nil
		if v, _ := l.apps[a].get("health"); v.is("none") && (b.Gate != nil || cloud && (b.Idle == nil || len(b.Idle.Ports) == 0)) {
			v.fail("a balancer of type %s counts no requests, so the agent watches the connections to the port that is checked; write {http: …} or {tcp: …} with the port on which the app takes work", b.Type)
		}
	}
	if b.Nginx != nil && b.Via == ViaAgent && len(nodes) > 1 {
		v, _ := l.balancers[b].get("via")
		v.warn("each agent edits the file of nginx on its own machine, and there are %d nodes; where one nginx serves them all, run the coordinator on its machine and write via: coordinator", len(nodes))
	}
}
