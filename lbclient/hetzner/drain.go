package hetzner

import (
	"context"
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginDrain implements [lbclient.Provider]. In gate mode it changes nothing and
// only guards min_healthy, so it comes before the gate is closed. In remove mode
// it returns once the action has ended and the balancer no longer lists the
// target, or with ClassBusy, to be called again, when that takes long.
//
// The others are counted by the balancer's own health, right before the removal
// and again right after it, because two agents may ask at the same time.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	op := p.op("drain")
	rec, err := p.decode(op, r)
	if err != nil {
		return err
	}
	if err := p.drain(ctx, op, rec, minHealthy); err != nil {
		return err
	}
	p.held = &rec
	return nil
}

func (p *provider) drain(ctx context.Context, op string, rec record, minHealthy int) error {
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	v, m, err := p.lookFor(ctx, op, rec)
	if err != nil {
		return err
	}
	if m == nil && rec.Mode == ModeRemove {
		return p.settled(ctx, op, rec) // removed already
	}
	if err := p.drainable(op, rec.Mode, v, m, rec.key()); err != nil {
		return err
	}
	ports := v.ports(p.cfg.Ports)
	if why := v.enough(rec.key(), ports, minHealthy); why != "" {
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op, Text: why}
	}
	if rec.Mode == ModeGate {
		return nil
	}
	if own := m.own(); own.usePrivate != rec.UsePrivateIP {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("use_private_ip was %t when its state was recorded and is %t now; record it again", rec.UsePrivateIP, own.usePrivate)}
	}
	gave := m.phase(ports) != lbclient.PhaseUnhealthy
	return p.takeOut(ctx, op, rec, gave, ports, minHealthy)
}

// takeOut removes the target, reads back, and puts it back when that left too
// few others.
func (p *provider) takeOut(ctx context.Context, op string, rec record, gave bool, ports []int, minHealthy int) error {
	failed := p.remove(ctx, op, rec)
	if failed != nil && !undecided(failed) {
		return failed
	}
	v, m, err := p.lookFor(ctx, op, rec)
	if err != nil {
		return err
	}
	if m != nil {
		return orElse(failed, op, fmt.Sprintf("the balancer still lists it, as %s", m.through()))
	}
	if !gave {
		return nil
	}
	why := v.enough(rec.key(), ports, minHealthy)
	if why == "" {
		return nil
	}
	// On a context of its own, for a drain that was refused has nobody in charge.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*p.cfg.ActionWait)
	defer cancel()
	text := why + "; it was put back"
	if err := p.putBack(ctx, p.op("put back"), rec); err != nil {
		text = fmt.Sprintf("%s; it could not be put back (%v), so a rejoin must follow", why, err)
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op, Text: text}
}

// DrainStatus implements [lbclient.Provider]. It is never idle, since Hetzner
// counts no connections of one target: once nothing new arrives it is busy with
// -1 in flight. In gate mode it is accepted until every port of the record is
// unhealthy, also when no gate was closed, which only the gate knows.
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	op := p.op("look at the drain of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	v, m, err := p.lookFor(ctx, op, rec)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	out := lbclient.DrainStatus{Stage: lbclient.DrainBusy, InFlight: -1, Epoch: v.epoch()}
	switch {
	case rec.Mode == ModeRemove && m == nil:
		p.held = &rec
		out.Evidence = fmt.Sprintf("%s is no target of the balancer any more; its connections in flight cannot be counted there", rec.key())
		return out, nil
	case rec.Mode == ModeRemove:
		p.held = nil
		out.Stage = lbclient.DrainNotAsked
		out.Evidence = fmt.Sprintf("the balancer lists it, as %s", m.through())
		return out, nil
	}
	if err := p.drainable(op, rec.Mode, v, m, rec.key()); err != nil {
		return lbclient.DrainStatus{}, err
	}
	var open []string
	ports := v.still(rec.Ports)
	for _, port := range ports {
		if h := m.at(port); h.status != unhealthy {
			open = append(open, fmt.Sprintf("%d %s", port, h.status))
		}
	}
	out.Evidence = "the balancer finds it unhealthy and sends nothing new: " + m.words(ports)
	if len(open) > 0 {
		out.Stage = lbclient.DrainAccepted
		out.Evidence = "the balancer has not noticed yet: " + strings.Join(open, ", ")
	}
	return out, nil
}

// ForceIdle implements [lbclient.Forcer].
func (p *provider) ForceIdle(context.Context, lbclient.Restore) error {
	return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: p.op("cut off the connections of"),
		Text: "Hetzner's API has no such means; connections end with the app, or at the service's idle timeout"}
}
