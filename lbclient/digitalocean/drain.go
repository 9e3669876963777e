package digitalocean

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// patience is how long an accepted change may take to show before it is asked
// for again. DigitalOcean accepts changes before it makes them, and does not say
// how long that takes.
func (p *provider) patience() time.Duration { return 60 * p.second }

// drainClock remembers since when what holds. A zero time is "it does not".
type drainClock struct {
	droplet int
	held    bool      // BeginDrain was confirmed
	gives   bool      // ModeRemove: a serving target leaves, and it was not counted again yet
	asked   time.Time // ModeRemove: since DigitalOcean accepted it
	absent  time.Time // ModeRemove: since it was first seen to be no member
	failing time.Time // ModeGate: since its check was first seen to fail
}

// set starts a clock that does not run yet.
func set(at *time.Time, now time.Time) {
	if at.IsZero() {
		*at = now
	}
}

// BeginDrain implements [lbclient.Provider]. DigitalOcean accepts a removal
// before it makes it; until the list shows it the answer is ClassBusy, and the
// next call only looks. The count of other members is taken right before the
// removal and again once it shows, because two agents may ask at the same time.
// In [ModeGate] nothing is changed.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	op := p.op("drain")
	rec, err := p.usable(op, r)
	if err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	b, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	if err := b.suits(op, rec.Mode); err != nil {
		return err
	}
	if rec.Mode == ModeGate {
		return p.beginGate(ctx, op, b, rec, r.WasServing, minHealthy)
	}
	p.holding(rec)
	if b.has(rec.Droplet) {
		if p.drain.absent.IsZero() && p.pending(p.drain.asked) {
			return p.notYet(op, p.drain.asked)
		}
		gives, err := p.allows(ctx, op, b, rec.Droplet, false, minHealthy)
		if err != nil {
			return err
		}
		if b, err = p.change(ctx, op, rec, false); err != nil {
			return err
		}
		p.drain = drainClock{droplet: rec.Droplet, asked: time.Now(), gives: gives}
		if b.has(rec.Droplet) {
			return p.notYet(op, p.drain.asked)
		}
	}
	p.drain.held = true
	set(&p.drain.absent, time.Now())
	if p.drain.gives {
		if err := p.enough(ctx, op, b, rec.Droplet, minHealthy); err != nil {
			return p.undo(ctx, rec, err)
		}
		p.drain.gives = false
	}
	return nil
}

// pending tells whether what was asked for may still come.
func (p *provider) pending(asked time.Time) bool {
	return !asked.IsZero() && time.Since(asked) < p.patience()
}

func (p *provider) notYet(op string, asked time.Time) error {
	return &lbclient.Error{Class: lbclient.ClassBusy, Op: op,
		Text: fmt.Sprintf("DigitalOcean accepted the change %s ago and has not made it yet", ago(time.Now(), asked))}
}

// usable decodes the record and refuses one of another mode.
func (p *provider) usable(op string, r lbclient.Restore) (record, error) {
	rec, err := p.decode(op, r)
	if err == nil && rec.Mode != p.cfg.Mode {
		err = &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the recorded state is of mode %q and %q is configured now; rejoin it, and record it again", rec.Mode, p.cfg.Mode)}
	}
	return rec, err
}

// holding forgets what was known of a rejoin and of another drain.
func (p *provider) holding(rec record) {
	p.rejoin = rejoinClock{}
	if p.drain.droplet != rec.Droplet {
		p.drain = drainClock{droplet: rec.Droplet}
	}
}

func (p *provider) beginGate(ctx context.Context, op string, b *balancer, rec record, served bool, minHealthy int) error {
	if !b.has(rec.Droplet) {
		return p.noMember(op, b, rec.Droplet)
	}
	if p.drain.droplet == rec.Droplet && p.drain.held {
		return nil
	}
	// The gate may be closed already, so that the check fails because of us.
	if _, err := p.allows(ctx, op, b, rec.Droplet, served, minHealthy); err != nil {
		return err
	}
	p.holding(rec)
	p.drain.held = true
	return nil
}

