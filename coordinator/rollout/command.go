package rollout

import (
	"fmt"
	"slices"
	"time"
)

// A release command runs once for a whole rollout, on one node, when every node
// holds the release and before the first target leaves. It may not be harmless
// to run it twice, so its number is given to one node only, and that begins in
// two steps: it claims the number, and begins once the engine has taken note of
// that. Up to then the number can be withdrawn; from then on only the node's own
// word tells what became of it, and without that a person decides.

// Command is the release command of a rollout.
type Command struct {
	Number uint64       `json:"number"`
	Node   string       `json:"node"`
	Phase  CommandPhase `json:"phase"`
	Text   string       `json:"text,omitempty"` // what is known of its end
}

// CommandPhase is how far a release command is.
type CommandPhase string

// Command phases.
const (
	CommandOffered CommandPhase = "offered" // not begun, for certain
	CommandBegun   CommandPhase = "begun"   // its node may begin it, or did
	CommandUnknown CommandPhase = "unknown" // nobody knows whether it did its work
	CommandDone    CommandPhase = "done"
)

// CommandGoal is what an assignment says of a release command. Number 0: nothing.
type CommandGoal struct {
	Release ReleaseID
	Number  uint64
	Go      bool // whoever claimed the number may begin; nobody may claim it any more
}

// commandSlack is how much longer than it may take a release command is waited for.
const commandSlack = time.Minute

// command is what the assignment of the node says.
func (a *App) command(node string) CommandGoal {
	r := a.Live
	if r == nil || r.Command == nil || r.Command.Node != node || r.Command.Phase == CommandDone {
		return CommandGoal{}
	}
	return CommandGoal{Release: r.Release, Number: r.Command.Number, Go: r.Command.Phase != CommandOffered}
}

// hasCommand tells whether the rollout runs the release command of its release.
func (a *App) hasCommand(r *Rollout) bool {
	rel := a.Release(r.Release)
	return r.Kind == Deploy && rel != nil && rel.Command > 0
}

// timeout is how long the rollout's status may last without progress.
func (a *App) timeout(r *Rollout) time.Duration {
	switch {
	case r.Status == Migrating && (r.Command == nil || r.Command.Phase != CommandDone):
		return a.Release(r.Release).Command + commandSlack
	case r.Status == Preparing, r.Status == Migrating:
		return a.Policy.PrepareTimeout
	}
	return a.Policy.ProgressTimeout
}

// settleCommand sees to the release command of a rollout whose nodes are all
// prepared, and tells whether turns may be given.
func (m *machine) settleCommand(a *App) bool {
	r := a.Live
	if !a.hasCommand(r) {
		return true
	}
	if r.Status == Preparing {
		m.status(r, Migrating, "", "")
		r.Deadline = m.now.Add(a.timeout(r))
	}
	switch {
	case r.Command == nil:
		m.offerCommand(a)
	case r.Command.Phase == CommandDone:
		return true
	case r.Command.Phase == CommandUnknown:
		m.pauseForCommand(a) // also when it was merely resumed
	}
	return false
}

// offerCommand chooses the node: the first in the order that can be reached.
func (m *machine) offerCommand(a *App) {
	r := a.Live
	for _, t := range m.targets(r) {
		if t.Phase == TargetPrepared && m.present(t) {
			m.LastCommand++
			r.Command = &Command{Number: m.LastCommand, Node: t.Node, Phase: CommandOffered}
			r.Deadline = m.now.Add(a.timeout(r))
			return
		}
	}
}

