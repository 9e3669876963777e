package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Kind is one way for the nodes to stand behind a balancer.
type Kind struct {
	Name    string // as [Options] choose it
	Product string // for people
	Mode    string // how a target leaves rotation, for people
	Gated   bool   // a health gate runs on each node
	// OwnToken: each agent speaks to the cloud itself.
	OwnToken bool
	// Documented are the classes of requests that this balancer is known to lose
	// and that are counted apart.
	Documented []Class

	start func(f *Fleet) (*front, error)
}

// Kinds are all of them.
var Kinds = []Kind{
	{Name: "haproxy", Product: "HAProxy", Mode: "drain", start: (*Fleet).startHAProxy},
	{Name: "haproxy-pair", Product: "HAProxy, one of two killed", Mode: "drain", Documented: []Class{Cut}, start: (*Fleet).startPair},
	{Name: "nginx", Product: "nginx", Mode: "mark down", Documented: []Class{Reset}, start: (*Fleet).startNginx},
	{Name: "caddy", Product: "Caddy", Mode: "remove", Documented: []Class{Reset, NewReset}, start: (*Fleet).startCaddy},
	{Name: "gate", Product: "HAProxy, not spoken to", Mode: "gate", Gated: true, start: (*Fleet).startGatedHAProxy},
	{Name: "hetzner-server", Product: "Hetzner, servers", Mode: "remove", start: (*Fleet).startHetznerServers},
	{Name: "hetzner-ip", Product: "Hetzner, IP addresses, by the agents", Mode: "remove", OwnToken: true, start: (*Fleet).startHetznerAddresses},
	{Name: "hetzner-label", Product: "Hetzner, label selector", Mode: "gate", Gated: true, start: (*Fleet).startHetznerLabel},
	{Name: "digitalocean-ids", Product: "DigitalOcean, ids", Mode: "remove", start: (*Fleet).startDroplets},
	{Name: "digitalocean-tag", Product: "DigitalOcean, tag", Mode: "gate", Gated: true, start: (*Fleet).startTag},
}

// KindOf is the kind of the name; "" is HAProxy.
func KindOf(name string) (Kind, error) {
	if name == "" {
		return Kinds[0], nil
	}
	var names []string
	for _, k := range Kinds {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("there is no balancer %q here: expected one of %s", name, strings.Join(names, ", "))
}

// Loses tells whether requests of the class are known to be lost.
func (k Kind) Loses(c Class) bool { return slices.Contains(k.Documented, c) }

// front is what stands before the nodes.
type front struct {
	yaml      string   // as fleet.yaml describes it
	addresses []string // where clients send requests: the first, or the next after a fail-over
	// serving are the nodes that the balancer sends work to.
	serving func(ctx context.Context) (map[string]bool, error)
	stop    func()
}

// observing is a front's serving by a provider's own look, and ends with it.
func observing(p lbclient.Provider, nodeOf map[string]string) func(context.Context) (map[string]bool, error) {
	return func(ctx context.Context) (map[string]bool, error) {
		pool, err := p.Observe(ctx)
		if err != nil {
			return nil, err
		}
		in := map[string]bool{}
		for _, m := range pool.Members {
			in[nodeOf[m.Name]] = m.Phase == lbclient.PhaseServing
		}
		return in, nil
	}
}

// server is where the app of a node listens.
func (f *Fleet) server(i int) string { return fmt.Sprintf("%s:%d", address(i), f.port) }

// byServer names nodes by where their app listens.
func (f *Fleet) byServer() map[string]string {
	m := map[string]string{}
	for i, n := range f.Nodes {
		m[f.server(i)] = n
	}
	return m
}

// byName is for balancers that know targets by the names of their nodes.
func (f *Fleet) byName() map[string]string {
	m := map[string]string{}
	for _, n := range f.Nodes {
		m[n] = n
	}
	return m
}

// serversYAML says by which server the balancer knows each node.
func (f *Fleet) serversYAML() string {
	var all []string
	for i, n := range f.Nodes {
		all = append(all, fmt.Sprintf("%s: %q", n, f.server(i)))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// words writes a command as a YAML list.
func words(argv []string) string {
	q := make([]string, len(argv))
	for i, w := range argv {
		q[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(q, ", ") + "]"
}
