package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Place is where one target of an app is: its node, and which of the app's
// instances there it is, "" for the only one.
type Place struct{ Node, Instance string }

func (p Place) String() string {
	if p.Instance == "" {
		return p.Node
	}
	return p.Node + ":" + p.Instance
}

// Places are those of the app's targets, in the order of rollouts.
func (a *App) Places() []Place {
	instances := a.Instances
	if len(instances) == 0 {
		instances = []string{""}
	}
	var all []Place
	for _, n := range a.Nodes {
		for _, i := range instances {
			all = append(all, Place{n, i})
		}
	}
	return all
}

// UnitOf is the unit of an instance: of app@.service, app@8000.service.
func (a *App) UnitOf(instance string) string {
	stem, template := strings.CutSuffix(a.Unit, "@.service")
	if instance == "" || !template {
		return a.Unit
	}
	return stem + "@" + instance + ".service"
}

// healthOf is the health check of a target, with nothing left to fill in.
func (a *App) healthOf(n *Node, instance string) api.HealthCheck {
	h := a.Health
	h.HTTP = withInstance(withAddress(h.HTTP, n.Address), instance)
	h.TCP = withInstance(withAddress(h.TCP, n.Address), instance)
	return h
}

// Share is a number of a pool's targets, or a percentage of them.
type Share struct {
	Count   int
	Percent int // 0: Count says it
}

// Of is how many of the targets it is: at least one.
func (s Share) Of(targets int) int {
	if s.Percent == 0 {
		return s.Count
	}
	return max(1, targets*s.Percent/100)
}

func (s Share) String() string {
	if s.Percent == 0 {
		return strconv.Itoa(s.Count)
	}
	return strconv.Itoa(s.Percent) + "%"
}

// share is the value of a key that may say 2, or 25%.
func (o object) share(key string) Share {
	v, ok := o.get(key)
	if !ok {
		return Share{Count: 1}
	}
	if p, ok := v.percent(); ok {
		return Share{Percent: p}
	}
	if i, ok := v.node.(*ast.IntegerNode); ok {
		if n, err := strconv.Atoi(i.GetToken().Value); err == nil && n >= 1 && n <= 1000 {
			return Share{Count: n}
		}
	}
	v.fail("expected a whole number from 1 to 1000, or a percentage of the targets from 1%% to 100%%, got %s; write 1, or 25%%", v.what())
	return Share{Count: 1}
}

// percent is a whole one from 1% to 100%; anything else may be of another kind.
func (v value) percent() (int, bool) {
	n, ok := v.node.(*ast.StringNode)
	if !ok {
		return 0, false
	}
	digits, is := strings.CutSuffix(n.Value, "%")
	p, err := strconv.Atoi(digits)
	return p, is && err == nil && p >= 1 && p <= 100 && digits == strconv.Itoa(p)
}

const writeInstances = "[8000, 8001]"

// readInstances reads the names of the app's targets on each node. A number is
// taken as it is spelled, since most are ports.
func (l *loader) readInstances(a *App, o object) {
	v, ok := o.get("instances")
	if !ok {
		return
	}
	for _, item := range v.items(writeInstances) {
		var name string
		switch n := item.node.(type) {
		case *ast.IntegerNode:
			name = n.GetToken().Value
		case *ast.StringNode:
			name = n.Value
		}
		switch {
		case !isName(name):
			item.fail("expected the name of an instance, of lower-case letters, digits and hyphens, and mostly its port, got %s; write %s", item.what(), writeInstances)
		case slices.Contains(a.Instances, name):
			item.fail("instance %s is given twice; remove one", name)
		default:
			a.Instances = append(a.Instances, name)
		}
	}
}

// checkInstances holds unit and health against the instances, which they must
// tell apart.
func (l *loader) checkInstances(a *App, o object) {
	several := o.has("instances")
	health := a.Health.HTTP + a.Health.TCP
	h, _ := o.get("health")
	switch {
	case !several && strings.Contains(health, "{instance}"):
		h.fail("the app has no instances that {instance} could stand for; write instances: %s, or the port itself", writeInstances)
	case len(a.Instances) > 1 && health != "" && !strings.Contains(health, "{instance}"):
		h.fail("every instance would be checked at %s; write {instance} where its name belongs, such as http://127.0.0.1:{instance}/healthz", health)
	}
	if b := a.Balancer; several && b != nil && (b.Hetzner != nil || b.DigitalOcean != nil) {
		v, _ := o.get("instances")
		v.fail("a balancer of type %s takes whole nodes out, not one of several instances; put HAProxy, nginx or Caddy on each node between, or leave instances out", b.Type)
	}
}

