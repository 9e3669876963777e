package hetzner

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider]. In gate mode there is nothing to
// put back, but a membership that was lost meanwhile is an error. In remove mode
// the target is added with what it had; where another hand has added it with
// something else, it is removed once more first.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	op := p.op("rejoin")
	rec, err := p.decode(op, r)
	if err != nil {
		return err
	}
	if err := p.rejoin(ctx, op, rec); err != nil {
		return err
	}
	p.held = nil
	return nil
}

func (p *provider) rejoin(ctx context.Context, op string, rec record) error {
	v, m, err := p.lookFor(ctx, op, rec)
	if err != nil {
		return err
	}
	if rec.Mode == ModeGate {
		if m == nil {
			return &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
				Text: fmt.Sprintf("%s is no target of load balancer %q any more: another hand removed it, and must put it back", rec.key(), v.lb.Name)}
		}
		return nil
	}
	if rec.isIn(m) {
		return p.settled(ctx, op, rec)
	}
	return p.putBackFrom(ctx, op, rec, m)
}

// isIn tells whether the member stands exactly as the record has it.
func (rec record) isIn(m *member) bool {
	own := m.own()
	return own != nil && own.usePrivate == rec.UsePrivateIP
}

// putBack adds the target as the record has it, and reads back.
func (p *provider) putBack(ctx context.Context, op string, rec record) error {
	_, m, err := p.lookFor(ctx, op, rec)
	if err != nil || rec.isIn(m) {
		return err
	}
	return p.putBackFrom(ctx, op, rec, m)
}

// putBackFrom is putBack where the target was just seen to stand as m.
func (p *provider) putBackFrom(ctx context.Context, op string, rec record, m *member) error {
	if m != nil {
		if m.own() == nil {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
				Text: fmt.Sprintf("another hand has made it a target as %s; to add it as well would send it double", m.through())}
		}
		if err := p.remove(ctx, op, rec); err != nil && !undecided(err) {
			return err
		}
	}
	failed := p.add(ctx, op, rec)
	if failed != nil && !undecided(failed) {
		return failed
	}
	_, m, err := p.lookFor(ctx, op, rec)
	switch {
	case err != nil:
		return err
	case rec.isIn(m):
		return nil
	case m == nil:
		return orElse(failed, op, "the balancer does not list it")
	}
	return orElse(failed, op, fmt.Sprintf("the balancer lists it as %s, want use_private_ip %t", m.through(), rec.UsePrivateIP))
}

// RejoinStatus implements [lbclient.Provider]. The target serves when it belongs
// as before and every port on which it was healthy before is so again.
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	op := p.op("look at the rejoin of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	v, m, err := p.lookFor(ctx, op, rec)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	switch {
	case m == nil:
		return lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked,
			Evidence: fmt.Sprintf("%s is no target of the balancer", rec.key())}, nil
	case rec.Mode == ModeRemove && !rec.isIn(m):
		return lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked,
			Evidence: fmt.Sprintf("the balancer lists it as %s, want use_private_ip %t", m.through(), rec.UsePrivateIP)}, nil
	}
	ports := v.still(rec.Ports)
	out := lbclient.RejoinStatus{Stage: lbclient.RejoinPending, Evidence: m.through() + ": " + m.words(ports)}
	switch m.phase(ports) {
	case lbclient.PhaseServing:
		out.Stage = lbclient.RejoinServing
	case lbclient.PhaseUnhealthy:
		out.Stage = lbclient.RejoinUnhealthy
	}
	return out, nil
}

// still are those of ports that the balancer still serves; all that it serves
// when none is left.
func (v view) still(ports []int) []int {
	var out []int
	for _, port := range ports {
		if slices.Contains(v.services, port) {
			out = append(out, port)
		}
	}
	if len(out) == 0 {
		return v.services
	}
	return out
}
