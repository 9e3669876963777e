package agent

import (
	"errors"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/quiesce"
)

// How often it is checked that a target could be drained: while it could not be
// for what may have passed a moment later, while it could not be for another
// reason, and while all was well.
const (
	recheckPassing = 5 * time.Second
	recheckRefused = time.Minute
	recheckFine    = 10 * time.Minute
)

// speaksItself tells whether this agent, and not the coordinator alone, knows
// how the target's balancer stands.
func (o *observer) speaksItself() bool {
	return o.spec.Balancer != nil && (o.spec.Balancer.Via == api.ViaAgent || o.spec.Balancer.Gate != nil)
}

// checkBalancer does the preflight of a target when it is time to, so that what
// would stop a turn is known before there is one.
func (p *app) checkBalancer(o *observer) {
	if !o.speaksItself() {
		return
	}
	p.mu.Lock()
	r := o.report
	p.mu.Unlock()
	again := recheckFine
	switch {
	case r.Refused == nil:
	case r.Refused.Class == string(lbclient.ClassTransient):
		again = recheckPassing
	default:
		again = recheckRefused
	}
	if !r.Checked.IsZero() && time.Since(r.Checked) < again {
		return
	}
	ctx, cancel := p.look()
	defer cancel()
	err := o.lb.Preflight(ctx)
	if errors.Is(err, quiesce.ErrNobodyListens) && p.neverDeployed(o.instance) {
		err = nil // what is to listen is yet to come
	}
	if p.a.stop.Err() != nil {
		return
	}
	var timing *api.BalancerTiming
	if timed, ok := o.lb.(lbclient.Timed); ok && err == nil {
		// What cannot be told is not needed to drain the target.
		if t, err := timed.Timing(ctx); err == nil {
			timing = &api.BalancerTiming{DownWithin: api.Duration(t.DownWithin()), UpWithin: api.Duration(t.UpWithin())}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before, first := o.report.Refused, o.report.Checked.IsZero()
	o.report.Checked, o.report.Refused = now(), failure(err)
	caps := api.BalancerCaps(lbclient.CapsOf(o.lb))
	o.report.Caps = &caps
	if timing != nil {
		o.report.Timing = timing
	}
	if after := o.report.Refused; first || (after == nil) != (before == nil) || after != nil && *after != *before {
		p.a.notify()
	}
}

// neverDeployed tells that no release of the app was ever activated here, as that
// instance.
func (p *app) neverDeployed(instance string) bool {
	current, err := p.store.Instance(instance).Current()
	return err == nil && current == ""
}

// saw keeps what a look at the balancer brought, for the report.
func (p *app) saw(o *observer, pool lbclient.Pool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.report.Failed = failure(err)
	if err != nil {
		return
	}
	o.report.At = pool.At.UTC().Round(time.Millisecond)
	o.report.Members, o.report.Omitted = nil, 0
	for i, m := range pool.Members {
		if i == api.MaxReportedMembers {
			o.report.Omitted = len(pool.Members) - i
			break
		}
		o.report.Members = append(o.report.Members, api.BalancerMember{
			Name: m.Name, Phase: string(m.Phase), InFlight: m.InFlight, Detail: clip(m.Detail),
		})
	}
}

// balancerReport is what is known of the app's balancer, nil when this agent
// does not speak to it. The caller holds p.mu.
func (p *app) balancerReport(goals []api.Goal) *api.BalancerReport {
	var r *api.BalancerReport
	for _, g := range goals {
		o := p.observers[g.Target]
		if o == nil || !o.speaksItself() {
			continue
		}
		n := o.report // its members are replaced as a whole, never changed
		if r == nil {
			r = &n
			continue
		}
		// Of several instances the newest look, and whichever could not be drained.
		if n.At.After(r.At) {
			r.At, r.Members, r.Omitted, r.Failed = n.At, n.Members, n.Omitted, n.Failed
		}
		if n.Checked.IsZero() || r.Refused == nil && n.Refused != nil {
			r.Checked, r.Refused = n.Checked, n.Refused
		}
		if r.Timing == nil {
			r.Timing = n.Timing
		}
	}
	return r
}

func failure(err error) *api.BalancerFailure {
	if err == nil {
		return nil
	}
	return &api.BalancerFailure{Class: string(lbclient.ClassOf(err)), Text: clip(err.Error())}
}

// clip keeps a report small whatever a balancer says.
func clip(s string) string {
	if r := []rune(s); len(r) > api.MaxReportedDetail {
		return string(r[:api.MaxReportedDetail-1]) + "…"
	}
	return s
}

func now() time.Time { return time.Now().UTC().Round(time.Millisecond) }
