// Package activate carries out one turn of one target: out of rotation, onto
// the release, proved healthy, back in; or, when any of that fails, back to the
// fallback.
//
// A turn is a journaled transaction. Each step is written down before its first
// effect and may be done again after a crash, so that a process killed at any
// instant is carried on by the next one with [Resume]:
//
//	snapshot → drain → switch → restart → verify → rejoin → soak → finished
//	    |        |        |         |         |        |       |
//	    |     rejoin   drain → switch → restart → verify → rejoin       (undo)
//	    └────────┴────────┴────────────────────────────────────→ finished, failed
//
// A release's hooks are steps of their own before and after drain and rejoin, and
// between a stop and a start; see hook and whileStopped.
//
// Three things never happen: the unit is stopped or restarted while the balancer does not
// hold the drain; the target rejoins before the release that it should run is
// verified; a turn ends without its outcome in the journal.
package activate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// ErrStopped is returned when the agent is stopping: the turn is in the journal
// and is to be resumed at the next start.
var ErrStopped = errors.New("the agent is stopping; the turn goes on at its next start")

var errRevoked = fault.Errorf(api.ReasonRevoked, "the coordinator took the turn back")

// Units is what a turn needs of the service manager.
type Units interface {
	Status(ctx context.Context, unit string) (unit.Status, error)
	Restart(ctx context.Context, unit string) (unit.Status, error)
	// Reload and StopStart are for apps that ask for them; Reloads tells whether
	// the former is possible.
	Reload(ctx context.Context, unit string) (unit.Status, error)
	StopStart(ctx context.Context, unit string) (unit.Status, error)
	// Stop is for those with a hook in between. One that is down is no error.
	Stop(ctx context.Context, unit string) error
	Reloads(ctx context.Context, unit string) error
	Runs(ctx context.Context, unit string) (pid int, paths []string, err error)
	Processes(ctx context.Context, unit string) ([]unit.Process, error)
	// Settled returns nil while the start that invocation names still runs, and
	// otherwise tells what became of it.
	Settled(ctx context.Context, unit, invocation string, nrestarts int) error
}

// Releases is what a turn needs of the app's releases on disk.
type Releases interface {
	Present() ([]string, error)
	Current() (string, error)
	Switch(id string) error
	Of(path string) (id string, ok bool)
}

// Installer writes the unit of an app that has none of its own.
type Installer interface {
	// Check returns why the unit cannot be written, nil when it can.
	Check(ctx context.Context) error
	// Install makes the unit run releases in the given way from its next start on. It
	// may be done again.
	Install(ctx context.Context, run api.Run) error
}

// Journal makes the turn's progress durable. When a method returns nil, what it
// was given survives a crash.
type Journal interface {
	Save(t *journal.Turn) error
	// Finish replaces the turn in progress by its outcome. held is how to put
	// the target back that the turn left out of rotation, nil if it did not.
	Finish(o api.Outcome, held *journal.Held) error
}

// Progress is a turn as it stands, for the report.
type Progress struct {
	Step     api.Step // StepRevert while it is being undone
	Since    time.Time
	Rotation api.Rotation
	Health   api.Health
	// Touched: the unit was, or may have been, restarted in the turn, so that
	// only Proved tells what runs: the release last proved since, or "".
	Touched bool
	Proved  string
	Detail  string
}

