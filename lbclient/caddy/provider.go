package caddy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// provider is the [lbclient.Provider] for one target of Caddy.
type provider struct {
	cfg    Config
	client client
	// out is when this provider first saw the target gone from all handlers, and
	// held what it was, for Caddy keeps no trace of what was removed.
	out  time.Time
	held []string
}

func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s in Caddy balancer %s at %s", verb, p.cfg.Server, p.cfg.Name, p.client.endpoint)
}

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps {
	return lbclient.Caps{
		Health:   false,
		InFlight: p.cfg.CountsRemoved || p.cfg.Parked != "",
		Disturbs: "each drain and each rejoin makes Caddy replace its servers, which closes the idle keep-alive connections of all its clients " +
			"(a client that sends a request at that very moment sees its connection reset), a few new connections, and, unless stream_close_delay is set, websockets",
		Undocumented: "how long a replaced server may still begin a request on a connection that it accepted before",
	}
}

// view is one look at Caddy.
type view struct {
	handlers []*handler // in the order of the configuration
	counts   map[string]status
	metrics  metrics
}

func (v *view) handler(id string) *handler {
	for _, h := range v.handlers {
		if h.id == id {
			return h
		}
	}
	return nil
}

// epoch changes when Caddy may have forgotten what it was told: another process,
// or handlers of another text.
func (v *view) epoch() string {
	parts := []string{v.metrics.start}
	for _, h := range v.handlers {
		parts = append(parts, h.etag)
	}
	return strings.Join(parts, " ")
}

// down tells whether Caddy sends an upstream nothing for its failures, and why.
func (v *view) down(h *handler, address string) (bool, string) {
	if n := v.counts[address].fails; h.failFor > 0 && n >= h.maxFails {
		return true, fmt.Sprintf("%d failures within %s", n, h.failFor)
	}
	if healthy, known := v.metrics.healthy[address]; known && !healthy {
		return true, "unhealthy by Caddy's metrics"
	}
	return false, ""
}

func (p *provider) look(ctx context.Context, op string) (*view, error) {
	out := &view{}
	for _, id := range p.cfg.Handlers {
		h, err := p.handler(ctx, op, id)
		if err != nil {
			return nil, err
		}
		out.handlers = append(out.handlers, h)
	}
	a, err := p.client.get(ctx, op, "/reverse_proxy/upstreams")
	if err != nil {
		return nil, err
	}
	strange := func(err error) error {
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: "the answer is not as Caddy 2.6 or newer gives it", Err: err}
	}
	if out.counts, err = parseStatuses(a.body); err != nil {
		return nil, strange(err)
	}
	a, err = p.client.ask(ctx, op, http.MethodGet, "/metrics", nil, "")
	switch {
	case err != nil:
		return nil, err
	case a.status == http.StatusOK:
		out.metrics = parseMetrics(a.body)
	case a.status == http.StatusNotFound: // built without
	default:
		return nil, refusal(op, a)
	}
	return out, nil
}

func (p *provider) handler(ctx context.Context, op, id string) (*handler, error) {
	a, err := p.client.get(ctx, op, "/id/"+id)
	if err != nil {
		var e *lbclient.Error
		if errors.As(err, &e) && e.Class == lbclient.ClassNotFound {
			e.Text += fmt.Sprintf(`; write "@id": %q into the reverse_proxy handler, or load the configuration that has it`, id)
		}
		return nil, err
	}
	h, err := parseHandler(id, a)
	if err != nil {
		class := lbclient.ClassUnsupported
		if !json.Valid(a.body) {
			class = lbclient.ClassTransient // cut off
		}
		return nil, &lbclient.Error{Class: class, Op: op, Text: fmt.Sprintf("handler %s cannot be used", id), Err: err}
	}
	return h, nil
}

// find returns the target's address in a handler. ClassNotFound when it has none.
func (p *provider) find(op string, h *handler) (string, error) {
	at, err := h.resolve(p.cfg.Server)
	if err != nil {
		return "", &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Err: err}
	}
	if at == "" {
		return "", &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("handler %s has no upstream %s; %s", h.id, p.cfg.Server, listed("it has", h.addresses()))}
	}
	for _, u := range h.upstreams {
		if u.address == at {
			if err := u.fixed(); err != nil {
				return "", &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op, Err: err}
			}
		}
	}
	return at, nil
}

