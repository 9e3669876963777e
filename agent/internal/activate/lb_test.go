package activate_test

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

type balancer struct{ *world }

func (b balancer) call(name string, f func() error) (err error) {
	b.op(name, func() {
		b.calls++
		if b.s.Flaky > 0 && b.calls%b.s.Flaky == 0 {
			err = &lbclient.Error{Class: lbclient.ClassTransient, Op: "ask", Text: "no answer"}
			return
		}
		err = f()
	})
	return err
}

// occupied refuses a change while the balancer is at work on another.
func (b balancer) occupied() error {
	b.asks++
	if b.busy.IsZero() {
		b.busy = time.Now()
	}
	if time.Since(b.busy) >= b.s.BusyFor {
		return nil
	}
	return &lbclient.Error{Class: b.s.Busy, Op: "change it", Text: "it processes previous actions", After: b.s.After}
}

// forcible is a balancer that can end work by force.
type forcible struct{ balancer }

func (b forcible) ForceIdle(context.Context, lbclient.Restore) error {
	return b.call("balancer.ForceIdle", func() error {
		if !b.drained {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: "force", Text: "not drained"}
		}
		b.forced++
		return nil
	})
}

func (b balancer) Preflight(context.Context) error { return nil }
func (b balancer) Close() error                    { return nil }

func (b balancer) Observe(context.Context) (p lbclient.Pool, err error) {
	err = b.call("balancer.Observe", func() error {
		m := lbclient.Member{Name: server, Phase: lbclient.PhaseUnhealthy}
		if b.drained {
			m.Phase = lbclient.PhaseDraining
		} else if b.serving() {
			m.Phase = lbclient.PhaseServing
		}
		p = lbclient.Pool{Members: []lbclient.Member{m}}
		return nil
	})
	return p, err
}

func (b balancer) Snapshot(context.Context) (r lbclient.Restore, err error) {
	err = b.call("balancer.Snapshot", func() error {
		if b.s.Refuses {
			return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: "snapshot", Text: "in maintenance by another hand"}
		}
		r = lbclient.Restore{Provider: "world", Target: server, Version: 1, WasServing: b.serving()}
		return nil
	})
	return r, err
}

func (b balancer) BeginDrain(_ context.Context, r lbclient.Restore, minHealthy int) error {
	return b.call("balancer.BeginDrain", func() error {
		if err := b.occupied(); err != nil {
			return err
		}
		if b.serving() && b.s.Others < minHealthy {
			if !b.loose.IsZero() {
				b.loose = time.Now() // not for want of asking
			}
			return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: "drain", Text: "too few others"}
		}
		if !b.saved() {
			b.violate("drained before the snapshot was on disk")
		}
		if !b.drained {
			b.asked = time.Now()
			b.touched = false
		}
		b.drained = true
		return nil
	})
}

// saved tells whether the journal could put the target back.
func (b balancer) saved() bool { return b.journaled().Turn.Restore != nil }

func (b balancer) DrainStatus(context.Context, lbclient.Restore) (st lbclient.DrainStatus, err error) {
	err = b.call("balancer.DrainStatus", func() error {
		b.looks++
		if b.s.ForgetAt > 0 && b.looks == b.s.ForgetAt {
			b.drained = false
			b.epoch++
			b.loose = time.Now()
		}
		st = lbclient.DrainStatus{Epoch: fmt.Sprint(b.epoch), Stage: lbclient.DrainBusy, Evidence: "1 request"}
		switch {
		case !b.drained:
			st.Stage = lbclient.DrainNotAsked
		case b.s.ForceAt > 0 && b.forced >= b.s.ForceAt:
			st.Stage = lbclient.DrainIdle
		case !b.s.DrainHangs && time.Since(b.asked) >= b.s.DrainTakes:
			st.Stage = lbclient.DrainIdle
		}
		return nil
	})
	return st, err
}

func (b balancer) BeginRejoin(context.Context, lbclient.Restore) error {
	return b.call("balancer.BeginRejoin", func() error {
		if err := b.occupied(); err != nil {
			return err
		}
		want := goal
		if t := b.journaled().Turn; t != nil && t.Undo != nil {
			want = t.Fallback
		}
		if b.touched && b.drained && (b.running != want || b.passed < passes) {
			b.violate("rejoined on %q after %d passes, before %q was verified", b.running, b.passed, want)
		}
		b.drained, b.loose = false, time.Time{}
		return nil
	})
}

func (b balancer) RejoinStatus(context.Context, lbclient.Restore) (st lbclient.RejoinStatus, err error) {
	err = b.call("balancer.RejoinStatus", func() error {
		st = lbclient.RejoinStatus{Stage: lbclient.RejoinUnhealthy, Evidence: "L7STS"}
		switch {
		case b.drained:
			st.Stage = lbclient.RejoinNotAsked
		case b.serving():
			st.Stage = lbclient.RejoinServing
		}
		return nil
	})
	return st, err
}
