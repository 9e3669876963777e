package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// commanded is the release command in progress.
type commanded struct {
	number uint64
	cancel context.CancelCauseFunc
}

var errWithdrawn = fault.Errorf(api.ReasonRevoked, "the coordinator took it back")

// commandLoop claims, runs, and goes on with the app's release commands.
func (p *app) commandLoop() {
	for p.a.stop.Err() == nil {
		if err := p.nextCommand(); err != nil {
			p.log.Error("cannot work on a release command; trying again", "error", err)
			rest(p.a.stop, time.Second)
			continue
		}
		select {
		case <-p.toCommand:
		case <-p.a.stop.Done():
		}
	}
}

// nextCommand does the next thing about the release command that the assignment
// carries, or that an agent before this one has begun.
func (p *app) nextCommand() error {
	d := p.file.Read()
	c := d.Command
	if c != nil && c.Begun && !c.Done {
		return p.goOn(d, *c)
	}
	want := commandWanted(d)
	switch {
	case want == nil:
	case c == nil || c.Number < want.Number:
		n := journal.Command{Release: want.Release, Number: want.Number, Rollout: d.Assignment.Rollout}
		if want.Go {
			n.Done, n.Reason = true, api.ReasonInterrupted
			n.Text = "this agent knows nothing of it, for its state directory is a new one; it may have run before"
		}
		return p.noteCommand(n)
	case c.Number == want.Number && !c.Done && want.Go:
		n := *c
		n.Begun, n.Since = true, time.Now()
		// Should this not be written, nothing has happened.
		if err := p.noteCommand(n); err != nil {
			return err
		}
		return p.runCommand(d, n, false)
	}
	return nil
}

func commandWanted(d *journal.Doc) *api.Command {
	if d.Absent || d.Assignment == nil {
		return nil
	}
	return d.Assignment.Command
}

func (p *app) noteCommand(c journal.Command) error {
	err := p.file.Update(func(d *journal.Doc) error {
		d.Command = &c
		return nil
	})
	p.a.notify()
	return err
}

// checkCommand ends a release command that is not asked for any more. The caller
// holds p.mu.
func (p *app) checkCommand() {
	if t := p.commanded; t != nil {
		if want := commandWanted(p.file.Read()); want == nil || want.Number != t.number {
			t.cancel(errWithdrawn)
		}
	}
}

// commands is what the names of the app's release commands begin with.
func (p *app) commands() string { return p.name + "." + p.a.identity.Instance + ".release." }

func (p *app) commandName(c journal.Command) string {
	return fmt.Sprintf("%s%s.%d", p.commands(), c.Release, c.Number)
}

// goOn goes on with a command that was begun before the agent was restarted. One
// that cannot be gone on with is not begun again: it is reported as interrupted.
func (p *app) goOn(d *journal.Doc, c journal.Command) error {
	has, err := p.a.deps.Sandbox.Has(p.a.stop, p.commandName(c))
	if err != nil {
		return err
	}
	if has && commandWanted(d) != nil {
		return p.runCommand(d, c, true)
	}
	if err := p.a.deps.Sandbox.EndOthers(p.a.stop, p.commands(), ""); err != nil {
		return err
	}
	return p.endCommand(c, fault.Errorf(api.ReasonInterrupted, "deploy-agent or its machine went down while it ran"))
}

// runCommand runs a command that is journaled as begun, or waits for its end.
func (p *app) runCommand(d *journal.Doc, c journal.Command, resumed bool) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(p.a.stop))
	defer cancel(nil)
	defer context.AfterFunc(p.a.stop, func() { cancel(sandbox.ErrLeave) })()
	c.Runs++
	if err := p.noteCommand(c); err != nil {
		return err
	}
	p.mu.Lock()
	p.commanded = &commanded{number: c.Number, cancel: cancel}
	p.checkCommand()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.commanded = nil
		p.mu.Unlock()
	}()
	p.log.Info("release command begun or resumed", "release", c.Release, "number", c.Number, "resumed", resumed)
	out := p.a.logs.stream(p.name, c.Rollout, api.StepCommand, int(c.Number)*maxRuns+c.Runs)
	defer out.close()
	err := p.command(ctx, d, c, resumed, out)
	switch {
	case errors.Is(err, sandbox.ErrLeave):
		return nil // the next agent goes on with it, or tells that nobody knows
	case errors.Is(err, errWithdrawn):
		err = errWithdrawn
	}
	if err != nil {
		fmt.Fprintf(out, "%v\n", err)
	}
	return p.endCommand(c, err)
}

// maxRuns is how many agents may wait for one command, each with chunks of output
// of its own.
const maxRuns = 1 << 8

func (p *app) command(ctx context.Context, d *journal.Doc, c journal.Command, resumed bool, out io.Writer) error {
	i := slices.IndexFunc(d.Assignment.Releases, func(r api.Release) bool { return r.ID == c.Release })
	if i < 0 {
		return fmt.Errorf("cannot run the release command: the assignment does not describe release %s", c.Release)
	}
	r := d.Assignment.Releases[i]
	present, err := p.store.Present()
	if err != nil {
		return err
	}
	if !slices.Contains(present, r.ID) {
		return fault.Errorf(api.ReasonReleaseMissing, "cannot run the release command: release %s is not on this node", r.ID)
	}
	job := sandbox.Job{
		Name: p.commandName(c), What: "release", Reason: api.ReasonCommandFailed,
		Commands: r.Recipe.ReleaseCommand, Dir: p.store.Path(r.ID), User: p.a.cfg.BuildUser,
		Limits: limitsOf(r.Recipe, r.Recipe.ReleaseTimeout, "release_command_timeout"), Grace: buildGrace,
	}
	if resumed {
		fmt.Fprintln(out, "[the agent was restarted here; a moment of output may be missing]")
	} else if err := p.surround(ctx, &job, unitOf(d.Assignment), r, p.ofRollout(r, c.Rollout), out); err != nil {
		return err
	}
	return p.a.deps.Sandbox.Run(ctx, job, out)
}

// unitOf is the unit of the app's first target here, "" where there is none.
func unitOf(as *api.Assignment) string {
	if len(as.Targets) == 0 {
		return ""
	}
	return as.Spec.Of(as.Targets[0]).Unit
}

// endCommand journals how a command ended. It does not give up while the agent
// runs: what is not written now would be interrupted later.
func (p *app) endCommand(c journal.Command, failure error) error {
	c.Done, c.OK = true, failure == nil
	if failure != nil {
		c.Reason, c.Text = fault.ReasonOf(failure), failure.Error()
		p.log.Warn("the release command failed", "release", c.Release, "number", c.Number, "reason", c.Reason, "error", failure)
	} else {
		c.Text = "in " + time.Since(c.Since).Round(time.Millisecond).String()
		p.log.Info("the release command did its work", "release", c.Release, "number", c.Number, "took", time.Since(c.Since))
	}
	for {
		err := p.noteCommand(c)
		if err == nil || p.a.stop.Err() != nil {
			wake(p.toCommand) // a later one may wait
			return err
		}
		p.log.Error("cannot journal how a release command ended; trying again", "error", err)
		rest(p.a.stop, time.Second)
	}
}

func commandReport(d *journal.Doc) *api.CommandReport {
	c := d.Command
	if c == nil {
		return nil
	}
	return &api.CommandReport{
		Release: c.Release, Number: c.Number, Running: c.Begun && !c.Done, OK: c.OK, Reason: c.Reason, Text: c.Text,
	}
}
