package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Gate is how the nodes' health gates answer a balancer that polls them.
type Gate struct {
	Port       int    // on every node
	Path       string // that is polled; "{app}" in it, never at a cloud, stands for the app's name
	Refusal    int    // status of a closed gate
	Check      *Check // nil where the balancer itself tells
	Pollers    []netip.Prefix
	MinPollers int

	addresses map[string]string // by node: where the others reach its gates; nil where they cannot be told apart
}

// Check is how a balancer was configured to check its members.
type Check struct {
	Interval, Timeout time.Duration
	Fall, Rise        int
}

// What a gate is unless the file says otherwise.
const (
	defaultGatePort    = 9101
	defaultGatePath    = "/ready/" + appInPath
	defaultGateRefusal = 503
	maxGatePollers     = 64

	appInPath  = "{app}"
	gateStatus = "/status" // follows the path of a gate
)

// gateKeys say how gates answer, in any balancer that polls them.
var gateKeys = []string{"port", "path", "refusal", "pollers", "min_pollers"}

func (l *loader) readGate(b *Balancer, o object) {
	b.Gate = o.gate()
	const write = "{interval: 2s, timeout: 1s, fall: 2, rise: 2}"
	v, ok := o.get("check")
	if !ok {
		v.fail("missing; only you know how the balancer is configured to check its members, and a gate must: write check: %s, as it is there", write)
		return
	}
	c, ok := v.object(write, "interval", "timeout", "fall", "rise")
	if !ok {
		return
	}
	for _, key := range []string{"interval", "timeout", "fall", "rise"} {
		if at, ok := c.get(key); !ok {
			at.fail("missing; write it as it is configured in the balancer, such as %s", write)
		}
	}
	const longest = 10 * minute
	b.Gate.Check = &Check{
		Interval: c.duration("interval", second, 10*time.Millisecond, longest), Timeout: c.duration("timeout", second, 10*time.Millisecond, longest),
		Fall: c.count("fall", 1, 1, 1000), Rise: c.count("rise", 1, 1, 1000),
	}
	down := time.Duration(b.Gate.Check.Fall)*b.Gate.Check.Interval + b.Gate.Check.Timeout
	if at, ok := o.get("drain_timeout"); down >= b.DrainTimeout {
		where(at, ok, v).fail("the balancer may take %s (fall × interval + timeout) to notice that a gate is closed, and a drain is given up after %s; write drain_timeout: %s or more, or let it check more often",
			short(down), short(b.DrainTimeout), short(2*down))
	}
	up := time.Duration(b.Gate.Check.Rise)*b.Gate.Check.Interval + b.Gate.Check.Timeout
	if at, ok := o.get("rejoin_timeout"); up >= b.RejoinTimeout {
		where(at, ok, v).fail("the balancer may take %s (rise × interval + timeout) to notice that a gate is open, and a rejoin is given up after %s; write rejoin_timeout: %s or more, or let it check more often",
			short(up), short(b.RejoinTimeout), short(2*up))
	}
}

// where is the value itself if it is given, else another place to point at.
func where(v value, given bool, otherwise value) value {
	if given {
		return v
	}
	return otherwise
}