// allows refuses with ClassUnsafe when the target serves and too few others do.
// It tells whether a serving target is given up.
func (p *provider) allows(ctx context.Context, op string, b *balancer, id int, served bool, minHealthy int) (gives bool, err error) {
	if !served {
		v, _ := p.verdict(ctx, b, id)
		// Not seen is not down.
		served = v != VerdictFails
	}
	if err := ctx.Err(); err != nil {
		return false, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	if !served {
		return false, nil
	}
	return true, p.enough(ctx, op, b, id, minHealthy)
}

// enough counts the members beside the target whose check passes.
func (p *provider) enough(ctx context.Context, op string, b *balancer, id, minHealthy int) error {
	if minHealthy == 0 {
		return nil
	}
	others := *b
	others.members = nil
	for _, m := range b.members {
		if m != id {
			others.members = append(others.members, m)
		}
	}
	n := 0
	var why []string
	for _, m := range p.members(ctx, &others) {
		if m.Phase == lbclient.PhaseServing {
			n++
			continue
		}
		why = append(why, fmt.Sprintf("%s is %s (%s)", m.Name, m.Phase, m.Detail))
	}
	if n >= minHealthy {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	if len(why) == 0 {
		why = []string{fmt.Sprintf("it has %d other members", len(others.members))}
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
		Text: fmt.Sprintf("%d other members serve and %d must: %s", n, minHealthy, strings.Join(why, "; "))}
}

// change adds or removes the droplet, and nothing else: the balancer is never
// written as a whole. What was refused or lost counts as done when the balancer
// shows it. It returns the look after the change.
func (p *provider) change(ctx context.Context, op string, rec record, in bool) (*balancer, error) {
	method := http.MethodDelete
	do := p.api.LoadBalancers.RemoveDroplets
	if in {
		method, do = http.MethodPost, p.api.LoadBalancers.AddDroplets
	}
	if err := ctx.Err(); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	var refused *lbclient.Error
	if resp, err := do(ctx, p.cfg.LoadBalancer, rec.Droplet); err != nil {
		refused = failed(op, method, resp, err)
		switch refused.Class {
		case lbclient.ClassAmbiguous, lbclient.ClassConflict, lbclient.ClassNotFound:
		default:
			return nil, refused
		}
	}
	b, err := p.look(ctx, op)
	if err != nil {
		if refused != nil {
			return nil, lbclient.Noted(refused, fmt.Sprintf("and what became of it could not be read (%v)", err))
		}
		return nil, err
	}
	if refused != nil && b.has(rec.Droplet) != in {
		return nil, refused
	}
	return b, nil
}

// undo puts a droplet back whose removal proved unsafe, and returns cause with
// what became of it. It works on after ctx has ended, for a while, for a drain
// half done has nobody in charge.
func (p *provider) undo(ctx context.Context, rec record, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if _, err := p.change(ctx, p.op("undo the drain of"), rec, true); err != nil {
		return lbclient.Noted(cause, fmt.Sprintf("it was removed already and could not be put back (%v), so a rejoin must follow", err))
	}
	p.drain = drainClock{}
	return lbclient.Noted(cause, "it was removed already and is being put back")
}

// DrainStatus implements [lbclient.Provider]. Its best answer is DrainBusy with
// -1 in flight: DigitalOcean cannot say what is.
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	op := p.op("look at the drain of")
	rec, err := p.usable(op, r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	b, err := p.look(ctx, op)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	var stage lbclient.DrainStage
	var evidence string
	if rec.Mode == ModeRemove {
		stage, evidence = p.removed(b, rec)
	} else if stage, evidence, err = p.gated(ctx, op, b, rec); err != nil {
		return lbclient.DrainStatus{}, err
	}
	return lbclient.DrainStatus{Stage: stage, InFlight: -1, Epoch: b.epoch(), Evidence: evidence}, nil
}

// removed tells how far a removal has come.
func (p *provider) removed(b *balancer, rec record) (lbclient.DrainStage, string) {
	now := time.Now()
	if p.drain.droplet != rec.Droplet {
		p.drain = drainClock{droplet: rec.Droplet}
	}
	c := &p.drain
	if b.has(rec.Droplet) {
		switch {
		case !c.absent.IsZero():
			*c = drainClock{}
			return lbclient.DrainNotAsked, fmt.Sprintf("droplet %d was removed and another hand has put it back", rec.Droplet)
		case c.asked.IsZero():
			return lbclient.DrainNotAsked, fmt.Sprintf("droplet %d is a member", rec.Droplet)
		case !p.pending(c.asked):
			*c = drainClock{}
			return lbclient.DrainNotAsked, fmt.Sprintf("DigitalOcean accepted the removal of droplet %d but has not made it in %s", rec.Droplet, p.patience())
		}
		return lbclient.DrainAccepted, fmt.Sprintf("DigitalOcean has accepted the removal of droplet %d %s ago and not made it yet",
			rec.Droplet, ago(now, c.asked))
	}
	set(&c.absent, now)
	if rest := p.cfg.Settle - now.Sub(c.absent); rest > 0 {
		return lbclient.DrainAccepted, fmt.Sprintf("droplet %d is no member any more; new work may still arrive for %s",
			rec.Droplet, rest.Round(time.Millisecond))
	}
	return lbclient.DrainBusy, fmt.Sprintf("droplet %d has been no member for %s; DigitalOcean does not say what is still in flight",
		rec.Droplet, ago(now, c.absent))
}

func ago(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }

// gated tells whether the balancer must have noticed that the gate is closed.
// Whether the gate was asked to close is for the gate's own provider to say.
func (p *provider) gated(ctx context.Context, op string, b *balancer, rec record) (lbclient.DrainStage, string, error) {
	if p.drain.droplet != rec.Droplet {
		p.drain = drainClock{droplet: rec.Droplet}
	}
	t, err := b.timing(p.second)
	if err != nil {
		return "", "", &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op, Err: err}
	}
	c := &p.drain
	now := time.Now()
	v, detail := p.verdict(ctx, b, rec.Droplet)
	if err := ctx.Err(); err != nil {
		return "", "", &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	switch v {
	case VerdictPasses:
		c.failing = time.Time{}
		return lbclient.DrainAccepted, fmt.Sprintf("its check (%s) passes still: %s", p.checkOf(b), detail), nil
	case VerdictFails:
		set(&c.failing, now)
	default:
		// A clock that runs goes on: the gate was seen closed.
		if c.failing.IsZero() {
			return lbclient.DrainAccepted, fmt.Sprintf("whether its check (%s) fails cannot be seen: %s", p.checkOf(b), detail), nil
		}
	}
	return p.byBound(now, t, detail)
}

// byBound waits for the longest time that the balancer may take to notice, and
// one interval more for what is not documented.
func (p *provider) byBound(now time.Time, t lbclient.Timing, seen string) (lbclient.DrainStage, string, error) {
	bound := t.DownWithin() + t.Interval
	since := ago(now, p.drain.failing)
	if since < bound {
		return lbclient.DrainAccepted, fmt.Sprintf("its check has failed for %s; the balancer notices within %s by its own settings; %s", since, bound, seen), nil
	}
	return lbclient.DrainBusy, fmt.Sprintf("its check has failed for %s, which the balancer notices within %s by its own settings; %s", since, bound, seen), nil
}
