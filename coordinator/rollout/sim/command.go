package sim

import (
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// process is a release command that runs on a node.
type process struct {
	number uint64
	over   bool
	failed bool
}

// Moments of a release command at which an agent may crash.
const (
	claimCommand step = "claim-command"
	beginCommand step = "begin-command"
)

// command claims, begins, and ends the release command that the app's assignment
// asks for.
func (a *agent) command(app int) {
	j := a.journal.apps[app]
	want, c := j.want.Command, j.command
	switch {
	case c != nil && c.Running && c.Number != want.Number:
		a.n.procs[app] = nil
		a.endCommand(app, rollout.Revoked, "revoked", "the coordinator took it back")
		a.command(app)
	case want.Number != 0 && (c == nil || c.Number < want.Number):
		if a.crashes(claimCommand, false) {
			return
		}
		j.command = &rollout.CommandReport{Number: want.Number}
		if want.Go {
			a.endCommand(app, rollout.NodeFault, "interrupted", "this agent knows nothing of it")
		}
		a.crashes(claimCommand, true)
	case c == nil || c.Number != want.Number || c.OK || c.Reason != "" || c.Running || !want.Go:
	default:
		if a.crashes(beginCommand, false) {
			return
		}
		j.command = &rollout.CommandReport{Number: want.Number, Running: true}
		if a.crashes(beginCommand, true) {
			return // it is written down as begun, and was not
		}
		a.begin(app, want)
		a.watchCommand(app)
	}
}

// begin runs a release command.
func (a *agent) begin(app int, want rollout.CommandGoal) {
	w, p, c := a.n.w, &process{number: want.Number}, a.n.w.commit(app, want.Release)
	a.n.procs[app] = p
	w.log("%s: release command %d of %s begins", a.n.name, p.number, want.Release)
	w.co.checkBegun(p.number)
	sick := c.on&(1<<a.n.index) != 0
	d := w.between(time.Second, 15*time.Second)
	if sick && c.bad == noEnd {
		d = c.takes()
	}
	w.after(d, func() {
		if a.n.procs[app] != p {
			return
		}
		p.over, p.failed = true, sick && (c.bad == noCommand || c.bad == noEnd)
		if !p.failed {
			w.co.migrated[w.co.commandOf[p.number]] = true
		}
	})
}

// watchCommand looks every second how the release command of the journal stands.
func (a *agent) watchCommand(app int) {
	c, p := a.journal.apps[app].command, a.n.procs[app]
	switch {
	case c == nil || !c.Running:
		return
	case p == nil || p.number != c.Number:
		a.endCommand(app, rollout.NodeFault, "interrupted", "it was killed")
	case p.failed:
		a.endCommand(app, rollout.ReleaseFault, "command_failed", "migrate: no")
	case p.over:
		a.journal.apps[app].command = &rollout.CommandReport{Number: c.Number, OK: true}
	default:
		a.after(time.Second, func() { a.watchCommand(app) })
		return
	}
	a.changed()
}

func (a *agent) endCommand(app int, fault rollout.Fault, reason rollout.Reason, text string) {
	a.journal.apps[app].command = &rollout.CommandReport{Number: a.journal.apps[app].command.Number, Fault: fault, Reason: reason, Text: text}
}

// checkCommand judges to whom a release command is given.
func (c *coordinator) checkCommand(r *rollout.Rollout) {
	if r == nil || r.Command == nil || c.commandOf[r.Command.Number] == r.ID {
		return
	}
	if other, ok := c.commandOf[r.Command.Number]; ok {
		c.w.fail("command-once", "command %d of %s was that of %s", r.Command.Number, r.ID, other)
	}
	c.commandOf[r.Command.Number] = r.ID
	c.eachTarget(func(t *target) {
		switch c.state.Target(t.id).Phase {
		case rollout.TargetUnreachable, rollout.TargetQuarantined:
		default:
			if slices.Contains(r.Order, t.id) && t.n.wiped == 0 && !t.has(r.Release) {
				c.w.fail("command-after-prepared", "%s has a release command, and %s does not have %s", r.ID, t.id, r.Release)
			}
		}
	})
}

// checkBegun judges a release command that is about to run, by what is.
func (c *coordinator) checkBegun(number uint64) {
	id := c.commandOf[number]
	c.begun[number]++
	c.commands[id]++
	if c.begun[number] > 1 {
		c.w.fail("command-once", "command %d of %s is run again under its number", number, id)
	}
	if c.commands[id] > 1+c.retried[id] {
		c.w.fail("command-once", "the release command of %s is run for the %d. time, and a person asked for that %d times", id, c.commands[id], c.retried[id])
	}
}

// checkMigrated judges a turn to a release that has a release command.
func (c *coordinator) checkMigrated(t *rollout.Target) {
	a := c.state.App(t.App)
	r := a.Live
	if r == nil || r.Kind != rollout.Deploy || r.Status != rollout.Rolling || t.Release != r.Release || !c.w.commit(appIndex(t.App), r.Release).command {
		return
	}
	if !c.migrated[r.ID] {
		c.w.fail("command-first", "%s got a turn to %s, whose release command has not done its work", t.ID, r.Release)
	}
}

// request asks for something as a person, and tells whether it was taken.
func (w *world) request(ev rollout.Event) bool {
	c := w.co
	var again rollout.RolloutID
	if retry, ok := ev.(rollout.RetryRequested); ok && c.up {
		if r := c.state.App(retry.App).Live; r != nil && r.Command != nil && r.Command.Phase == rollout.CommandUnknown {
			again = r.ID
		}
	}
	err, _ := c.step(ev)
	if err == nil && again != "" {
		c.retried[again]++
	}
	return err == nil
}
