package haproxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// provider is the [lbclient.Provider] for one target of HAProxy.
type provider struct {
	cfg       Config
	endpoints []endpoint
	client    client
	seen      map[endpoint]process // the last process that answered
	away      []endpoint           // those that the last look did without
	proc      procfs
}

// at names an operation on one place, for messages.
func (p *provider) at(verb, backend string, e endpoint) string {
	return fmt.Sprintf("%s %s in backend %s at %s", verb, p.cfg.Server, backend, e)
}

// op names an operation on all places.
func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s in HAProxy balancer %s", verb, p.cfg.Server, p.cfg.Name)
}

// place is the target in one backend of one instance.
type place struct {
	instance *instance
	pool     *pool
	server   *server
}

func (pl place) String() string {
	return fmt.Sprintf("%s at %s", pl.server.place(), pl.instance.endpoint)
}

// seek reads the target in every place that is asked about.
func (p *provider) seek(ctx context.Context, verb string, asked []question) ([]place, error) {
	instances, err := p.look(ctx, asked)
	if err != nil {
		return nil, err
	}
	return p.places(verb, instances)
}

// places finds the target in every backend of every instance.
func (p *provider) places(verb string, instances []*instance) ([]place, error) {
	var out []place
	for _, in := range instances {
		for _, pool := range in.pools {
			s := pool.find(p.cfg.Server)
			if s == nil {
				var names []string
				for _, o := range pool.servers {
					names = append(names, o.name())
				}
				return nil, &lbclient.Error{
					Class: lbclient.ClassNotFound, Op: p.at(verb, pool.name, in.endpoint),
					Text: fmt.Sprintf("the backend has no server %s; %s", p.cfg.Server, listed("it has", names)),
				}
			}
			out = append(out, place{in, pool, s})
		}
	}
	return out, nil
}

// Preflight implements [lbclient.Provider]. It also finds sockets that may only
// read, and set-ups whose processes do not share their state.
func (p *provider) Preflight(ctx context.Context) error {
	const verb = "check"
	instances, err := p.look(ctx, p.questions())
	if err != nil {
		return err
	}
	if _, err := p.places(verb, instances); err != nil {
		return err
	}
	for _, in := range instances {
		op := fmt.Sprintf("check the admin socket %s", in.endpoint)
		if in.info.processes > 1 {
			return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
				Text: fmt.Sprintf(`HAProxy runs as %d processes and a socket speaks for only one of them; replace "nbproc" by "nbthread" in haproxy.cfg`, in.info.processes)}
		}
		answer, err := p.client.read(ctx, in.endpoint, op, "show cli level")
		if err != nil {
			return err
		}
		if level := firstLine(answer); level != "admin" {
			return &lbclient.Error{Class: lbclient.ClassDenied, Op: op,
				Text: fmt.Sprintf(`it has level %q; write "level admin" on its "stats socket" line of haproxy.cfg`, level)}
		}
	}
	return nil
}

// Observe implements [lbclient.Provider]: every server of every configured
// backend. It fails if any instance does not answer.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	instances, err := p.look(ctx, p.questions())
	if err != nil {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: epoch(instances), At: time.Now()}
	index := make(map[string]int)
	for _, in := range instances {
		for _, pool := range in.pools {
			for _, s := range pool.servers {
				i, known := index[s.name()]
				if !known {
					i = len(out.Members)
					index[s.name()] = i
					out.Members = append(out.Members, lbclient.Member{Name: s.name(), Phase: s.phase()})
				}
				m := &out.Members[i]
				m.Phase = lbclient.Worst(m.Phase, s.phase())
				m.InFlight += s.inFlight()
				where := pool.name
				if len(instances) > 1 {
					where = fmt.Sprintf("%s at %s", pool.name, in.endpoint)
				}
				if m.Detail != "" {
					m.Detail += "; "
				}
				m.Detail += where + ": " + s.words()
			}
		}
	}
	for i := range out.Members {
		out.Members[i].Detail = sentence(append([]string{out.Members[i].Detail}, p.absent()...))
	}
	return out, nil
}

// Snapshot implements [lbclient.Provider]. A drain counts as another hand's too:
// one of ours was journaled, and its Restore is used again.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	const verb = "record how the balancer holds"
	instances, err := p.look(ctx, p.questions())
	if err != nil {
		return lbclient.Restore{}, err
	}
	places, err := p.places(verb, instances)
	if err != nil {
		return lbclient.Restore{}, err
	}
	var rec record
	for _, e := range p.endpoints {
		ir := instanceRecord{Endpoint: e.text, Unreachable: slices.Contains(p.away, e)}
		for _, in := range instances {
			if in.endpoint == e {
				ir.Process = in.process
			}
		}
		rec.Instances = append(rec.Instances, ir)
	}
	serving := true
	for _, pl := range places {
		op := p.at(verb, pl.pool.name, pl.instance.endpoint)
		if err := foreign(op, pl.server); err != nil {
			return lbclient.Restore{}, err
		}
		serving = serving && pl.server.phase() == lbclient.PhaseServing
		for i := range rec.Instances {
			if rec.Instances[i].Endpoint == pl.instance.endpoint.text {
				rec.Instances[i].Places = append(rec.Instances[i].Places, placeRecord{
					Backend: pl.pool.name, Admin: pl.server.admin,
					Weight: pl.server.weight, Configured: pl.server.configured,
				})
			}
		}
	}
	return p.records().Put(p.op(verb), rec, serving)
}

// foreign refuses a server that another hand holds out.
func foreign(op string, s *server) error {
	e := &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op}
	switch {
	case s.admin&(anyMaint|anyDrain) != 0:
		e.Text = fmt.Sprintf(`another hand holds it out: it is %s; put it back with "set server %s state ready", or leave it out of the deploy`,
			s.admin, s.place())
	case s.weight == 0:
		e.Text = fmt.Sprintf(`another hand holds it out: it has weight 0; put it back with "set server %s weight 100%%", or leave it out of the deploy`,
			s.place())
	default:
		return nil
	}
	return e
}

// Close implements [lbclient.Provider]. No connection outlives a command.
func (p *provider) Close() error { return nil }

// sentence joins clauses for people.
func sentence(clauses []string) string { return strings.Join(clauses, "; ") }
