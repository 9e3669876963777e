package unit

import (
	"context"
	"errors"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	// jobMargin is added to the unit's own timeouts before a job is given up.
	jobMargin = 30 * time.Second
	// phases is how often the timeouts of a unit can apply in one job: to its
	// commands before, its main process, and its commands after; to its stop
	// command, its SIGTERM, and its SIGKILL.
	phases = 3
	// lookEvery is how often a unit is looked at while its job runs. Nothing
	// tells that the message about a job's end was lost with a connection.
	lookEvery = time.Second
)

// Restart restarts a unit and returns once systemd says that it is up; what
// happens to it afterwards is for [Manager.Settled]. Earlier failures are
// forgotten first, so that a start limit they ran into does not count.
//
// [api.ReasonStartFailed] means that the unit's programs were tried and did not
// come up, and names how they ended and what they said last. What is no fault of
// them is [api.ReasonUnitMissing] or [api.ReasonSystemd]: a unit that it requires
// does not start, or another job took the place of the restart. An end of ctx
// leaves the job to systemd.
func (m *Manager) Restart(ctx context.Context, unit string) (Status, error) {
	what := "restart " + unit
	before, err := m.forgive(ctx, unit, what)
	if err != nil {
		return before.Status, err
	}
	result, err := m.job(ctx, unit, what, before, (*sd.Conn).RestartUnitContext)
	if err != nil {
		return m.lateStart(ctx, unit, what, before, err)
	}
	return m.started(ctx, unit, what, before, result)
}

// StopStart stops a unit, waits until it is down, and starts it; otherwise it is
// as [Manager.Restart]. A socket of the unit that is asked meanwhile may start it
// first, which is as good.
func (m *Manager) StopStart(ctx context.Context, unit string) (Status, error) {
	what := "stop and start " + unit
	before, err := m.forgive(ctx, unit, what)
	if err != nil {
		return before.Status, err
	}
	result, err := m.job(ctx, unit, "stop "+unit, before, (*sd.Conn).StopUnitContext)
	if err != nil {
		return m.lateStart(ctx, unit, "stop "+unit, before, err)
	}
	if result != "done" && result != unseen {
		return before.Status, fault.Errorf(api.ReasonSystemd, "cannot stop %s: systemd ended the job as %q", unit, result)
	}
	between, err := m.forgive(ctx, unit, what) // it may have failed in stopping
	if err != nil {
		return between.Status, err
	}
	if result, err = m.job(ctx, unit, "start "+unit, between, (*sd.Conn).StartUnitContext); err != nil {
		return m.lateStart(ctx, unit, "start "+unit, before, err)
	}
	return m.started(ctx, unit, what, before, result)
}

// forgive makes systemd forget how a unit failed, and returns its state before
// that. what completes "cannot ...".
func (m *Manager) forgive(ctx context.Context, unit, what string) (state, error) {
	before, err := m.state(ctx, unit)
	if err != nil {
		return before, err
	}
	return before, m.call(ctx, what, func(ctx context.Context, c *sd.Conn) error {
		err := c.ResetFailedUnitContext(ctx, unit)
		if name(err) == noSuchUnit {
			return nil // it is not in memory, so nothing of it has failed
		}
		return err
	})
}

// started judges a unit by the result of the job that was to start it anew.
func (m *Manager) started(ctx context.Context, unit, what string, before state, result string) (Status, error) {
	after, err := m.state(ctx, unit)
	if err != nil {
		return after.Status, err
	}
	if err := unfinished(unit, what, result); err != nil {
		return after.Status, err
	}
	if result == "failed" || result == "timeout" || !after.Up() {
		return after.Status, m.failed(ctx, "cannot "+what, after)
	}
	if after.InvocationID == before.InvocationID {
		return after.Status, fault.Errorf(api.ReasonSystemd, "cannot %s: systemd let the old processes run on", what)
	}
	return after.Status, nil
}

// unfinished is the error of a job whose result says nothing about the unit's own
// programs.
func unfinished(unit, what, result string) error {
	switch result {
	case "done", "failed", "timeout", "assert", unseen:
		return nil
	case "dependency":
		return fault.Errorf(api.ReasonSystemd,
			"cannot %s: a unit that it requires did not start; see systemctl list-dependencies %s", what, unit)
	case "canceled":
		return fault.Errorf(api.ReasonSystemd,
			"cannot %s: another job took the place of the restart; somebody else starts or stops it", what)
	}
	return fault.Errorf(api.ReasonSystemd, "cannot %s: systemd ended the job as %q", what, result)
}

// Stop stops a unit and returns once it is down. A unit that is down already is
// no error.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	what := "stop " + unit
	before, err := m.state(ctx, unit)
	if err != nil {
		return err
	}
	result, err := m.job(ctx, unit, what, before, (*sd.Conn).StopUnitContext)
	if err != nil {
		return err
	}
	after, err := m.state(ctx, unit)
	if err != nil {
		return err
	}
	if after.ActiveState != "inactive" && after.ActiveState != "failed" {
		return fault.Errorf(api.ReasonSystemd, "cannot %s: it is %s (%s) after the job ended as %q",
			what, after.ActiveState, after.SubState, result)
	}
	return nil
}

