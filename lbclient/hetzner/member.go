package hetzner

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// key is which member of a balancer is meant: a server or an address.
type key struct {
	server int64
	ip     netip.Addr
}

func (k key) String() string {
	if k.server != 0 {
		return "server " + k.id()
	}
	return "IP address " + k.id()
}

// id is the server's id in digits, or the address.
func (k key) id() string {
	if k.server != 0 {
		return strconv.FormatInt(k.server, 10)
	}
	return k.ip.String()
}

// ipKey is the key of an address; of none when text is no address.
func ipKey(text string) key {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return key{}
	}
	return key{ip: a.Unmap()}
}

// place is one way in which a member belongs to the balancer.
type place struct {
	selector   string // "" for a target of its own
	usePrivate bool
	health     map[int]health // by listen port
}

// health is the balancer's verdict on one listen port.
type health struct {
	status hcloud.LoadBalancerTargetHealthStatusStatus
	why    string
}

const (
	healthy   = hcloud.LoadBalancerTargetHealthStatusStatusHealthy
	unhealthy = hcloud.LoadBalancerTargetHealthStatusStatusUnhealthy
	unknown   = hcloud.LoadBalancerTargetHealthStatusStatusUnknown
)

// member is one server or address with all places in which it stands.
type member struct {
	key    key
	places []place
}

// at is the verdict on one listen port: healthy or unhealthy where all places
// say so, else unknown.
func (m *member) at(port int) health {
	var out health
	for i, pl := range m.places {
		h := pl.health[port]
		if h.status != healthy && h.status != unhealthy {
			return health{status: unknown, why: h.why}
		}
		if i > 0 && h.status != out.status {
			return health{status: unknown, why: "its places disagree"}
		}
		out = h
	}
	if out.status == "" {
		out.status = unknown
	}
	return out
}

// phase is how the member stands on ports, as it does on the worst of them.
func (m *member) phase(ports []int) lbclient.Phase {
	if len(ports) == 0 {
		return lbclient.PhaseUnknown
	}
	out := lbclient.PhaseServing
	for _, port := range ports {
		switch m.at(port).status {
		case healthy:
		case unhealthy:
			out = lbclient.Worst(out, lbclient.PhaseUnhealthy)
		default:
			out = lbclient.Worst(out, lbclient.PhasePending)
		}
	}
	return out
}

// words are the balancer's own on ports, such as "80 healthy, 443 unhealthy
// (unexpected_http_status, answered 503)".
func (m *member) words(ports []int) string {
	var out []string
	for _, port := range ports {
		h := m.at(port)
		w := fmt.Sprintf("%d %s", port, h.status)
		if h.why != "" {
			w += " (" + h.why + ")"
		}
		out = append(out, w)
	}
	if len(out) == 0 {
		return "the balancer has no service"
	}
	return strings.Join(out, ", ")
}

// through says how the member belongs to the balancer.
func (m *member) through() string {
	var out []string
	for _, pl := range m.places {
		w := m.key.String()
		if pl.selector != "" {
			w += fmt.Sprintf(" through label selector %q", pl.selector)
		}
		if pl.usePrivate {
			w += " by its private address"
		}
		out = append(out, w)
	}
	return strings.Join(out, " and ")
}

// own is the member's single place as a target of its own, nil when there is
// none, or when a selector has the member too.
func (m *member) own() *place {
	if m == nil || len(m.places) != 1 || m.places[0].selector != "" {
		return nil
	}
	return &m.places[0]
}

// mixed tells whether the member is a target of its own and picked by a
// selector as well.
func (m *member) mixed() bool {
	byself := slices.ContainsFunc(m.places, func(pl place) bool { return pl.selector == "" })
	return byself && len(m.places) > 1
}

// view is one look at a balancer.
type view struct {
	lb       *hcloud.LoadBalancer
	members  []*member
	services []int // listen ports
}

// read sorts a balancer's targets by member.
func read(lb *hcloud.LoadBalancer) view {
	v := view{lb: lb}
	for _, s := range lb.Services {
		v.services = append(v.services, s.ListenPort)
	}
	slices.Sort(v.services)
	for _, t := range lb.Targets {
		if t.Type != hcloud.LoadBalancerTargetTypeLabelSelector {
			v.add(t, "")
			continue
		}
		selector := ""
		if t.LabelSelector != nil {
			selector = t.LabelSelector.Selector
		}
		if selector == "" {
			selector = "?"
		}
		// The health of what a selector picks is in here only.
		for _, picked := range t.Targets {
			v.add(picked, selector)
		}
	}
	return v
}

func (v *view) add(t hcloud.LoadBalancerTarget, selector string) {
	var k key
	switch {
	case t.Server != nil && t.Server.Server != nil:
		k.server = t.Server.Server.ID
	case t.IP != nil:
		k = ipKey(t.IP.IP)
	}
	if k == (key{}) {
		return // a kind of target that was not known when this was written
	}
	pl := place{selector: selector, usePrivate: t.UsePrivateIP, health: make(map[int]health)}
	for _, h := range t.HealthStatus {
		pl.health[h.ListenPort] = health{status: h.Status, why: reason(h)}
	}
	m := v.find(k)
	if m == nil {
		m = &member{key: k}
		v.members = append(v.members, m)
	}
	m.places = append(m.places, pl)
}

// reason is the diagnosis that newer answers carry.
func reason(h hcloud.LoadBalancerTargetHealthStatus) string {
	var out []string
	if h.Detail != nil && *h.Detail != "" {
		out = append(out, string(*h.Detail))
	}
	if h.HTTPStatusCode != nil && *h.HTTPStatusCode != 0 {
		out = append(out, fmt.Sprintf("answered %d", *h.HTTPStatusCode))
	}
	return strings.Join(out, ", ")
}

// find returns the member, nil if there is none.
func (v view) find(k key) *member {
	for _, m := range v.members {
		if m.key == k {
			return m
		}
	}
	return nil
}

// ports are the listen ports that count: those configured, else those on which
// any member is healthy, else all.
func (v view) ports(configured []int) []int {
	if len(configured) > 0 {
		return configured
	}
	var live []int
	for _, port := range v.services {
		if slices.ContainsFunc(v.members, func(m *member) bool { return m.at(port).status == healthy }) {
			live = append(live, port)
		}
	}
	if len(live) > 0 {
		return live
	}
	return v.services
}

// enough returns why the member at k may not leave: on some port that it may
// get work on, fewer than want others are healthy. It returns "" when it may.
func (v view) enough(k key, ports []int, want int) string {
	self := v.find(k)
	for _, port := range ports {
		if self != nil && self.at(port).status == unhealthy {
			continue // it takes nothing away there
		}
		if n := v.others(k, port); n < want {
			return fmt.Sprintf("%d other members are healthy on listen port %d and %d must be", n, port, want)
		}
	}
	return ""
}

func (v view) others(k key, port int) int {
	n := 0
	for _, m := range v.members {
		if m.key != k && m.at(port).status == healthy {
			n++
		}
	}
	return n
}
