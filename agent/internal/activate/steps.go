package activate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// snapshot checks that the turn can be carried out and records how the target
// stands. It changes nothing but the journal.
func (a *activation) snapshot() error {
	if err := a.Allowed(a.t.Spec.Unit); err != nil {
		return err
	}
	present, err := a.Releases.Present()
	if err != nil {
		return err
	}
	if !slices.Contains(present, a.t.Release) {
		return fault.Errorf(api.ReasonReleaseMissing, "cannot activate release %s: it is not prepared on this node", a.t.Release)
	}
	if a.t.Fallback != "" && !slices.Contains(present, a.t.Fallback) {
		a.Log.Warn("the fallback is not on this node; there is nothing to go back to", "fallback", a.t.Fallback)
		a.t.Fallback = ""
	}
	st, err := a.status()
	if a.Installer != nil && (err == nil || fault.ReasonOf(err) == api.ReasonUnitMissing) {
		ctx, cancel := a.call()
		err = a.Installer.Check(ctx)
		cancel()
	}
	if err != nil {
		return err
	}
	if a.reloads() {
		if err := a.reloadable(); err != nil {
			return err
		}
	}
	a.t.Before = st.InvocationID
	if a.inPlace() {
		a.already = true
		return nil
	}
	return a.takeSnapshot()
}

// inPlace tells whether the target already serves the release in every respect.
func (a *activation) inPlace() bool {
	if current, err := a.Releases.Current(); err != nil || current != a.t.Release {
		return false
	}
	return a.serves(a.t.Release) == nil
}

// serves looks once whether the target is proved on release, healthy, and in
// rotation. What cannot be read is an error like any other.
func (a *activation) serves(release string) error {
	ctx, cancel := a.call()
	defer cancel()
	st, err := a.Units.Status(ctx, a.t.Spec.Unit)
	if err != nil {
		return err
	}
	if st.ActiveState != "active" {
		return fmt.Errorf("%s is %s", a.t.Spec.Unit, st.ActiveState)
	}
	p := a.probe(ctx, st)
	if !p.OK {
		return errors.New(p.Text)
	}
	if err := a.proves(ctx, release, p); err != nil {
		return err
	}
	pool, err := a.Balancer.Observe(ctx)
	if err != nil {
		return err
	}
	if m, ok := Member(pool, a.t.Server); !ok || m.Phase != lbclient.PhaseServing {
		return fmt.Errorf("the balancer does not show it serving: %s %s", m.Phase, m.Detail)
	}
	a.showHealth(api.Healthy)
	a.showRotation(api.RotationIn)
	return nil
}

// Member finds the target's own entry in what its balancer shows.
func Member(pool lbclient.Pool, server string) (lbclient.Member, bool) {
	for _, m := range pool.Members {
		if m.Name == server {
			return m, true
		}
	}
	return lbclient.Member{Phase: lbclient.PhaseAbsent}, false
}

// servesFallback looks until the target is seen to serve its fallback as before
// the turn, or has had its chances. Only what was seen counts.
func (a *activation) servesFallback() (ok bool, stop error) {
	const looks = 5
	for n := range looks {
		if n > 0 {
			if err := a.pause(time.Second); err != nil {
				return false, err
			}
		}
		err := a.serves(a.t.Fallback)
		if err == nil {
			return true, nil
		}
		a.show(err.Error())
	}
	return false, nil
}

// status reads the unit's state, outlasting a service manager that is away for
// a moment.
func (a *activation) status() (unit.Status, error) {
	deadline := time.Now().Add(retryTimeout)
	p := quick(2 * time.Second)
	for {
		ctx, cancel := a.call()
		st, err := a.Units.Status(ctx, a.t.Spec.Unit)
		cancel()
		if err == nil {
			return st, nil
		}
		if a.Work.Err() != nil {
			return st, ErrStopped
		}
		if fault.ReasonOf(err) != api.ReasonSystemd || time.Now().After(deadline) {
			return st, err
		}
		a.show(err.Error())
		if err := a.pause(p.next()); err != nil {
			return st, err
		}
	}
}

// switchTo points the current release at the one that the turn leads to, and has
// its unit written if that is generated. Both take effect with the next start.
func (a *activation) switchTo() error {
	run := a.release().Recipe.Run
	// A release from before the unit was generated is run like the one after it.
	if a.Installer != nil && run != nil {
		ctx, cancel := context.WithTimeout(a.Work, retryTimeout)
		defer cancel()
		if err := a.Installer.Install(ctx, *run); err != nil {
			if a.Work.Err() != nil {
				return ErrStopped
			}
			return err
		}
	}
	if err := a.Releases.Switch(a.wants()); err != nil {
		return fmt.Errorf("cannot switch to release %s: %w", a.wants(), err)
	}
	return nil
}

// restart restarts the unit, never while the balancer may send it work.
func (a *activation) restart() error {
	if err := a.holdDrain(); err != nil {
		if a.t.Undo == nil && !a.resumed && len(a.release().Recipe.Hooks.At(api.StepWhileStopped)) == 0 {
			a.t.Restarted = false // the old process still runs untouched
		}
		return err
	}
	if a.resumed && a.restartedAlready() {
		return nil
	}
	a.showHealth(api.HealthUnknown)
	a.showProved("")
	within := orElse(a.t.Spec.RestartTimeout.D(), 90*time.Second)
	ctx, cancel := context.WithTimeout(a.Work, within)
	defer cancel()
	st, err := a.anew(ctx)
	switch {
	case err == nil:
		a.t.Running = st.InvocationID
		return nil
	case a.Work.Err() != nil:
		return ErrStopped
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault.Errorf(api.ReasonStartFailed, "cannot restart %s: it did not start within %s (restart_timeout): %w",
			a.t.Spec.Unit, within, err)
	}
	return err
}

// restartedAlready tells whether an earlier process got as far as the restart:
// the unit runs, anew, what it should.
func (a *activation) restartedAlready() bool {
	ctx, cancel := a.call()
	defer cancel()
	st, err := a.Units.Status(ctx, a.t.Spec.Unit)
	if err != nil || st.ActiveState != "active" || a.t.Before == "" || st.InvocationID == a.t.Before {
		return false
	}
	if got, _, err := Proof(ctx, a.Units, a.Releases, a.t.Spec, ""); err != nil || got != a.wants() {
		return false
	}
	a.t.Running = st.InvocationID
	return true
}
