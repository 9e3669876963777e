package hetzner

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// look reads the balancer and finds the target, which is nil when it is no
// member. A server that was deleted and made again under its name has another
// id, so what was found by name is looked up once more before that is said.
func (p *provider) look(ctx context.Context, op string) (view, *member, key, error) {
	lb, err := p.balancer(ctx, op)
	if err != nil {
		return view{}, nil, key{}, err
	}
	v := read(lb)
	known := p.self != nil
	k, err := p.identity(ctx, op)
	if err != nil {
		return view{}, nil, key{}, err
	}
	m := v.find(k)
	if m == nil && known {
		p.self = nil
		if k, err = p.identity(ctx, op); err != nil {
			return view{}, nil, key{}, err
		}
		m = v.find(k)
	}
	return v, m, k, nil
}

// lookFor reads the balancer of a record and finds its member, nil when it is
// none.
func (p *provider) lookFor(ctx context.Context, op string, rec record) (view, *member, error) {
	lb, err := p.balancerByID(ctx, op, rec.LoadBalancer)
	if err != nil {
		return view{}, nil, err
	}
	v := read(lb)
	return v, v.find(rec.key()), nil
}

// epoch is the same for the balancer's whole life: it keeps what it is told.
func (v view) epoch() string {
	return fmt.Sprintf("load balancer %d of %s", v.lb.ID, v.lb.Created.UTC().Format(time.RFC3339))
}

// Observe implements [lbclient.Provider]: every server and address in the
// balancer, by the names that the servers have at Hetzner.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	const verb = "look at the members beside"
	v, self, k, err := p.look(ctx, p.op(verb))
	// Where the target does not exist its pool still does.
	if err != nil && lbclient.ClassOf(err) == lbclient.ClassNotFound && p.lb != 0 {
		lb, lbErr := p.balancerByID(ctx, p.op(verb), p.lb)
		if lbErr != nil {
			return lbclient.Pool{}, lbErr
		}
		v, self, k, err = read(lb), nil, key{}, nil
	}
	if err != nil {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: v.epoch(), At: time.Now()}
	var ids []int64
	for _, m := range v.members {
		if m.key.server != 0 && m != self && p.cfg.Names[m.key.id()] == "" {
			ids = append(ids, m.key.server)
		}
	}
	if err := p.learnNames(ctx, ids); err != nil {
		return lbclient.Pool{}, err
	}
	ports := v.ports(p.cfg.Ports)
	for _, m := range v.members {
		shown := lbclient.Member{
			Name: p.nameOf(m, k), Phase: m.phase(ports), InFlight: -1,
			Detail: m.through() + ": " + m.words(v.services),
		}
		if p.held != nil && p.held.Mode == ModeGate && p.held.key() == m.key {
			shown.Phase = lbclient.PhaseDraining
		}
		out.Members = append(out.Members, shown)
	}
	if self == nil {
		out.Members = append(out.Members, p.absent(v, k))
	}
	return out, nil
}

// absent is the target where the balancer does not list it.
func (p *provider) absent(v view, k key) lbclient.Member {
	m := lbclient.Member{Name: p.cfg.Server, Phase: lbclient.PhaseAbsent, InFlight: -1,
		Detail: fmt.Sprintf("no target of load balancer %q", v.lb.Name)}
	if p.held != nil && p.held.Mode == ModeRemove && p.held.key() == k {
		m.Phase = lbclient.PhaseDraining
		m.Detail = fmt.Sprintf("%s was removed by us and is no target until it is put back", k)
	}
	return m
}

func (p *provider) nameOf(m *member, self key) string {
	switch {
	case m.key == self:
		return p.cfg.Server
	case p.cfg.Names[m.key.id()] != "":
		return p.cfg.Names[m.key.id()]
	case m.key.server == 0:
		return m.key.id()
	case p.names[m.key.server] != "":
		return p.names[m.key.server]
	}
	return m.key.String()
}

// Preflight implements [lbclient.Provider]. In gate mode it compares the health
// checks with the gate; in remove mode it makes sure that the token may write,
// by an update that updates nothing.
func (p *provider) Preflight(ctx context.Context) error {
	const verb = "check"
	op := p.op(verb)
	v, m, k, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	for _, port := range p.cfg.Ports {
		if !slices.Contains(v.services, port) {
			return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
				Text: fmt.Sprintf("the balancer has no service on listen port %d; it has %v", port, v.services)}
		}
	}
	if err := p.drainable(op, p.cfg.Mode, v, m, k); err != nil {
		return err
	}
	if p.cfg.Mode == ModeGate {
		return p.checkGate(op, v)
	}
	_, resp, err := p.cloud.LoadBalancer.Update(ctx, &hcloud.LoadBalancer{ID: v.lb.ID}, hcloud.LoadBalancerUpdateOpts{})
	if err != nil && classOf(http.MethodPut, resp, err) == lbclient.ClassDenied {
		e := p.fault(op, http.MethodPut, resp, err)
		e.Text = "the token may not change the balancer; mode remove needs one with read and write permission"
		return e
	}
	return nil
}

// drainable refuses what cannot be drained the way that mode says.
func (p *provider) drainable(op string, mode Mode, v view, m *member, k key) error {
	switch {
	case m == nil:
		return &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("%s is no target of load balancer %q", k, v.lb.Name)}
	case m.mixed():
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: fmt.Sprintf("it is a target more than once, as %s; remove one of them", m.through())}
	case mode == ModeRemove && m.own() == nil:
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: fmt.Sprintf("it is a target as %s, and removing that would take other servers out too; use mode gate", m.through())}
	case len(v.services) == 0:
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("load balancer %q has no service, so nothing tells whether a target is healthy", v.lb.Name)}
	}
	return nil
}

// Snapshot implements [lbclient.Provider].
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	op := p.op("record how the balancer holds")
	v, m, k, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Restore{}, err
	}
	if err := p.drainable(op, p.cfg.Mode, v, m, k); err != nil {
		return lbclient.Restore{}, err
	}
	rec := record{
		LoadBalancer: v.lb.ID, Mode: p.cfg.Mode, Server: k.server,
		Selector: m.places[0].selector, UsePrivateIP: m.places[0].usePrivate,
	}
	if k.server == 0 {
		rec.IP = k.ip.String()
	}
	ports := v.ports(p.cfg.Ports)
	for _, port := range ports {
		if m.at(port).status == healthy {
			rec.Ports = append(rec.Ports, port)
		}
	}
	if len(rec.Ports) == 0 {
		rec.Ports = ports
	}
	return p.records().Put(op, rec, m.phase(ports) == lbclient.PhaseServing)
}
