package config

import (
	"strings"

	"github.com/goccy/go-yaml/ast"
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
