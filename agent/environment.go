package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// The variables that say to a command what it is run for. No configuration can
// set any of that prefix, nor can what the app's unit is started with.
//
// A build is told nothing but its release: what differs between two nodes, or
// between two rollouts of one release, would make its files differ, too.
const ownVariables = "LOCKSTEP_"

func (p *app) ofRelease(r api.Release) map[string]string {
	return map[string]string{"LOCKSTEP_APP": p.name, "LOCKSTEP_RELEASE": r.ID, "LOCKSTEP_SHA": r.SHA}
}

func (p *app) ofNode() map[string]string {
	return map[string]string{"LOCKSTEP_APP": p.name, "LOCKSTEP_NODE": p.a.cfg.Name}
}

func (p *app) ofRollout(r api.Release, rollout string) map[string]string {
	vars := p.ofRelease(r)
	maps.Copy(vars, p.ofNode())
	vars["LOCKSTEP_ROLLOUT"] = rollout
	return vars
}

func (p *app) ofTurn(r api.Release, rollout, target, instance, fallback string) map[string]string {
	vars := p.ofRollout(r, rollout)
	vars["LOCKSTEP_TARGET"], vars["LOCKSTEP_INSTANCE"], vars["LOCKSTEP_FALLBACK"] = target, instance, fallback
	return vars
}

// environment joins variables, of which the later ones win, in a settled order.
func environment(all ...map[string]string) []string {
	joined := map[string]string{}
	for _, vars := range all {
		maps.Copy(joined, vars)
	}
	out := make([]string, 0, len(joined))
	for _, k := range slices.Sorted(maps.Keys(joined)) {
		out = append(out, k+"="+joined[k])
	}
	return out
}

// surround gives a release command or a hook what the app's own program has
// around it: it runs as the same user, may write where that may, and finds the
// variables of the recipe and of the unit, those in vars, and the secrets. What is
// in files of variables may be secret.
func (p *app) surround(ctx context.Context, job *sandbox.Job, name string, r api.Release, vars map[string]string, out io.Writer) error {
	set, secrets := maps.Clone(r.Recipe.Env), map[string]string{}
	if set == nil {
		set = map[string]string{}
	}
	app, err := p.unitEnvironment(ctx, name, r)
	if err != nil {
		return err
	}
	if app == nil {
		app = &unit.Environment{}
	} else {
		job.App = &app.Account
	}
	if run := r.Recipe.Run; run != nil {
		// Its unit is still that of the release before, if there is one.
		vars, err := unit.EnvironmentFile(unitfile.Variables(p.a.cfg.Apps, p.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "[without a file of variables: %v]\n", err)
		}
		for key, value := range run.Env {
			set[key] = strings.ReplaceAll(value, "{instance}", unitfile.Instance(name))
		}
		maps.Copy(secrets, vars)
	} else {
		for _, why := range app.Unread {
			fmt.Fprintf(out, "[without a file of variables of %s: %s]\n", name, why)
		}
		maps.Copy(set, app.Set)
		maps.Copy(secrets, app.Files)
	}
	for _, name := range r.Recipe.Secrets {
		if secrets[name], err = p.a.cfg.Secret(name); err != nil {
			return err
		}
	}
	own := func(name, _ string) bool { return strings.HasPrefix(name, ownVariables) }
	maps.DeleteFunc(set, own)
	maps.DeleteFunc(secrets, own)
	for name := range secrets {
		delete(set, name)
	}
	job.Env, job.Secrets = environment(set, vars), secrets
	job.Open = p.store.SharedPaths(r.Recipe.Shared)
	// Apart from the builds': these commands may be another user's, and no node is
	// sure to have built.
	job.Cache = filepath.Join(p.a.cfg.State, "cache", p.name+".commands")
	return nil
}

// unitEnvironment is what the app's unit starts its program with, and as whom; nil
// where the agent has no service manager to ask.
func (p *app) unitEnvironment(ctx context.Context, name string, r api.Release) (*unit.Environment, error) {
	read := p.a.deps.Environment
	if read == nil || name == "" {
		return nil, nil
	}
	e, err := read(ctx, name)
	switch {
	case err == nil:
	case r.Recipe.Run != nil && fault.ReasonOf(err) == api.ReasonUnitMissing:
		// It is written in the app's first turn.
		if e.Account = unit.Made(name); p.a.cfg.RunUser != "" {
			e.Account.User, e.Account.Dynamic = p.a.cfg.RunUser, false
		}
	default:
		return nil, fmt.Errorf("it was not begun, for there is no telling whom the app runs as: %w", err)
	}
	return &e, nil
}
