package digitalocean

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// rejoinClock remembers since when what holds. A zero time is "it does not".
type rejoinClock struct {
	droplet int
	begun   time.Time // since BeginRejoin, or since it was first seen to be a member
	asked   time.Time // ModeRemove: since DigitalOcean accepted it
	passing time.Time // since its check was first seen to pass
}

// BeginRejoin implements [lbclient.Provider]. As with BeginDrain, ClassBusy means
// accepted and not made yet. It works with a record of the
// other mode too, so that a change of the configuration leaves nobody out.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	op := p.op("rejoin")
	rec, err := p.decode(op, r)
	if err != nil {
		return err
	}
	b, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	member := b.has(rec.Droplet)
	if !member && rec.Mode == ModeGate {
		e := p.noMember(op, b, rec.Droplet)
		return lbclient.Noted(e, "another hand has removed it, and it is not ours to put back")
	}
	// The list shows a removal late, so a member may be on its way out.
	leaving := member && rec.Mode == ModeRemove && p.drain.droplet == rec.Droplet && p.drain.absent.IsZero() && p.pending(p.drain.asked)
	switch {
	case member && !leaving:
		p.returning(rec)
		return nil
	case !member && p.rejoin.droplet == rec.Droplet && p.pending(p.rejoin.asked):
		return p.notYet(op, p.rejoin.asked)
	}
	if err := b.suits(op, rec.Mode); err != nil {
		return err
	}
	if b, err = p.change(ctx, op, rec, true); err != nil {
		return err
	}
	p.returning(rec)
	p.rejoin.asked = time.Now()
	if !b.has(rec.Droplet) {
		return p.notYet(op, p.rejoin.asked)
	}
	return nil
}

// returning forgets what was known of a drain.
func (p *provider) returning(rec record) {
	p.drain = drainClock{}
	if p.rejoin.droplet != rec.Droplet {
		p.rejoin = rejoinClock{droplet: rec.Droplet}
	}
	set(&p.rejoin.begun, time.Now())
}

// RejoinStatus implements [lbclient.Provider]. RejoinServing means that the
// droplet is a member and that the balancer must have noticed that its check
// passes; DigitalOcean itself does not say.
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	op := p.op("look at the rejoin of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	b, err := p.look(ctx, op)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	now := time.Now()
	c := &p.rejoin
	if !b.has(rec.Droplet) {
		c.passing = time.Time{}
		if c.droplet == rec.Droplet && p.pending(c.asked) {
			return lbclient.RejoinStatus{Stage: lbclient.RejoinPending,
				Evidence: fmt.Sprintf("DigitalOcean has accepted droplet %d %s ago and not added it yet", rec.Droplet, ago(now, c.asked))}, nil
		}
		p.rejoin = rejoinClock{}
		return lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked, Evidence: fmt.Sprintf("droplet %d is no member", rec.Droplet)}, nil
	}
	if p.drain.droplet == rec.Droplet && p.drain.held {
		return lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked, Evidence: fmt.Sprintf("droplet %d is being drained", rec.Droplet)}, nil
	}
	if c.droplet != rec.Droplet {
		*c = rejoinClock{droplet: rec.Droplet, begun: now}
	}
	// It was added: whoever removes it from now on is another hand.
	c.asked = time.Time{}
	if b.status != "active" {
		c.passing = time.Time{}
		return lbclient.RejoinStatus{Stage: lbclient.RejoinPending, Evidence: fmt.Sprintf("the load balancer's status is %q", b.status)}, nil
	}
	t, err := b.timing(p.second)
	if err != nil {
		return lbclient.RejoinStatus{}, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op, Err: err}
	}
	v, detail := p.verdict(ctx, b, rec.Droplet)
	if err := ctx.Err(); err != nil {
		return lbclient.RejoinStatus{}, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	switch v {
	case VerdictPasses:
		set(&c.passing, now)
		return p.upBound(now, t, detail), nil
	case VerdictFails:
		c.passing = time.Time{}
		return lbclient.RejoinStatus{Stage: lbclient.RejoinUnhealthy,
			Evidence: fmt.Sprintf("droplet %d is a member; its check (%s), looked at by us: %s", rec.Droplet, p.checkOf(b), detail)}, nil
	}
	c.passing = time.Time{}
	return lbclient.RejoinStatus{Stage: lbclient.RejoinPending,
		Evidence: fmt.Sprintf("droplet %d is a member; whether its check (%s) passes cannot be seen: %s", rec.Droplet, p.checkOf(b), detail)}, nil
}

// upBound waits for the longest time that the balancer may take to notice, and
// one interval more for what is not documented. A droplet that was added is
// checked only once its addition has reached the machines that balance.
func (p *provider) upBound(now time.Time, t lbclient.Timing, seen string) lbclient.RejoinStatus {
	bound := t.UpWithin() + t.Interval
	if p.cfg.Mode == ModeRemove {
		bound += p.cfg.Settle
	}
	since := ago(now, p.rejoin.passing)
	if since < bound {
		return lbclient.RejoinStatus{Stage: lbclient.RejoinPending,
			Evidence: fmt.Sprintf("its check has passed for %s; the balancer notices within %s by its own settings; %s", since, bound, seen)}
	}
	return lbclient.RejoinStatus{Stage: lbclient.RejoinServing,
		Evidence: fmt.Sprintf("its check has passed for %s, which the balancer notices within %s by its own settings; DigitalOcean does not tell more; %s", since, bound, seen)}
}
