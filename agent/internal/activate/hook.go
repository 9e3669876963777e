package activate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Hook is one hook to be run, for one turn.
type Hook struct {
	Turn journal.Turn
	// Release is the one that the hook is of: that of the turn, or, on the way back,
	// the fallback.
	Release  api.Release
	Step     api.Step
	Commands []string
	Undo     bool
}

// release describes the release that the present direction leads to.
func (a *activation) release() api.Release {
	i := slices.IndexFunc(a.t.Recipes, func(r api.Release) bool { return r.ID == a.wants() })
	if i < 0 {
		return api.Release{ID: a.wants()}
	}
	return a.t.Recipes[i]
}

// withoutIdleHooks leaves out the steps of hooks that the release does not have.
func (a *activation) withoutIdleHooks(steps []api.Step) []api.Step {
	hooks := a.release().Recipe.Hooks
	var some []api.Step
	for _, s := range steps {
		switch s {
		case api.StepBeforeDrain, api.StepAfterDrain, api.StepWhileStopped, api.StepBeforeRejoin, api.StepAfterRejoin:
			if len(hooks.At(s)) == 0 {
				continue
			}
		}
		some = append(some, s)
	}
	return some
}

// hook runs the hook of the step under way. One that fails before the target is
// in rotation with its new release fails the turn. One that fails afterwards, or
// on the way back, is named in the timeline and nothing more: a target that is
// well is not taken out for it.
func (a *activation) hook() error {
	ctx, cancel := context.WithCancelCause(a.Work)
	defer cancel(nil)
	defer context.AfterFunc(a.Stop, func() { cancel(ErrStopped) })()
	over, revoked := make(chan struct{}), a.revokedNow()
	defer close(over)
	go func() {
		select {
		case <-revoked:
			cancel(errRevoked)
		case <-over:
		}
	}()
	r := a.release()
	err := a.Hook(ctx, Hook{Turn: a.t, Release: r, Step: a.t.Step, Commands: r.Recipe.Hooks.At(a.t.Step), Undo: a.t.Undo != nil})
	switch {
	case err == nil:
		return nil
	case a.Stop.Err() != nil, a.Work.Err() != nil:
		return ErrStopped
	case errors.Is(context.Cause(ctx), errRevoked):
		return errRevoked
	case a.t.Undo != nil, a.t.Step == api.StepAfterRejoin:
		a.Log.Warn("a hook failed; going on", "step", a.t.Step, "undo", a.t.Undo != nil, "error", err)
		a.remark = fmt.Sprintf("the hook %s failed: %v", a.t.Step, err)
		return nil
	}
	return err
}

// whileStopped stops the unit, never while the balancer may send it work, and runs
// the hook. The restart that follows starts it again.
func (a *activation) whileStopped() error {
	if err := a.holdDrain(); err != nil {
		if a.t.Undo == nil && !a.resumed {
			a.t.Restarted = false // the old process still runs untouched
		}
		return err
	}
	a.showHealth(api.HealthUnknown)
	a.showProved("")
	ctx, cancel := context.WithTimeout(a.Work, orElse(a.t.Spec.RestartTimeout.D(), 90*time.Second))
	defer cancel()
	if err := a.Units.Stop(ctx, a.t.Spec.Unit); err != nil {
		if a.Work.Err() != nil {
			return ErrStopped
		}
		return err
	}
	return a.hook()
}

// unswitched tells, of a turn that is undone, that it failed before the first
// thing that concerns the app itself.
func (a *activation) unswitched() bool {
	switch a.t.Undo.From {
	case api.StepSnapshot, api.StepBeforeDrain, api.StepDrain, api.StepAfterDrain:
		return true
	}
	return false
}