// checkUnit says what is wrong with the name of the app's unit.
func (a *App) checkUnit(v value, several bool) {
	stem, template := strings.CutSuffix(a.Unit, "@.service")
	switch {
	case several && (!template || !isUnit(stem+".service")):
		v.fail("an app with instances needs a template unit, of which each instance is one unit, got %s; write %s@.service", quoted(a.Unit), a.Name)
	case !several && template:
		v.fail("%s is a template, and the app names no instances of it; write instances: %s, or %s.service", quoted(a.Unit), writeInstances, a.Name)
	case !several && !isUnit(a.Unit):
		v.fail("expected the full name of a systemd service, got %s; write %s.service", quoted(a.Unit), a.Name)
	}
}

// units are the units of the app on each of its nodes.
func (a *App) units() []string {
	if len(a.Instances) == 0 {
		return []string{a.Unit}
	}
	var all []string
	for _, i := range a.Instances {
		all = append(all, a.UnitOf(i))
	}
	return all
}

func (l *loader) readServers(b *Balancer, t balancerType, o object) {
	v, ok := o.get("servers")
	if !ok {
		return
	}
	b.Servers = map[Place]string{}
	l.servers[b] = map[Place]value{}
	read := func(p Place, v value) {
		s, ok := v.text(t.server)
		if !ok {
			return
		}
		if !t.fits(s) {
			v.fail("expected %s, got %s", t.server, quoted(s))
		}
		b.Servers[p], l.servers[b][p] = s, v
	}
	l.byNode(v, "a node and "+t.server, func(node string, v value) {
		if _, several := v.node.(*ast.MappingNode); !several {
			read(Place{Node: node}, v)
			return
		}
		instances, _ := v.object("an instance and " + t.server)
		for _, i := range instances.keys {
			read(Place{node, i}, instances.values[i])
		}
	})
}

// checkServers finds targets that would be drained in another's place, and names
// that are nobody's.
func (l *loader) checkServers(b *Balancer, places []Place, o object) {
	servers, _ := o.get("servers")
	nodes, told, seen := map[string]bool{}, map[string]bool{}, map[string]Place{}
	for _, p := range places {
		nodes[p.Node] = true
		s := b.Server(p)
		_, named := b.Servers[p]
		_, whole := l.servers[b][Place{Node: p.Node}]
		switch {
		case !named && whole && p.Instance != "":
			if !told[p.Node] {
				told[p.Node] = true
				l.servers[b][Place{Node: p.Node}].fail("there are instances on %s; name each, such as {%s: %s}", p.Node, p.Instance, plain(likely(b, p.Instance)))
			}
			continue
		case !named && p.Instance != "" && b.Caddy != nil, !named && b.Nginx != nil && o.has("servers"):
			servers.fail("missing %s; write its address as the balancer has it, such as %s", p, l.example(p))
			continue
		}
		if other, twice := seen[s]; twice {
			servers.fail("%s and %s are both server %s in the balancer; give each its own", other, p, quoted(s))
		}
		seen[s] = p
	}
	for _, p := range slices.SortedFunc(maps.Keys(l.servers[b]), func(x, y Place) int { return strings.Compare(x.String(), y.String()) }) {
		if p.Instance != "" && nodes[p.Node] && !slices.Contains(places, p) {
			l.servers[b][p].fail("no app behind this balancer has an instance %s; add it to the app's instances, or remove it here", quoted(p.Instance))
		}
	}
}

// example is how the server of a place is written.
func (l *loader) example(p Place) string {
	if p.Instance == "" {
		return fmt.Sprintf(`{%s: "10.0.0.11:8080"}`, p.Node)
	}
	return fmt.Sprintf(`{%s: {%s: "10.0.0.11:%s"}}`, p.Node, p.Instance, p.Instance)
}

// likely is what a server of the instance may be called.
func likely(b *Balancer, instance string) string {
	if b.Nginx != nil || b.Caddy != nil {
		return "10.0.0.11:" + instance
	}
	return "web-" + instance
}

func withInstance(s, instance string) string {
	return strings.ReplaceAll(s, "{instance}", instance)
}