// gate reads what all gates have.
func (o object) gate() *Gate {
	g := &Gate{
		Port: o.count("port", defaultGatePort, 1, 65535), Path: defaultGatePath,
		Refusal: o.count("refusal", defaultGateRefusal, 400, 599), MinPollers: o.count("min_pollers", 1, 1, maxGatePollers),
	}
	if v, ok := o.get("path"); ok {
		if s, ok := v.text(defaultGatePath); ok {
			if g.Path = s; !isGatePath(s) {
				v.fail("expected the path that the balancer checks, such as %s, got %s", defaultGatePath, quoted(s))
			}
		}
	}
	if v, ok := o.get("pollers"); ok {
		const write = "[10.0.0.1/32]"
		for _, item := range v.items(write) {
			s, ok := item.text("10.0.0.1/32")
			if !ok {
				continue
			}
			p, err := netip.ParsePrefix(s)
			if a, e := netip.ParseAddr(s); e == nil && a.Zone() == "" {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if err != nil {
				item.fail("expected an address, or a range of them, from which the balancer checks, got %s; write 10.0.0.1/32", quoted(s))
				continue
			}
			g.Pollers = append(g.Pollers, p)
		}
	}
	return g
}

// cloudMode reads mode and, where that is gate, what belongs to it.
func (o object) cloudMode(b *Balancer) string {
	const gate, remove = "gate", "remove"
	mode := o.word("mode", remove, gate)
	if mode == gate {
		b.Gate = o.gate()
		return mode
	}
	for _, key := range gateKeys {
		if v, ok := o.get(key); ok {
			v.fail("only a target that leaves by its gate needs it; write mode: gate, or leave it out")
		}
	}
	return mode
}

var gatePath = regexp.MustCompile(`^/[A-Za-z0-9._~{}/-]{1,199}$`)

func isGatePath(s string) bool {
	s = strings.ReplaceAll(s, appInPath, "app")
	return gatePath.MatchString(s) && !strings.ContainsAny(s, "{}") && path.Clean(s) == s
}

// path is what is polled for an app.
func (g *Gate) path(app string) string { return strings.ReplaceAll(g.Path, appInPath, app) }

// below is what is polled for an instance of an app; "" is the only one.
func below(path, instance string) string {
	if instance == "" {
		return path
	}
	return path + "/" + instance
}

// spec is what agents are told of the gates of an app's targets.
func (g *Gate) spec(a *App) *api.Gate {
	s := &api.Gate{Port: g.Port, Path: g.path(a.Name), Refusal: g.Refusal, MinPollers: g.MinPollers}
	for _, p := range g.Pollers {
		s.Pollers = append(s.Pollers, p.String())
	}
	if c := g.Check; c != nil {
		s.Check = &api.BalancerCheck{Interval: api.Duration(c.Interval), Timeout: api.Duration(c.Timeout), Fall: c.Fall, Rise: c.Rise}
	}
	if g.addresses != nil {
		s.Peers = map[string]string{}
		for _, p := range a.Places() {
			s.Peers[a.Server(p)] = "http://" + net.JoinHostPort(g.addresses[p.Node], strconv.Itoa(g.Port)) + below(s.Path, p.Instance) + gateStatus
		}
	}
	return s
}

// checkGate judges what depends on the apps and nodes behind a balancer that
// polls gates.
func (l *loader) checkGate(b *Balancer, apps []*App, nodes []string, o object) {
	mode, _ := o.get("mode")
	if b.Type != "gate" {
		// A cloud's check asks for one path, of all apps of a target.
		if len(apps) > 1 {
			mode.fail("a cloud checks one path, and %d apps are behind this balancer, each with a gate of its own; give each app a balancer, or write mode: remove", len(apps))
		}
		b.Gate.Path = b.Gate.path(apps[0].Name)
		return // the balancer itself counts who serves
	}
	if v, _ := o.get("path"); len(apps) > 1 && !strings.Contains(b.Gate.Path, appInPath) {
		v.fail("%d apps are behind this balancer, and each has a gate of its own; write a path with {app} in it, such as %s", len(apps), defaultGatePath)
	}
	b.Gate.addresses = map[string]string{}
	seen := map[string]string{}
	for _, n := range nodes {
		address := l.fleet.Node(n).Address
		if other, twice := seen[address]; twice {
			b.Gate.addresses = nil
			if v, given := o.get("min_healthy"); b.MinHealthy > 0 {
				where(v, given, o.value).fail("nodes %s and %s have the same address %s, so that their agents cannot look at each other's gates to count who serves; write at nodes.%s.address where the others reach it, or min_healthy: 0",
					other, n, address, n)
			}
			return
		}
		seen[address], b.Gate.addresses[n] = n, address
	}
}

// checkGatePlaces finds gates of one node that could not be told apart: all of
// them are served by one process, at one port.
func (l *loader) checkGatePlaces() {
	type user struct {
		app  *App
		port int
	}
	ports := map[string]user{}    // by node
	taken := map[[2]string]*App{} // by node and path
	told := map[string]bool{}     // what was said already
	fail := func(a *App, key, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		o, ok := l.balancers[a.Balancer]
		if !ok || told[a.Balancer.Name+text] {
			return
		}
		told[a.Balancer.Name+text] = true
		v, given := o.get(key)
		where(v, given, o.value).fail("%s", text)
	}
	for _, a := range l.fleet.Apps {
		if a.Balancer == nil || a.Balancer.Gate == nil {
			continue
		}
		g := a.Balancer.Gate
		path := g.path(a.Name)
		for _, place := range a.Places() {
			n, path := place.Node, below(path, place.Instance)
			if first, known := ports[n]; !known {
				ports[n] = user{a, g.Port}
			} else if first.port != g.Port {
				fail(a, "port", "all gates of node %s share a port, and balancer %s has %d; write that here too", n, first.app.Balancer.Name, first.port)
			}
			for _, p := range []string{path + gateStatus, path} {
				if other := taken[[2]string{n, p}]; other != nil && other.Balancer != a.Balancer {
					fail(a, "path", "the gate of app %s answers at %s already, on node %s too; write another path, such as %s", other.Name, p, n, defaultGatePath)
					break
				}
				taken[[2]string{n, p}] = a
			}
		}
	}
}

// gate writes what a balancer that polls gates says of them.
func (w *writer) gate(g *Gate) {
	w.put("port", strconv.Itoa(g.Port))
	w.put("path", plain(g.Path))
	w.put("refusal", strconv.Itoa(g.Refusal))
	if c := g.Check; c != nil {
		w.put("check", fmt.Sprintf("{interval: %s, timeout: %s, fall: %d, rise: %d}", short(c.Interval), short(c.Timeout), c.Fall, c.Rise))
	}
	if len(g.Pollers) > 0 {
		w.put("pollers", list(g.Pollers, func(p netip.Prefix) string { return plain(p.String()) }))
	}
	w.put("min_pollers", strconv.Itoa(g.MinPollers))
}

// appsBehind are the apps of a balancer, in the order of the file.
func (l *loader) appsBehind(b *Balancer) []*App {
	return slices.DeleteFunc(slices.Clone(l.fleet.Apps), func(a *App) bool { return a.Balancer != b })
}