// Deps is the world that a turn works on.
type Deps struct {
	Units    Units
	Releases Releases
	Balancer lbclient.Provider // [NoBalancer] where the app has none
	// Probe looks once at the target's health.
	Probe   func(context.Context, health.Check) health.Probe
	Journal Journal
	// Allowed returns an error when a unit is not to be restarted.
	Allowed func(unit string) error
	// Installer writes the app's unit; nil where it has one of its own.
	Installer Installer
	// Progress is called at every change of the turn, from its goroutine.
	Progress func(Progress)
	Log      *slog.Logger

	// Stop is done when the agent is stopping: the turn pauses at the next
	// chance. Work is done a little later and breaks off what is under way.
	Stop, Work context.Context
	// Hook runs one hook until it ends or ctx is done, whose cause is [ErrStopped]
	// when the agent stops: then it may be left running, for a later Hook of the same
	// turn and step to go on with. It may be nil where no release has hooks.
	Hook func(ctx context.Context, h Hook) error
	// Rejoins is called before the target is put into rotation, with the check that
	// the release which it runs has just passed, or, if the turn never touched it,
	// that of the fallback; nil where nobody needs it.
	Rejoins func(api.HealthCheck)
	// Revoked is closed when the coordinator wants something else.
	Revoked <-chan struct{}
	// Boot names the boot of the machine that is, "" if that is not known.
	Boot string
}

// Begin works on a new turn, which has been saved at [api.StepSnapshot]. held is
// what an earlier turn left behind. It returns nil once the turn is finished,
// well or not, and its outcome journaled; otherwise [ErrStopped].
func Begin(d Deps, t journal.Turn, held *journal.Held) error {
	t.Boot = d.Boot
	return (&activation{Deps: d, t: t, held: held}).run()
}

// Resume works on a turn that an earlier process left in the journal.
func Resume(d Deps, t journal.Turn, held *journal.Held) error {
	a := &activation{Deps: d, t: t, held: held, resumed: true}
	a.proveAfterBoot()
	// Until it is seen again, it stands as its step leaves it at worst.
	switch t := a.t; {
	case t.Step == api.StepSnapshot, t.Step == api.StepBeforeDrain:
	case t.Step == api.StepSoak, t.Step == api.StepAfterRejoin && t.Undo == nil:
		a.shown.Rotation, a.shown.Proved = api.RotationIn, t.Release
	default:
		a.shown.Rotation = api.RotationOut
	}
	return a.run()
}

// activation is one turn being worked on.
type activation struct {
	Deps
	t       journal.Turn
	held    *journal.Held
	resumed bool // the step under way may have been begun by an earlier process
	shown   Progress

	// already: the target was found as it should be, and nothing was done.
	already bool
	// proceed: the drain ran out of time and work in flight is to be cut off.
	proceed bool
	// forceFailed is why work in flight could not be ended by force.
	forceFailed error
	// remark is for the timeline, of the step under way.
	remark string
	// begun: this process confirmed the drain at the balancer. admitted: it
	// confirmed the rejoin, and asked for no drain since.
	begun, admitted bool
}

func (a *activation) run() error {
	for {
		a.show("")
		err := a.step()
		switch {
		case errors.Is(err, ErrStopped):
			return ErrStopped
		case err != nil && a.t.Undo == nil:
			a.note(err)
			a.turnBack(err)
		case err != nil:
			a.note(err)
			return a.finishUndone(err)
		case a.already:
			return a.finish(api.Outcome{OK: true})
		default:
			a.note(nil)
			next, more := a.next()
			if !more && a.t.Undo == nil {
				return a.finish(api.Outcome{OK: true})
			}
			if !more {
				return a.finishUndone(nil)
			}
			if err := a.enter(next); err != nil {
				a.turnBack(err)
			}
		}
		if a.t.Undo != nil && a.t.Step == "" {
			return a.finishUndone(nil) // nothing to undo
		}
	}
}

// proveAfterBoot has what runs proved anew if the machine went down in the middle of
// the turn: the boot has started it, on what was current then. That it is not what
// the turn itself started is not held against its release.
func (a *activation) proveAfterBoot() {
	before := a.t.Boot
	a.t.Boot = a.Boot
	if before == "" || a.Boot == "" || before == a.Boot {
		return
	}
	a.t.Running = ""
	steps := forward
	if a.t.Undo != nil {
		steps = a.backward(a.t.Undo.From)
	}
	switch a.t.Step {
	case api.StepSwitch, api.StepWhileStopped, api.StepRestart, api.StepVerify:
		a.t.Restarted = true
	case api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin, api.StepSoak:
		if slices.Contains(steps, api.StepVerify) {
			a.t.Step, a.t.Since, a.t.Restarted = api.StepVerify, time.Now(), true
		}
	}
}

