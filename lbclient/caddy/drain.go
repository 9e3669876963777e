package caddy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// settle is how long after a change idleness is not believed: a server that was
// replaced may have accepted a connection whose request it reads only then.
const settle = time.Second

// BeginDrain implements [lbclient.Provider]. It removes the target from all
// handlers or, when one of them fails, puts back those that this call had
// changed and says so. The others are counted in the state that the change
// requires, so of several targets that are drained at once none goes uncounted.
// One other must remain whatever minHealthy says, for Caddy answers 503 without.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	op := p.op("drain")
	rec, err := p.decode(op, r)
	if err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	v, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	var todo []handlerRecord
	for _, was := range rec.Handlers {
		h := v.handler(was.ID)
		if h.has(was.Address) == 0 {
			continue
		}
		if err := v.enough(op, h, was.Address, minHealthy); err != nil {
			return err
		}
		todo = append(todo, was)
	}
	if len(todo) == 0 {
		p.holds(rec)
		return nil
	}
	for i, was := range todo {
		h := v.handler(was.ID)
		err := p.put(ctx, op, h, h.without(was.Address))
		if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
			return p.undo(ctx, todo[:i], err)
		}
	}
	if err := p.confirm(ctx, op, rec); err != nil {
		return p.undo(ctx, todo, err)
	}
	p.out = time.Time{} // counted from now
	p.holds(rec)
	return nil
}

// put sends a list, in the place of the one that h has.
func (p *provider) put(ctx context.Context, op string, h *handler, upstreams []upstream) error {
	body, err := list(upstreams)
	if err != nil {
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op, Text: "handler " + h.id, Err: err}
	}
	return p.client.replace(ctx, op, "/id/"+h.id+"/upstreams", body, h.etag)
}

// enough refuses with ClassUnsafe when too few others serve beside the target.
func (v *view) enough(op string, h *handler, target string, minHealthy int) error {
	var serving int
	var out, seen []string
	for _, u := range h.without(target) {
		if slices.Contains(seen, u.address) {
			continue
		}
		seen = append(seen, u.address)
		if down, why := v.down(h, u.address); down {
			out = append(out, fmt.Sprintf("%s has %s", u.address, why))
		} else {
			serving++
		}
	}
	why := strings.Join(out, ", ")
	if why == "" {
		why = "there are no more"
	}
	if len(seen) == 0 {
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
			Text: fmt.Sprintf("it is the last upstream of handler %s, and Caddy would answer 503", h.id)}
	}
	if down, _ := v.down(h, target); !down && serving < minHealthy {
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
			Text: fmt.Sprintf("%d other members of handler %s serve and %d must: %s", serving, h.id, minHealthy, why)}
	}
	return nil
}

// confirm reads back that no handler has the target.
func (p *provider) confirm(ctx context.Context, op string, rec record) error {
	for _, was := range rec.Handlers {
		h, err := p.handler(ctx, op, was.ID)
		if err != nil {
			return err
		}
		if h.has(was.Address) > 0 {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
				Text: fmt.Sprintf("it was removed from handler %s but is there: Caddy was reloaded or another hand put it back", was.ID)}
		}
	}
	return nil
}

// holds notes that the target is out.
func (p *provider) holds(rec record) {
	if p.out.IsZero() {
		p.out = time.Now()
	}
	p.held = rec.addresses()
}

func (p *provider) released() { p.out, p.held = time.Time{}, nil }

// addresses are the target's, each once.
func (rec record) addresses() []string {
	var out []string
	for _, h := range rec.Handlers {
		if !slices.Contains(out, h.Address) {
			out = append(out, h.Address)
		}
	}
	return out
}

// undo puts the target back into the handlers from which it was removed when
// cause came up, and returns cause with what became of them. It works on after
// ctx has ended, within the timeout of each request, for a drain half done has
// nobody in charge.
func (p *provider) undo(ctx context.Context, changed []handlerRecord, cause error) error {
	ctx = context.WithoutCancel(ctx)
	op := p.op("undo the drain of")
	var undone, stuck []string
	for _, was := range changed {
		did, err := p.putBack(ctx, op, was)
		switch {
		case err != nil:
			stuck = append(stuck, fmt.Sprintf("%s (%v)", was.ID, err))
		case did:
			undone = append(undone, was.ID)
		}
	}
	var notes []string
	if len(undone) > 0 {
		notes = append(notes, "it was put back into handler "+strings.Join(undone, ", "))
	}
	if len(stuck) > 0 {
		notes = append(notes, "it may still be gone from handler "+strings.Join(stuck, ", ")+", so a rejoin must follow")
	}
	return lbclient.Noted(cause, notes...)
}

// DrainStatus implements [lbclient.Provider].
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	op := p.op("look at the drain of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	v, err := p.look(ctx, op)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	out := lbclient.DrainStatus{Epoch: v.epoch()}
	var there []string
	for _, was := range rec.Handlers {
		if v.handler(was.ID).has(was.Address) > 0 {
			there = append(there, fmt.Sprintf("%s is in handler %s", was.Address, was.ID))
		}
	}
	if len(there) > 0 {
		p.released()
		out.Stage, out.InFlight, out.Evidence = lbclient.DrainNotAsked, -1, strings.Join(there, "; ")
		return out, nil
	}
	p.holds(rec)
	n, why := p.inFlight(v, rec.addresses())
	out.InFlight = n
	out.Evidence = fmt.Sprintf("removed from handler %s; %s", strings.Join(p.cfg.Handlers, ", "), why)
	switch {
	case n != 0:
		out.Stage = lbclient.DrainBusy
	case time.Since(p.out) < settle:
		out.Stage = lbclient.DrainAccepted
		out.Evidence += fmt.Sprintf(", but a replaced server may begin a request for %s", settle)
	default:
		out.Stage = lbclient.DrainIdle
	}
	return out, nil
}
