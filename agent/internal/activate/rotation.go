package activate

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// settle is how far apart the idle looks must be that follow an epoch change: a
// balancer that has just been reloaded may not count yet what its old process
// still serves.
const settle = 250 * time.Millisecond

// balancerFault gives a balancer's error the reason that the coordinator
// branches on.
func balancerFault(err error) error {
	if lbclient.ClassOf(err) == lbclient.ClassUnsafe {
		return fault.New(api.ReasonBalancerRefused, err)
	}
	return fault.New(api.ReasonBalancerFailed, err)
}

// ask repeats a call to the balancer while it fails in passing, for at least
// within, and longer where the balancer asks for patience. A wait that it asks
// for and that is longer than that is begun only on the way back.
func (a *activation) ask(within time.Duration, f func(context.Context) error) error {
	p := quick(2 * time.Second)
	begun := time.Now()
	for {
		ctx, cancel := a.call()
		err := f(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if a.Work.Err() != nil {
			return ErrStopped
		}
		left := max(within, patience(err)) - time.Since(begun)
		after := lbclient.AfterOf(err)
		if a.t.Undo != nil {
			after = min(after, left) // the way back is tried once more at the end
		}
		if !a.worthRepeating(err) || left < 0 || after > left {
			return balancerFault(err)
		}
		a.show(err.Error())
		if err := a.pause(max(p.next(), after)); err != nil {
			return err
		}
	}
}

// worthRepeating: going back also outlasts that too few others are healthy,
// since the way back is blocked by it.
func (a *activation) worthRepeating(err error) bool {
	class := lbclient.ClassOf(err)
	return class.Retryable() || a.t.Undo != nil && class == lbclient.ClassUnsafe
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

func (a *activation) balancer() api.Balancer {
	if a.t.Spec.Balancer == nil {
		return api.Balancer{}
	}
	return *a.t.Spec.Balancer
}

// beginDrain asks for the drain until the balancer holds it.
func (a *activation) beginDrain() error {
	a.admitted = false
	err := a.ask(retryTimeout, func(ctx context.Context) error {
		return a.Balancer.BeginDrain(ctx, *a.t.Restore, a.balancer().MinHealthy)
	})
	if err != nil {
		return err
	}
	if a.t.OutSince == nil {
		now := time.Now()
		a.t.OutSince = &now
	}
	a.begun = true
	a.showRotation(api.RotationDraining)
	return nil
}

// drain takes the target out of rotation and waits until nothing is in flight.
// It may be called again at any time to make sure that this still holds.
func (a *activation) drain() error {
	if !a.begun {
		if err := a.beginDrain(); err != nil {
			return err
		}
	}
	within := orElse(a.balancer().DrainTimeout.D(), 30*time.Second)
	deadline := time.Now().Add(within)
	p := quick(time.Second)
	begun, forced := time.Now(), 0
	var failing time.Time // since when looks fail, or the drain is forgotten
	epoch, idle, need := "", 0, 1
	for {
		ctx, cancel := a.call()
		st, err := a.Balancer.DrainStatus(ctx, *a.t.Restore)
		cancel()
		if err != nil || st.Stage == lbclient.DrainNotAsked {
			if failing.IsZero() {
				failing = time.Now()
			}
			if a.Work.Err() != nil {
				return ErrStopped
			}
			if err == nil {
				// Reloaded, or undone by another hand: both may happen again.
				err = &lbclient.Error{
					Class: lbclient.ClassConflict, Op: "keep " + a.t.Restore.Target + " drained",
					Text: "the balancer forgot the drain: " + st.Evidence,
				}
				if e := a.beginDrain(); e != nil {
					return e
				}
				p = quick(time.Second)
				idle, need = 0, 2
			}
			if !lbclient.ClassOf(err).Retryable() || time.Since(failing) > patience(err) || time.Since(begun) > within+patience(err) {
				return balancerFault(err)
			}
			a.show(err.Error())
			if err := a.pause(max(p.next(), settle, min(lbclient.AfterOf(err), busyTimeout))); err != nil {
				return err
			}
			continue
		}
		failing = time.Time{}
		if epoch != "" && st.Epoch != epoch {
			idle, need = 0, 2
		}
		epoch = st.Epoch
		wait := p.next()
		if st.Stage == lbclient.DrainIdle {
			a.showRotation(api.RotationOut)
			if idle++; idle >= need {
				if forced > 0 {
					a.remark = fmt.Sprintf("after %s (drain_timeout) what was still in flight was ended by force", within)
				}
				return nil
			}
			wait = settle
		} else {
			idle = 0
			a.show(st.Evidence)
			if !time.Now().Before(deadline) {
				if st.Stage != lbclient.DrainBusy || a.balancer().OnDrainTimeout != "force" || forced == forces {
					return a.drainTimedOut(st, within)
				}
				forced++
				a.force(st)
				deadline, p = time.Now().Add(forceWait), quick(time.Second)
				continue
			}
			wait = min(wait, time.Until(deadline))
		}
		if err := a.pause(wait); err != nil {
			return err
		}
	}
}

// force has the balancer end what remains, as fleet.yaml says that it may. What
// comes of it shows at the next look: a drain goes on without it.
func (a *activation) force(st lbclient.DrainStatus) {
	a.Log.Warn("the drain ran out of time; ending what remains by force", "evidence", st.Evidence)
	err := error(&lbclient.Error{Class: lbclient.ClassUnsupported, Op: "end the work by force", Text: "the balancer has no means to"})
	if f, ok := a.Balancer.(lbclient.Forcer); ok {
		ctx, cancel := a.call()
		err = f.ForceIdle(ctx, *a.t.Restore)
		cancel()
	}
	a.forceFailed = err
	if err != nil {
		a.Log.Warn("cannot end the work by force", "error", err)
		a.show(err.Error())
	}
}

// drainTimedOut decides what becomes of work that does not end.
func (a *activation) drainTimedOut(st lbclient.DrainStatus, within time.Duration) error {
	if st.Stage == lbclient.DrainAccepted {
		return fault.Errorf(api.ReasonBalancerFailed,
			"cannot drain %s: after %s the balancer still sends it new work: %s", a.t.Restore.Target, within, st.Evidence)
	}
	// Going back cannot be given up for the sake of one slow request.
	if on := a.balancer().OnDrainTimeout; on == "proceed" || on == "force" || a.t.Undo != nil {
		a.Log.Warn("the drain ran out of time; going on", "timeout", within, "evidence", st.Evidence)
		a.proceed = true
		a.remark = fmt.Sprintf("after %s (drain_timeout) it went on with work in flight: %s", within, st.Evidence)
		if a.forceFailed != nil {
			a.remark += fmt.Sprintf("; it could not be ended by force: %v", a.forceFailed)
		}
		return nil
	}
	return fault.Errorf(api.ReasonBalancerFailed,
		"cannot drain %s: work was still in flight after %s (on_drain_timeout: abort): %s", a.t.Restore.Target, within, st.Evidence)
}

// holdDrain makes sure that the target is still out, immediately before the
// restart and while a fresh process is not yet proved.
func (a *activation) holdDrain() error {
	var st lbclient.DrainStatus
	err := a.ask(retryTimeout, func(ctx context.Context) (err error) {
		st, err = a.Balancer.DrainStatus(ctx, *a.t.Restore)
		return err
	})
	switch {
	case err != nil:
		return err
	case st.Stage == lbclient.DrainIdle, a.proceed && st.Stage == lbclient.DrainBusy:
		return nil
	}
	return a.drain()
}

// keepDrained asks again for a drain that the balancer forgot while a process
// that is not proved yet runs behind it. It does its best: a balancer that
// fails meanwhile says nothing about the release.
func (a *activation) keepDrained() {
	const tries = 3
	for range tries {
		ctx, cancel := a.call()
		st, err := a.Balancer.DrainStatus(ctx, *a.t.Restore)
		if err == nil && st.Stage == lbclient.DrainNotAsked {
			err = a.Balancer.BeginDrain(ctx, *a.t.Restore, a.balancer().MinHealthy)
		}
		cancel()
		if err == nil {
			return
		}
		a.show(err.Error())
		if !lbclient.ClassOf(err).Retryable() {
			return
		}
	}
}

// rejoin puts the target back as it stood and waits until the balancer itself
// calls it healthy.
func (a *activation) rejoin() error {
	if a.Rejoins != nil && a.wants() != "" {
		a.Rejoins(a.check())
	}
	timeout := orElse(a.balancer().RejoinTimeout.D(), 60*time.Second)
	begin := func() error {
		return a.ask(max(timeout, retryTimeout), func(ctx context.Context) error {
			return a.Balancer.BeginRejoin(ctx, *a.t.Restore)
		})
	}
	if err := begin(); err != nil {
		return err
	}
	a.begun, a.admitted = false, true
	if a.t.Undo != nil && a.unswitched() && !a.t.Restore.WasServing {
		// Nothing was changed but the drain, and it did not serve before.
		return nil
	}
	deadline := time.Now().Add(timeout)
	p := quick(500 * time.Millisecond)
	for {
		var last string
		ctx, cancel := a.call()
		st, err := a.Balancer.RejoinStatus(ctx, *a.t.Restore)
		cancel()
		switch {
		case err != nil:
			if a.Work.Err() != nil {
				return ErrStopped
			}
			last = err.Error()
			if !lbclient.ClassOf(err).Retryable() {
				return balancerFault(err)
			}
		case st.Stage == lbclient.RejoinServing:
			a.back()
			a.showRotation(api.RotationIn)
			return nil
		case st.Stage == lbclient.RejoinNotAsked:
			last = st.Evidence
			if err := begin(); err != nil {
				return err
			}
		default:
			last = st.Evidence
		}
		a.show(last)
		if !time.Now().Before(deadline) {
			return fault.Errorf(api.ReasonRejoinTimeout, "cannot rejoin %s: the balancer did not call it healthy in %s: %s",
				a.t.Restore.Target, timeout, last)
		}
		if err := a.pause(p.next()); err != nil {
			return err
		}
	}
}

// back ends the time out of rotation.
func (a *activation) back() {
	if a.t.OutSince != nil {
		a.t.Out += api.Duration(time.Since(*a.t.OutSince))
		a.t.OutSince = nil
	}
}

// takeSnapshot records how the target stands in its balancer. One that an
// earlier turn left out stands as it stood before that turn.
func (a *activation) takeSnapshot() error {
	if a.leftOut() {
		r := a.held.Restore
		a.t.Restore = &r
		return nil
	}
	return a.ask(retryTimeout, func(ctx context.Context) error {
		r, err := a.Balancer.Snapshot(ctx)
		if err == nil {
			a.t.Restore = &r
		}
		return err
	})
}

// leftOut tells whether an earlier turn left the target out of rotation, in the
// balancer that it still stands in.
func (a *activation) leftOut() bool {
	h := a.held
	return h != nil && h.Server == a.t.Server && samePlace(h.Balancer, a.balancer())
}

// samePlace tells whether two settings speak of the same members.
func samePlace(a, b api.Balancer) bool {
	return a.Name == b.Name && a.Type == b.Type && (a.Gate == nil) == (b.Gate == nil) &&
		reflect.DeepEqual(a.Endpoints, b.Endpoints) && reflect.DeepEqual(a.Backends, b.Backends) &&
		reflect.DeepEqual(nginxPlace(a.Nginx), nginxPlace(b.Nginx)) && reflect.DeepEqual(caddyPlace(a.Caddy), caddyPlace(b.Caddy)) &&
		cloudPlace(a.Cloud) == cloudPlace(b.Cloud)
}

// nginxPlace leaves out how it is reloaded, which may be mended meanwhile.
func nginxPlace(n *api.Nginx) api.Nginx {
	if n == nil {
		return api.Nginx{}
	}
	return api.Nginx{File: n.File, Upstreams: n.Upstreams}
}

func caddyPlace(c *api.Caddy) api.Caddy {
	if c == nil {
		return api.Caddy{}
	}
	return api.Caddy{Endpoint: c.Endpoint, Handlers: c.Handlers}
}

func cloudPlace(c *api.Cloud) [3]string {
	if c == nil {
		return [3]string{}
	}
	return [3]string{c.LoadBalancer, c.Endpoint, c.Mode}
}

// heldNow returns what a later turn needs to put the target back, if this one
// leaves it out of rotation.
func (a *activation) heldNow() *journal.Held {
	switch {
	case a.t.Undo == nil:
		return nil
	case a.t.Undo.From == api.StepSnapshot, a.t.Undo.From == api.StepBeforeDrain:
		return a.held // not touched
	case a.admitted:
		return nil
	}
	return &journal.Held{Server: a.t.Server, Balancer: a.balancer(), Restore: *a.t.Restore}
}