// step does the step under way, in the direction of the turn.
func (a *activation) step() error {
	if err := a.pause(0); err != nil {
		return err
	}
	defer func() { a.resumed = false }()
	switch a.t.Step {
	case api.StepSnapshot:
		return a.snapshot()
	case api.StepDrain:
		return a.drain()
	case api.StepSwitch:
		return a.switchTo()
	case api.StepRestart:
		return a.restart()
	case api.StepVerify:
		return a.verify()
	case api.StepRejoin:
		return a.rejoin()
	case api.StepSoak:
		return a.soak()
	case api.StepBeforeDrain, api.StepAfterDrain, api.StepBeforeRejoin, api.StepAfterRejoin:
		return a.hook()
	case api.StepWhileStopped:
		return a.whileStopped()
	}
	return fmt.Errorf("cannot go on with the turn at step %q: there is no such step", a.t.Step)
}

// wants is the release that the present direction leads to.
func (a *activation) wants() string {
	if a.t.Undo != nil {
		return a.t.Fallback
	}
	return a.t.Release
}

var forward = []api.Step{
	api.StepSnapshot, api.StepBeforeDrain, api.StepDrain, api.StepAfterDrain, api.StepSwitch, api.StepWhileStopped, api.StepRestart,
	api.StepVerify, api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin, api.StepSoak,
}

// backward returns the steps that undo a turn which failed in step from.
func (a *activation) backward(from api.Step) []api.Step {
	switch from {
	case api.StepSnapshot, api.StepBeforeDrain:
		return nil
	case api.StepDrain, api.StepAfterDrain:
		switch {
		case !a.leftOut():
			return []api.Step{api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin}
		case a.t.Fallback == "":
			return nil // out it was, and out it stays
		}
		// What it runs is what an earlier turn could not bring to health.
		return []api.Step{api.StepVerify, api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin}
	}
	if a.t.Fallback == "" {
		// There is nothing to go back to: it must stay out.
		return []api.Step{api.StepDrain}
	}
	if !a.t.Restarted {
		// The old process has never been touched.
		return []api.Step{api.StepSwitch, api.StepVerify, api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin}
	}
	return []api.Step{
		api.StepDrain, api.StepSwitch, api.StepWhileStopped, api.StepRestart, api.StepVerify, api.StepBeforeRejoin, api.StepRejoin, api.StepAfterRejoin,
	}
}

func (a *activation) next() (api.Step, bool) {
	steps := forward
	if a.t.Undo != nil {
		steps = a.backward(a.t.Undo.From)
	}
	steps = a.withoutIdleHooks(steps)
	for i, s := range steps {
		if s == a.t.Step && i+1 < len(steps) {
			return steps[i+1], true
		}
	}
	return "", false
}

// enter makes next the step under way and writes it down.
func (a *activation) enter(next api.Step) error {
	before := a.t
	if next == api.StepRestart || next == api.StepWhileStopped {
		a.t.Restarted = true
	}
	a.t.Step, a.t.Since = next, time.Now()
	err := a.Journal.Save(&a.t)
	if err == nil {
		return nil
	}
	if a.t.Undo == nil {
		a.t = before
		return err
	}
	// Going back must not fail for want of a journal: a crash from here on
	// resumes from an older entry, which leads to the same end.
	a.Log.Warn("cannot journal a step of undoing a turn; going on", "step", next, "error", err)
	return nil
}