// unseen stands for the result of a job that is over, but whose end nobody told.
const unseen = "unseen"

var errSlow = errors.New("systemd did not end the job in the time that the unit allows")

// job queues a job, waits for its end, and returns systemd's word for that, or
// [unseen]. before is the unit's state before it.
func (m *Manager) job(ctx context.Context, unit, what string, before state,
	queue func(*sd.Conn, context.Context, string, string, chan<- string) (int, error)) (string, error) {
	ch := make(chan string, 1) // the reader of the connection must never wait for us
	if err := m.queue(ctx, unit, what, before, ch, queue); err != nil {
		return "", err
	}
	bounded := ctx
	if before.TimeoutStart > 0 && before.TimeoutStop > 0 {
		var cancel context.CancelFunc
		limit := phases*(before.TimeoutStart+before.TimeoutStop) + jobMargin
		bounded, cancel = context.WithTimeoutCause(ctx, limit, errSlow)
		defer cancel()
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for idle := 0; ; {
		select {
		case result := <-ch:
			return result, nil
		case <-bounded.Done():
			cause := context.Cause(bounded)
			if cause == errSlow {
				return "", fault.Errorf(api.ReasonSystemd, "cannot %s: %w", what, cause)
			}
			return "", fmt.Errorf("cannot %s: the job goes on, but the wait for it ended: %w", what, cause)
		case <-look.C:
			// Twice, since the message may be on its way when the job is just gone.
			// An error here is a systemd that comes back or runs into the bound.
			if st, err := m.state(bounded, unit); err != nil || st.job != 0 {
				idle = 0
			} else if idle++; idle == 2 {
				return unseen, nil
			}
		}
	}
}

// queue asks systemd for a job. When the connection breaks meanwhile, it looks
// whether the job was taken before it asks again.
func (m *Manager) queue(ctx context.Context, unit, what string, before state, ch chan<- string,
	ask func(*sd.Conn, context.Context, string, string, chan<- string) (int, error)) error {
	for first := true; ; first = false {
		l, err := m.connected(ctx)
		if err != nil {
			return m.unanswered(what, err)
		}
		asking, cancel := context.WithTimeout(ctx, callTimeout)
		_, err = ask(l.Conn, asking, unit, "replace", ch)
		cancel()
		if err == nil {
			return nil
		}
		if answered(err) {
			return refused(what, err)
		}
		m.drop(l)
		if !first || ctx.Err() != nil {
			return m.unanswered(what, err)
		}
		st, err := m.state(ctx, unit)
		if err != nil {
			return err
		}
		if st.job != 0 || st.InvocationID != before.InvocationID || st.ActiveState != before.ActiveState {
			return nil
		}
	}
}

// late tells whether the wait for a job ended for want of time.
func late(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errSlow)
}

// lateStart explains a restart whose wait ended before the job did. A program that
// takes too long to get ready failed to start; one that takes too long to stop is
// the one before it, so that says nothing about the release.
func (m *Manager) lateStart(ctx context.Context, unit, what string, before state, err error) (Status, error) {
	if !late(err) {
		return before.Status, err
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	st, serr := m.state(soon, unit)
	switch {
	case serr != nil:
		return before.Status, fault.New(api.ReasonSystemd, errors.Join(err, serr))
	case st.ActiveState == "activating" && st.InvocationID != before.InvocationID:
		return st.Status, m.failed(soon, "cannot "+what+" in time", st)
	}
	return st.Status, fault.Errorf(api.ReasonSystemd, "%w; it is still %s (%s)", err, st.ActiveState, st.SubState)
}

// Settled returns nil as long as the start of a unit that invocation names is the
// one that runs, and systemd has not had to start it again since nrestarts was
// read. Called now and then after [Manager.Restart], with what that returned, it
// tells a program that stays up from one that keeps falling over.
//
// [api.ReasonStartFailed] means that it ended; [api.ReasonSystemd], also, that
// somebody else restarted it.
func (m *Manager) Settled(ctx context.Context, unit, invocation string, nrestarts int) error {
	st, err := m.state(ctx, unit)
	if err != nil {
		return err
	}
	if st.Up() && st.InvocationID == invocation && st.NRestarts == nrestarts {
		return nil
	}
	if st.Up() && st.NRestarts <= nrestarts {
		return fault.Errorf(api.ReasonSystemd, "%s was restarted by somebody else", unit)
	}
	if n := st.NRestarts - nrestarts; n > 0 {
		text := fmt.Sprintf("%s did not stay up: it ended and systemd started it again (%s)", unit, times(n))
		if !st.Up() && st.ActiveState != "activating" {
			text += "; at last " + st.why()
		}
		return fault.Errorf(api.ReasonStartFailed, "%s%s", text, m.lastLines(ctx, invocation))
	}
	return m.failed(ctx, unit+" did not stay up", st)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (m *Manager) failed(ctx context.Context, what string, st state) error {
	return fault.Errorf(api.ReasonStartFailed, "%s: %s%s", what, st.why(), m.lastLines(ctx, st.InvocationID))
}
