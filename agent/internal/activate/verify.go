package activate

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// probe looks at the health of a unit in state st. Without a health check a
// target is as healthy as its unit is active.
func (a *activation) probe(ctx context.Context, st unit.Status) health.Probe {
	if h := a.t.Spec.Health; h.HTTP == "" && h.TCP == "" {
		return health.Probe{At: time.Now(), OK: st.ActiveState == "active", Text: a.t.Spec.Unit + " is " + st.ActiveState}
	}
	return a.Probe(ctx, health.FromAPI(a.check()))
}

// check is how the release is checked that the present direction leads to.
func (a *activation) check() api.HealthCheck { return a.t.Spec.Health.Of(a.release().Recipe) }

// crashed compares a unit with the invocation that should be running; first is
// the state that counters are compared with.
func (a *activation) crashed(st, first unit.Status) error {
	name := a.t.Spec.Unit
	down := st.ActiveState == "failed" || st.ActiveState == "inactive"
	again := st.NRestarts > first.NRestarts || a.t.Running != "" && st.InvocationID != "" && st.InvocationID != a.t.Running
	if !down && !again {
		return nil
	}
	// The service manager can tell more, such as what the program said last.
	if a.t.Running != "" {
		ctx, cancel := a.call()
		defer cancel()
		if err := a.Units.Settled(ctx, name, a.t.Running, first.NRestarts); err != nil && fault.ReasonOf(err) == api.ReasonStartFailed {
			return err
		}
	}
	if down {
		return fault.Errorf(api.ReasonStartFailed, "%s did not stay up: it is %s (result %s, exit status %d)",
			name, st.ActiveState, st.Result, st.ExecMainStatus)
	}
	return fault.Errorf(api.ReasonStartFailed, "%s did not stay up: it ended (exit status %d) and was started again",
		name, st.ExecMainStatus)
}

// verify waits until the unit proves to run the release and passes its health
// checks, out of rotation.
func (a *activation) verify() error {
	h := a.t.Spec.Health
	within := orElse(h.Deadline.D(), 60*time.Second)
	deadline := time.Now().Add(within)
	first, err := a.status()
	if err != nil {
		return err
	}
	if a.t.Undo != nil && !a.t.Restarted {
		a.t.Running = first.InvocationID // it was never restarted
	}
	poll := quick(orElse(h.Interval.D(), time.Second))
	passes, need := 0, max(h.Passes, 1)
	last := health.Probe{Text: "no probe yet"}
	if a.resumed {
		a.keepDrained() // it may be in rotation: see proveAfterBoot
	}
	held := time.Now()
	for st := first; ; {
		if err := a.crashed(st, first); err != nil {
			return err
		}
		ctx, cancel := context.WithDeadline(a.Work, deadline)
		p := a.probe(ctx, st)
		// A probe that the deadline cut short says nothing about the target,
		// unless it is all there is.
		if cut := !p.OK && ctx.Err() != nil; !cut || last.At.IsZero() {
			last = p
			if p.OK {
				passes++
			} else {
				passes = 0
			}
		}
		cancel()
		if a.Work.Err() != nil {
			return ErrStopped
		}
		waits := fmt.Sprintf("%d of %d passes: %s", passes, need, last.Text)
		var unproved error
		if passes >= need && st.ActiveState == "active" {
			ctx, cancel := a.call()
			unproved = a.proves(ctx, a.wants(), last)
			cancel()
			if a.Work.Err() != nil {
				return ErrStopped
			}
			if unproved == nil {
				break
			}
			// Workers take their time to be replaced. Otherwise what answers now is
			// what will.
			if !a.reloads() || fault.ReasonOf(unproved) != api.ReasonWrongRelease {
				return unproved
			}
			waits = unproved.Error()
		}
		if !time.Now().Before(deadline) {
			a.showHealth(api.Unhealthy)
			if unproved != nil {
				return unproved
			}
			return a.unhealthy(within, st, passes, need, last)
		}
		a.show(waits)
		wait := poll.next()
		if last.OK && h.Interval > 0 {
			wait = h.Interval.D()
		}
		if err := a.pause(min(wait, time.Until(deadline))); err != nil {
			return err
		}
		if time.Since(held) > time.Second {
			a.keepDrained()
			held = time.Now()
		}
		if st, err = a.status(); err != nil {
			return err
		}
	}
	// Once more, for a process that answered and fell over.
	st, err := a.status()
	if err != nil {
		return err
	}
	if err := a.crashed(st, first); err != nil {
		return err
	}
	a.t.Running = st.InvocationID
	a.showHealth(api.Healthy)
	a.showProved(a.wants())
	return nil
}

