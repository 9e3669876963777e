package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) retryCommand() *cobra.Command {
	return c.actionCommand(action{
		use:   "retry",
		short: "Let a rollout try again what failed, and watch",
		long: `Gives the nodes that failed another chance. If no rollout is live, brings the
targets that are not on the current release to it, or else deploys the release
of the last rollout that failed again.`,
		do:          (*api.Client).Retry,
		wanted:      []string{"succeeded"},
		newestIsFit: true,
	})
}

func (c *cli) pauseCommand() *cobra.Command {
	return c.actionCommand(action{
		use:   "pause",
		short: "Begin no further turn of a rollout",
		long:  `Keeps the live rollout from beginning further turns. A turn in progress is finished.`,
		do:    (*api.Client).Pause,
	})
}

func (c *cli) resumeCommand() *cobra.Command {
	return c.actionCommand(action{
		use:    "resume",
		short:  "Let a paused rollout go on, and watch",
		long:   `Lets a paused rollout go on.`,
		do:     (*api.Client).Resume,
		wanted: []string{"succeeded"},
	})
}

func (c *cli) abortCommand() *cobra.Command {
	return c.actionCommand(action{
		use:   "abort",
		short: "Stop a rollout and roll back what it changed, and watch",
		long: `Stops the live rollout and rolls back the targets that it changed. A rollback is
never itself rolled back: it stops where it is.`,
		do:     (*api.Client).Abort,
		wanted: []string{"aborted", "rolled_back"},
	})
}

// action is a command upon a live rollout.
type action struct {
	use, short, long string
	do               func(*api.Client, context.Context, string, api.ActionRequest) (api.Rollout, error)
	wanted           []string // the statuses that are its success; none: it is not waited for
	newestIsFit      bool     // the newest rollout will do when none is live
}

func (c *cli) actionCommand(a action) *cobra.Command {
	var rq api.ActionRequest
	f := followFlags{noWait: a.wanted == nil}
	cmd := &cobra.Command{
		Use:               a.use + " APP|ROLLOUT",
		Short:             a.short,
		Long:              a.long + "\n\nGiven a rollout such as hello-3 instead of an app, it makes sure that this is\nthe one concerned.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAppsAndLive,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			app, err := concerned(cmd.Context(), cl, args[0], a.newestIsFit)
			if err != nil {
				return err
			}
			return c.start(cmd.Context(), app, f, a.wanted, func(ctx context.Context, cl *api.Client) (api.Rollout, error) {
				return a.do(cl, ctx, app, rq)
			})
		},
	}
	cmd.Flags().StringVar(&rq.Reason, "reason", "", "`TEXT` to record as the reason")
	c.byFlag(cmd, &rq.By)
	if a.wanted != nil {
		f.add(cmd)
	}
	return cmd
}

// rolloutID is an app's name with a number. An app may have such a name too.
var rolloutID = regexp.MustCompile(`^(.+)-[1-9][0-9]*$`)

// concerned returns the app that name stands for: itself, or the app of the
// live rollout that it is.
func concerned(ctx context.Context, cl *api.Client, name string, newestIsFit bool) (string, error) {
	st, err := cl.Status(ctx)
	if err != nil {
		return "", err
	}
	if _, err := findApp(st, name); err == nil {
		return name, nil
	}
	m := rolloutID.FindStringSubmatch(name)
	if m == nil {
		_, err := findApp(st, name)
		return "", err
	}
	a, err := findApp(st, m[1])
	if err != nil {
		return "", err
	}
	if a.Live != nil {
		if a.Live.ID == name {
			return a.App, nil
		}
		return "", fmt.Errorf("%s is not the live rollout of %s: that is %s", name, a.App, rolloutLine(*a.Live))
	}
	if a.Waiting != nil && a.Waiting.ID == name {
		return a.App, nil
	}
	newest, err := newestRollout(ctx, cl, a.App)
	if err != nil {
		return "", err
	}
	if newest == nil {
		return "", fmt.Errorf("%s has no live rollout, and never had one", a.App)
	}
	if newestIsFit && newest.ID == name {
		return a.App, nil
	}
	return "", fmt.Errorf("%s has no live rollout; the newest one is over: %s", a.App, rolloutLine(*newest))
}

// newestRollout returns an app's newest rollout, or nil if there was none.
func newestRollout(ctx context.Context, cl *api.Client, app string) (*api.Rollout, error) {
	list, err := cl.Rollouts(ctx, app)
	if err != nil {
		return nil, err
	}
	var newest *api.Rollout
	for i, r := range list {
		if newest == nil || r.Created.After(newest.Created) {
			newest = &list[i]
		}
	}
	return newest, nil
}

// findRollout returns the rollout that name is, or the newest one of the app
// that it is.
func findRollout(ctx context.Context, cl *api.Client, name string) (api.Rollout, error) {
	r, err := cl.Rollout(ctx, name)
	var refused *api.Error
	if err == nil || !errors.As(err, &refused) || refused.Kind != api.ErrorNotFound {
		return r, err
	}
	newest, listErr := newestRollout(ctx, cl, name)
	if listErr == nil && newest != nil {
		return *newest, nil
	}
	return api.Rollout{}, err
}
