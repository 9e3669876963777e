package agent

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// sandboxRetry is how long after a failure the sandbox is tried again.
const sandboxRetry = time.Minute

// trySandbox finds out how builds are held in on this machine, for the report.
func (a *Agent) trySandbox() {
	last := ""
	for a.stop.Err() == nil {
		held := a.deps.Sandbox.Check(a.stop, a.cfg.BuildUser)
		if a.stop.Err() != nil {
			return
		}
		a.mu.Lock()
		a.held = &held
		a.mu.Unlock()
		a.notify()
		if held.Problem == "" {
			a.deps.Log.Info("builds are held in", "with", held.With, "why", held.Why, "user", held.User, "unenforced", held.Unenforced)
			return
		}
		if held.Problem != last {
			a.deps.Log.Warn("builds cannot run here", "error", held.Problem)
			last = held.Problem
		}
		rest(a.stop, sandboxRetry)
	}
}

func (a *Agent) sandboxReport() *api.Sandbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held
}

// hidden is what builds shall not see that run as the agent's own user: what the
// agent knows and they must not, and the ways to have systemd run something
// outside of the sandbox.
func hidden(c Config) []string {
	all := []string{
		c.TokenFile, filepath.Join(c.State, "journal"), filepath.Join(c.State, "git"),
		filepath.Join(c.State, "jobs"), filepath.Join(c.State, "identity.json"),
	}
	for _, f := range c.Secrets {
		all = append(all, f)
	}
	for _, l := range c.Credentials {
		for _, f := range []string{l.Secret, l.Key} {
			if f != "" {
				all = append(all, f)
			}
		}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && c.Systemd == "user" {
		all = append(all, filepath.Join(dir, "bus"), filepath.Join(dir, "systemd"))
	}
	slices.Sort(all)
	return all
}
