package nginx

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider]. It takes "down" off the target's
// lines, leaving alone what another hand changed in them meanwhile, and returns
// once the workers that take connections have read that. Between the two the
// lines bear a mark, so that a rejoin that was cut short is known as such.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	op := p.op("rejoin")
	if _, err := p.decode(op, r); err != nil {
		return err
	}
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	unlock, err := p.lock(ctx, op)
	if err != nil {
		return err
	}
	defer unlock()
	now, f, servers, err := p.stands(ctx, op)
	if err != nil {
		return err
	}
	held, inForce := false, true
	for _, s := range servers {
		if s.down() && !s.drained() {
			return f.foreign(op, s)
		}
		held = held || s.mark.word == markDrained
		inForce = inForce && s.inForce(now, f)
	}
	switch {
	case held:
		if f, err = p.bringBack(ctx, op, f, servers); err != nil {
			return err
		}
	case !inForce:
		at, _, err := p.moment(ctx, op)
		if err != nil {
			return err
		}
		if _, err := p.apply(ctx, op, f, at); err != nil {
			return err
		}
	}
	return p.settle(op, f)
}

// bringBack replaces the drain's marks by those of a rejoin, in force.
func (p *provider) bringBack(ctx context.Context, op string, f *file, servers []*server) (*file, error) {
	if err := f.changeable(op); err != nil {
		return nil, err
	}
	// Whoever broke the configuration meanwhile will mend it: try again.
	if err := p.test(ctx, op, f, lbclient.ClassConflict); err != nil {
		return nil, err
	}
	at, changed, err := p.moment(ctx, op)
	if err != nil {
		return nil, err
	}
	if err := f.write(op, replace(f.src, servers, func(s *server) string { return s.rejoining(at) }), changed); err != nil {
		return nil, err
	}
	if _, err := p.apply(ctx, op, f, at); err != nil {
		return nil, err
	}
	return p.read(ctx, op)
}

// settle removes what is left of marks. The file keeps its time, because nginx
// need not read it again.
func (p *provider) settle(op string, f *file) error {
	servers, err := p.find(op, f)
	if err != nil {
		return err
	}
	clean := !slices.ContainsFunc(servers, func(s *server) bool { return s.mark.word != "" })
	if clean {
		return nil
	}
	for _, s := range servers {
		if s.down() {
			return f.foreign(op, s)
		}
	}
	return f.write(op, replace(f.src, servers, (*server).unmarked), f.info.ModTime())
}

// RejoinStatus implements [lbclient.Provider]. Serving means that nginx runs
// with the line in use; whether it gets answers from the target nginx does not
// tell.
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	op := p.op("look at the rejoin of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	now, f, servers, err := p.stands(ctx, op)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	var clauses []string
	out := lbclient.RejoinStatus{Stage: lbclient.RejoinServing}
	for _, s := range servers {
		if s.down() || !s.inForce(now, f) {
			out.Stage = lbclient.RejoinNotAsked
			clauses = append(clauses, fmt.Sprintf("line %d of %s is %s", s.line, f.path, s.words(now, f)))
		}
	}
	if len(clauses) == 0 {
		clauses = append(clauses, fmt.Sprintf("in use by line %d of %s, which nginx has read; it has no health checks to tell more", servers[0].line, f.path))
	}
	out.Evidence = strings.Join(append(clauses, rec.edited(servers)...), "; ")
	return out, nil
}
