package caddy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider]. It inserts the target into every
// handler that lacks it, as it stood and where it stood, even when another
// handler fails, and then returns the first error. What another hand put in
// meanwhile stands.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	op := p.op("rejoin")
	rec, err := p.decode(op, r)
	if err != nil {
		return err
	}
	var first error
	for _, was := range rec.Handlers {
		if _, err := p.putBack(ctx, op, was); err != nil && first == nil {
			first = err
		}
	}
	if first == nil {
		p.released()
	}
	return first
}

// putBack inserts the target into one handler if it is not there, and reads
// back. It tells whether there was anything to do.
func (p *provider) putBack(ctx context.Context, op string, was handlerRecord) (bool, error) {
	h, err := p.handler(ctx, op, was.ID)
	if err != nil {
		return false, err
	}
	if h.has(was.Address) > 0 {
		return false, nil
	}
	upstreams, err := h.with(was)
	if err != nil {
		return false, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Err: err}
	}
	err = p.put(ctx, op, h, upstreams)
	if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
		return false, err
	}
	lost := err
	if h, err = p.handler(ctx, op, was.ID); err != nil {
		return false, err
	}
	if h.has(was.Address) == 0 {
		if lost != nil {
			return false, lost
		}
		return false, &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
			Text: fmt.Sprintf("it was put into handler %s but is not there: Caddy was reloaded or another hand removed it", was.ID)}
	}
	return true, nil
}

// RejoinStatus implements [lbclient.Provider]. Serving means that every handler
// has the target and that Caddy has not found it failing. A Caddy that checks
// its upstreams sends work to a new one before its first check has failed, so
// this is not its own word that the target is healthy.
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	op := p.op("look at the rejoin of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	v, err := p.look(ctx, op)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	var missing, failing, edited []string
	for _, was := range rec.Handlers {
		h := v.handler(was.ID)
		if h.has(was.Address) == 0 {
			missing = append(missing, fmt.Sprintf("handler %s lacks %s", was.ID, was.Address))
			continue
		}
		if down, why := v.down(h, was.Address); down {
			failing = append(failing, fmt.Sprintf("in handler %s %s has %s", was.ID, was.Address, why))
		}
		same := slices.EqualFunc(h.record(was.Address).Entries, was.Entries, func(a, b entryRecord) bool {
			u, err := parseUpstream(b.Upstream) // in the form in which a is
			return err == nil && string(a.Upstream) == string(u.raw)
		})
		if !same {
			edited = append(edited, fmt.Sprintf("another hand put it into handler %s with other settings, which stand", was.ID))
		}
	}
	out := lbclient.RejoinStatus{Stage: lbclient.RejoinServing}
	evidence := []string{fmt.Sprintf("in handler %s; Caddy tells nothing of its health", strings.Join(p.cfg.Handlers, ", "))}
	switch {
	case len(missing) > 0:
		out.Stage, evidence = lbclient.RejoinNotAsked, missing
	case len(failing) > 0:
		out.Stage, evidence = lbclient.RejoinUnhealthy, failing
	}
	out.Evidence = strings.Join(append(evidence, edited...), "; ")
	return out, nil
}