// Preflight implements [lbclient.Provider]. It also finds handlers that send
// work to the target and are not named, and a parked handler that lacks it.
func (p *provider) Preflight(ctx context.Context) error {
	op := p.op("check")
	v, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	a, err := p.client.get(ctx, op, "/config/")
	if err != nil {
		return err
	}
	var config any
	if err := json.Unmarshal(a.body, &config); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Text: "the configuration cannot be read", Err: err}
	}
	for _, h := range v.handlers {
		at, err := p.find(op, h)
		if err != nil {
			return err
		}
		var others []string
		parked := p.cfg.Parked == ""
		dialed(config, at, "/config", func(path, id string) {
			parked = parked || id == p.cfg.Parked
			if id == "" || id != p.cfg.Parked && !slices.Contains(p.cfg.Handlers, id) {
				others = append(others, path)
			}
		})
		if len(others) > 0 {
			slices.Sort(others)
			return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
				Text: fmt.Sprintf(`%s gets work from other handlers, too: %s; give each an "@id" and name it`, at, strings.Join(others, ", "))}
		}
		if !parked {
			return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
				Text: fmt.Sprintf("the parked handler %s has no upstream %s; it must have all", p.cfg.Parked, at)}
		}
	}
	return nil
}

// Observe implements [lbclient.Provider]: every upstream of every handler. One
// that is in the list serves unless Caddy says otherwise. One that was removed
// leaves no trace, so only the provider that drained it shows it as draining.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	v, err := p.look(ctx, p.op("look at"))
	if err != nil {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: v.epoch(), At: time.Now()}
	index := make(map[string]int)
	for _, h := range v.handlers {
		own, _ := h.resolve(p.cfg.Server) // one that means two is not ours
		for _, u := range h.upstreams {
			name := u.address
			if u.address == own {
				name = p.cfg.Server
			}
			phase, detail := lbclient.PhaseServing, "in the list"
			if down, why := v.down(h, u.address); down {
				phase, detail = lbclient.PhaseUnhealthy, why
			}
			i, known := index[name]
			if !known {
				i = len(out.Members)
				index[name] = i
				out.Members = append(out.Members, lbclient.Member{Name: name, Phase: phase, InFlight: v.counts[u.address].requests})
			}
			m := &out.Members[i]
			m.Phase = lbclient.Worst(m.Phase, phase)
			if m.Detail != "" {
				m.Detail += "; "
			}
			m.Detail += h.id + ": " + detail
		}
	}
	if i, known := index[p.cfg.Server]; len(p.held) > 0 && known {
		out.Members[i].Phase = lbclient.Worst(out.Members[i].Phase, lbclient.PhaseDraining)
	} else if len(p.held) > 0 {
		m := lbclient.Member{Name: p.cfg.Server, Phase: lbclient.PhaseDraining, Detail: "removed from " + strings.Join(p.cfg.Handlers, ", ")}
		m.InFlight, _ = p.inFlight(v, p.held)
		out.Members = append(out.Members, m)
	}
	return out, nil
}

// inFlight counts the requests of addresses that are in no handler any more, or
// -1 when this Caddy forgets them.
func (p *provider) inFlight(v *view, addresses []string) (n int64, why string) {
	for _, a := range addresses {
		s, known := v.counts[a]
		if !known && !p.cfg.CountsRemoved && !v.metrics.countsRemoved() {
			return -1, "this Caddy does not count the requests of a removed upstream; name a parked handler, or bring Caddy to 2.11.2 or newer"
		}
		n += s.requests
	}
	if n == 0 {
		return 0, "nothing in flight"
	}
	return n, fmt.Sprintf("%d in flight", n)
}

// Snapshot implements [lbclient.Provider]. Caddy knows no way to hold a member
// out but to remove it, which is ClassNotFound.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	op := p.op("record how the balancer holds")
	v, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Restore{}, err
	}
	var rec record
	serving := true
	for _, h := range v.handlers {
		at, err := p.find(op, h)
		if err != nil {
			return lbclient.Restore{}, err
		}
		down, _ := v.down(h, at)
		serving = serving && !down
		rec.Handlers = append(rec.Handlers, h.record(at))
	}
	return p.records().Put(op, rec, serving)
}

// Close implements [lbclient.Provider]. No connection outlives a request.
func (p *provider) Close() error { return nil }

// listed names what exists, within reason.
func listed(intro string, names []string) string {
	if len(names) == 0 {
		return intro + " none"
	}
	const most = 20
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return intro + " " + strings.Join(names, ", ") + more
}
