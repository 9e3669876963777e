package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// withRecipes returns those of the releases that a turn is about whose recipe it
// has to know: they have hooks, a unit that is generated, or a health check of
// their own.
func withRecipes(all []api.Release, ids ...string) []api.Release {
	var some []api.Release
	for _, r := range all {
		if (r.Recipe.Hooks != nil || r.Recipe.Run != nil || r.Recipe.HealthPath != "") && slices.Contains(ids, r.ID) {
			some = append(some, r)
		}
	}
	return some
}

// recipeOf finds the recipe of a release among those of a turn and those that the
// assignment names; an empty one where neither does.
func recipeOf(id string, turn []api.Release, d *journal.Doc) api.Recipe {
	all := turn
	if d.Assignment != nil {
		all = slices.Concat(turn, d.Assignment.Releases)
	}
	for _, r := range all {
		if r.ID == id {
			return r.Recipe
		}
	}
	return api.Recipe{}
}

// hook runs a hook of a target's turn in the sandbox of builds, from the release
// that it is of. One that an agent before this one began is gone on with where
// there is a systemd, and otherwise run again.
func (p *app) hook(ctx context.Context, target string, h activate.Hook) error {
	// The agent that stops leaves it running; all else ends it.
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, activate.ErrStopped) || p.a.work.Err() != nil {
			cause = sandbox.ErrLeave
		}
		cancel(cause)
	})()
	t, way, name := h.Turn, 0, string(h.Step)
	if h.Undo {
		way, name = 1, name+"-undo"
	}
	// Each process of the agent, and each direction, has chunks of output of its own.
	out := p.a.logs.streamOf(p.name, t.Instance, t.Rollout, h.Step, (int(t.Number)*2+way)*maxRuns+int(p.a.identity.Epoch%maxRuns))
	defer out.close()
	fmt.Fprintf(out, "[%s of %s, turn %d]\n", name, target, t.Number)
	fallback := t.Fallback
	if h.Undo {
		fallback = "" // it is on its way there
	}
	job := sandbox.Job{
		Name: fmt.Sprintf("%s.%s.hook.%d-%s.%s", p.name, p.a.identity.Instance, t.Number, t.Instance, name), What: string(h.Step), Reason: api.ReasonHookFailed,
		Commands: h.Commands, Dir: p.store.Path(h.Release.ID), User: p.a.cfg.BuildUser,
		Limits: limitsOf(h.Release.Recipe, h.Release.Recipe.Hooks.Timeout, "hooks.timeout"), Grace: buildGrace,
	}
	err := p.surround(ctx, &job, t.Spec.Unit, h.Release, p.ofTurn(h.Release, t.Rollout, target, t.Instance, fallback), out)
	if err == nil {
		err = p.a.deps.Sandbox.Run(inner, job, out)
	}
	if err != nil && !errors.Is(err, sandbox.ErrLeave) { // the next agent goes on with it
		fmt.Fprintf(out, "%v\n", err)
	}
	return err
}
