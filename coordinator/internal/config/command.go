package config

import (
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// readReleaseCommand reads what is run once in a rollout.
func (a *App) readReleaseCommand(o object) {
	v, ok := o.get("release_command")
	if ok {
		a.ReleaseCommand = v.command()
	}
	a.ReleaseTimeout = o.duration("release_command_timeout", 10*minute, second, day)
	if v, given := o.get("release_command_timeout"); given && !ok {
		v.warn("there is no release_command that it would bound; remove it")
	}
}

// readHooks reads what is run around a target's leaving and returning.
func (a *App) readHooks(o object) {
	v, ok := o.get("hooks")
	if !ok {
		return
	}
	h, ok := v.object(`{after_drain: "bin/hand-over", timeout: 1m}`, "before_drain", "after_drain", "while_stopped", "before_rejoin", "after_rejoin", "timeout")
	if !ok {
		return
	}
	a.Hooks = &api.Hooks{Timeout: api.Duration(h.duration("timeout", minute, second, time.Hour))}
	some := false
	for key, into := range map[string]*[]string{
		"before_drain": &a.Hooks.BeforeDrain, "after_drain": &a.Hooks.AfterDrain,
		"while_stopped": &a.Hooks.WhileStopped,
		"before_rejoin": &a.Hooks.BeforeRejoin, "after_rejoin": &a.Hooks.AfterRejoin,
	} {
		if v, ok := h.get(key); ok {
			*into, some = v.command(), true
		}
	}
	if v, ok := h.get("while_stopped"); ok && a.Restart != api.RestartStopStart {
		v.fail("the unit is never down where it is to %s; write restart: stop_start in fleet.yaml, or use after_drain", a.Restart)
	}
	if !some {
		v.fail("expected one of before_drain, after_drain, while_stopped, before_rejoin, and after_rejoin; remove hooks to have none")
	}
}

// hookTime is how long the hooks of one turn may take, with the stop that one of
// them is behind.
func (a *App) hookTime() time.Duration {
	n := len(a.Hooks.Steps())
	if n == 0 {
		return 0
	}
	d := time.Duration(n) * a.Hooks.Timeout.D()
	if len(a.Hooks.WhileStopped) > 0 {
		d += a.RestartTimeout
	}
	return d
}

// command reads one command line, or a list of them.
func (v value) command() []string {
	const write = `"bin/migrate up", or a list of commands`
	if _, list := v.node.(*ast.SequenceNode); list {
		return v.list(write, "a command", isCommand)
	}
	s, ok := v.text(write)
	if !ok {
		return nil
	}
	if !isCommand(s) {
		v.fail("expected a command, got %s", quoted(s))
	}
	return []string{s}
}

func isCommand(s string) bool { return strings.TrimSpace(s) != "" && !strings.Contains(s, "\x00") }