// turnBack gives the turn up because of err and enters the first step of
// undoing it; Step is empty when there is none.
func (a *activation) turnBack(err error) {
	a.t.Undo = &journal.Undo{From: a.t.Step, Reason: fault.ReasonOf(err), Text: err.Error()}
	a.Log.Warn("the turn failed and is being undone", "step", a.t.Step, "reason", a.t.Undo.Reason, "error", err)
	a.proceed, a.begun, a.forceFailed = false, false, nil
	ctx, cancel := a.call()
	defer cancel()
	// Best effort: it only saves a second restart after a crash.
	a.t.Before, a.t.Running = "", ""
	if st, err := a.Units.Status(ctx, a.t.Spec.Unit); err == nil {
		a.t.Before = st.InvocationID
	}
	steps := a.withoutIdleHooks(a.backward(a.t.Undo.From))
	if len(steps) == 0 {
		a.t.Step = ""
		return
	}
	// A journal that cannot be written does not keep it from going back.
	_ = a.enter(steps[0])
}

// note adds the step that just ended to the turn's timeline.
func (a *activation) note(err error) {
	s := api.StepTime{Step: a.t.Step, Took: api.Duration(time.Since(a.t.Since)), Undo: a.t.Undo != nil}
	if err != nil {
		s.Error = err.Error()
	}
	s.Note, a.remark = a.remark, ""
	a.t.Steps = append(a.t.Steps, s)
	a.Log.Info("step ended", "step", s.Step, "took", s.Took.D(), "undo", s.Undo)
}

// finishUndone ends a turn that was given up; err is what kept the undo from
// succeeding.
func (a *activation) finishUndone(err error) error {
	u := a.t.Undo
	o := api.Outcome{Reason: u.Reason, Text: u.Text}
	switch {
	case err != nil && a.t.Step == api.StepRejoin:
		o.Text += fmt.Sprintf("; and %s could not rejoin: %v", describe(a.t.Fallback), err)
	case err != nil && a.t.Step == api.StepDrain:
		o.Text += fmt.Sprintf("; and it could not be taken out of rotation: %v", err)
	case err != nil:
		o.Text += fmt.Sprintf("; and going back to %s failed too, so it stays out of rotation: %v", describe(a.t.Fallback), err)
	case a.t.Fallback == "":
		if !a.unswitched() || a.leftOut() {
			o.Text += "; there is no release to go back to, so it stays out of rotation"
		}
	default:
		ok, stop := a.servesFallback()
		if stop != nil {
			return stop
		}
		o.Reverted = ok
	}
	return a.finish(o)
}

func describe(release string) string {
	if release == "" {
		return "the target"
	}
	return "release " + release
}

// finish journals the outcome. It does not give up while the agent runs, for an
// outcome that is lost is a target in nobody's charge.
func (a *activation) finish(o api.Outcome) error {
	o.Turn, o.Release = a.t.Number, a.t.Release
	a.back()
	o.Out, o.Steps = a.t.Out, a.t.Steps
	for {
		err := a.Journal.Finish(o, a.heldNow())
		if err == nil {
			a.Log.Info("turn finished", "ok", o.OK, "reverted", o.Reverted, "reason", o.Reason, "out", o.Out.D(), "text", o.Text)
			return nil
		}
		a.show(err.Error())
		if a.Stop.Err() != nil {
			return ErrStopped
		}
		a.sleep(time.Second)
	}
}

// show publishes the progress if it changed.
func (a *activation) show(detail string) {
	p := a.shown
	p.Step, p.Since, p.Detail, p.Touched = a.t.Step, a.t.Since, detail, a.t.Restarted
	if a.t.Undo != nil {
		p.Step = api.StepRevert
		if detail == "" {
			p.Detail = fmt.Sprintf("%s: %s", a.t.Step, a.t.Undo.Text)
		}
	}
	a.publish(p)
}

func (a *activation) showProved(release string) {
	p := a.shown
	p.Proved = release
	a.publish(p)
}

func (a *activation) showRotation(r api.Rotation) {
	p := a.shown
	p.Rotation = r
	a.publish(p)
}

func (a *activation) showHealth(h api.Health) {
	p := a.shown
	p.Health = h
	a.publish(p)
}

func (a *activation) publish(p Progress) {
	if p != a.shown && a.Progress != nil {
		a.Progress(p)
	}
	a.shown = p
}