func (a *activation) unhealthy(within time.Duration, st unit.Status, passes, need int, last health.Probe) error {
	if st.ActiveState != "active" {
		return fault.Errorf(api.ReasonStartFailed, "%s is still %s after %s", a.t.Spec.Unit, st.ActiveState, within)
	}
	return fault.Errorf(api.ReasonUnhealthy, "release %s is not healthy after %s: last probe %s, %d of %d passes",
		a.wants(), within, last.Text, passes, need)
}

// soak watches the target in rotation for a while.
func (a *activation) soak() error {
	h := a.t.Spec.Health
	interval := orElse(h.Interval.D(), time.Second)
	tolerate := max(h.Failures, 1)
	end := a.t.Since.Add(a.t.Soak.D())
	// A look at the balancer that brings nothing is not held against anybody
	// for this long.
	var blind time.Time
	var last health.Probe
	failures, out := 0, 0
	first, err := a.status()
	if err != nil {
		return err
	}
	for st := first; ; {
		if err := a.crashed(st, first); err != nil {
			return soakFailed(err)
		}
		ctx, cancel := a.call()
		p := a.probe(ctx, st)
		last = p
		rejoined, err := a.Balancer.RejoinStatus(ctx, *a.t.Restore)
		cancel()
		if a.Work.Err() != nil {
			return ErrStopped
		}
		if p.OK {
			failures = 0
		} else if failures++; failures >= tolerate {
			a.showHealth(api.Unhealthy)
			return soakFailed(fmt.Errorf("%d probes in a row failed: %s", failures, p.Text))
		}
		in := err == nil && rejoined.Stage == lbclient.RejoinServing
		switch {
		case in:
			out, blind = 0, time.Time{}
		case err != nil:
			if blind.IsZero() {
				blind = time.Now()
			}
			if !lbclient.ClassOf(err).Retryable() || time.Since(blind) > patience(err) {
				return balancerFault(err)
			}
			a.show(err.Error())
		default:
			if out++; out >= tolerate {
				return a.leftRotation(rejoined)
			}
			a.show(rejoined.Evidence)
		}
		left := time.Until(end)
		if left <= 0 && in && p.OK {
			break
		}
		if left < -retryTimeout {
			return soakFailed(fmt.Errorf("at the end of the soak it was not seen healthy and in rotation at once for %s", retryTimeout))
		}
		wait := interval
		if left > 0 {
			wait = min(wait, left)
		}
		if err := a.pause(wait); err != nil {
			return err
		}
		if st, err = a.status(); err != nil {
			return err
		}
	}
	ctx, cancel := a.call()
	defer cancel()
	if err := a.proves(ctx, a.t.Release, last); err != nil {
		if a.Work.Err() != nil {
			return ErrStopped
		}
		return soakFailed(err)
	}
	return nil
}

// soakFailed blames the release, unless err is about the node.
func soakFailed(err error) error {
	if fault.ReasonOf(err) == api.ReasonSystemd {
		return err
	}
	return fault.New(api.ReasonSoakFailed, fmt.Errorf("it did not last in rotation: %w", err))
}

// leftRotation tells a balancer that finds the target bad from another hand.
func (a *activation) leftRotation(st lbclient.RejoinStatus) error {
	if st.Stage == lbclient.RejoinNotAsked {
		return fault.Errorf(api.ReasonBalancerRefused, "%s was taken out of rotation by another hand while soaking: %s",
			a.t.Restore.Target, st.Evidence)
	}
	return soakFailed(fmt.Errorf("the balancer no longer calls it healthy: %s", st.Evidence))
}