// commandReported takes what a node says of the last command that it claimed.
func (m *machine) commandReported(a *App, node string, f *CommandReport) {
	// Whoever gave it: an agent claims no number up to that one again.
	m.LastCommand = max(m.LastCommand, f.Number)
	r := a.Live
	if r == nil || r.Command == nil || r.Command.Node != node || r.Command.Phase == CommandDone || f.Number < r.Command.Number {
		return
	}
	c := r.Command
	failed := f.Reason != "" || f.Number > c.Number
	switch {
	case f.Number > c.Number:
		m.commandUnknown(a, "its node has claimed another since")
	case f.OK:
		c.Phase, c.Text = CommandDone, f.Text
		m.note(r, nil, NoteCommand, "", "the release command of %s did its work on %s%s", a.short(r.Release), node, inBrackets(f.Text))
		r.Deadline = m.now.Add(a.timeout(r))
	case failed && f.Fault == ReleaseFault:
		text := fmt.Sprintf("the release command of %s failed on %s: %s", a.short(r.Release), node, f.Text)
		m.note(r, nil, NoteFailed, f.Reason, "%s", text)
		m.markBad(a, r, r.Release, "lockstep", f.Reason, text)
		m.finish(a, Failed, f.Reason, text+"; no traffic was touched")
		return
	case failed:
		m.commandUnknown(a, f.Text)
	case c.Phase == CommandOffered:
		m.note(r, nil, NoteCommand, "", "%s runs the release command of %s", node, a.short(r.Release))
		c.Phase = CommandBegun
		r.Deadline = m.now.Add(a.timeout(r))
	case c.Phase == CommandUnknown && f.Running:
		c.Phase, c.Text = CommandBegun, ""
	}
	if c.Phase != CommandUnknown && r.Paused != nil && r.Paused.Reason == ReasonCommandUnknown {
		m.unpause(a, r, "lockstep")
	}
}

// commandLost is called when the node of a command is not heard of any more.
func (m *machine) commandLost(a *App, node string) {
	r := a.Live
	if r == nil || r.Command == nil || r.Command.Node != node {
		return
	}
	switch r.Command.Phase {
	case CommandOffered:
		r.Command = nil // another node may have it: this one never got leave to begin
	case CommandBegun:
		m.commandUnknown(a, node+" was lost, and it may still run there")
	}
}

func (m *machine) commandUnknown(a *App, text string) {
	c := a.Live.Command
	if c.Phase == CommandUnknown {
		return
	}
	c.Phase, c.Text = CommandUnknown, text
	m.note(a.Live, nil, NoteFailed, ReasonCommandUnknown, "it is not known that the release command of %s did its work on %s: %s", a.short(a.Live.Release), c.Node, text)
	m.pauseForCommand(a)
}

func (m *machine) pauseForCommand(a *App) {
	r := a.Live
	m.pause(r, "lockstep", ReasonCommandUnknown, fmt.Sprintf(
		"it is not known that the release command of %s did its work on %s: %s; it is not run again by itself: see what it did, then `deployctl retry %s` runs it again, `deployctl abort %s` gives the release up",
		a.short(r.Release), r.Command.Node, r.Command.Text, a.Name, a.Name))
}

// anotherCommand has a release command run again whose end is unknown: only a
// person may decide so.
func (m *machine) anotherCommand(a *App, by string) {
	r := a.Live
	if r.Command == nil || r.Command.Phase != CommandUnknown {
		return
	}
	m.note(r, nil, NoteRetry, ReasonRequested, "the release command of %s is run again, asked for by %s", a.short(r.Release), by)
	r.Command = nil
}

// checkCommand tells whether the deadline that passed was that of the command.
func (m *machine) checkCommand(a *App) bool {
	r := a.Live
	if r.Status != Migrating || r.Command == nil || r.Command.Phase == CommandDone {
		return false
	}
	if r.Command.Phase == CommandUnknown {
		m.pauseForCommand(a) // it was resumed, and its nodes are not prepared any more
		return true
	}
	text := fmt.Sprintf("no word of it from %s in %s", r.Command.Node, a.timeout(r))
	if r.Command.Phase == CommandOffered {
		text = fmt.Sprintf("%s did not take it in %s (is its deploy-agent as new as the coordinator?)", r.Command.Node, a.timeout(r))
	}
	m.commandUnknown(a, text)
	return true
}

// untouched tells what an abort at this point leaves behind.
func (r *Rollout) untouched() string {
	if r.Command != nil && r.Command.Phase != CommandOffered {
		return "no traffic was touched, but its release command was begun on " + r.Command.Node
	}
	return "nothing was touched"
}

// commandsGone settles the commands of nodes that were taken out of the
// configuration.
func (m *machine) commandsGone() {
	for i := range m.Apps {
		a := &m.Apps[i]
		if r := a.Live; r != nil && r.Command != nil && !slices.ContainsFunc(m.Placements, func(p Placement) bool {
			return p.App == a.Name && p.Node == r.Command.Node
		}) {
			m.commandLost(a, r.Command.Node)
		}
	}
}
