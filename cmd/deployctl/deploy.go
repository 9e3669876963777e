package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) deployCommand() *cobra.Command {
	var rq api.DeployRequest
	var f followFlags
	cmd := &cobra.Command{
		Use:   "deploy APP",
		Short: "Roll an app out to a commit and watch",
		Long: `Starts a rollout of the app's branch, or of --ref, and shows its progress until
it is over. Ctrl-C only detaches. A rollout in progress is waited for.

The exit code tells how it ended: see deployctl help exit-codes.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.start(cmd.Context(), args[0], f, []string{"succeeded"}, func(ctx context.Context, cl *api.Client) (api.Rollout, error) {
				return cl.Deploy(ctx, args[0], rq)
			})
		},
	}
	cmd.Flags().StringVar(&rq.Ref, "ref", "", "branch, tag, or commit (the app's branch if not given)")
	c.byFlag(cmd, &rq.By)
	f.add(cmd)
	return cmd
}

func (c *cli) rollbackCommand() *cobra.Command {
	var rq api.RollbackRequest
	var f followFlags
	cmd := &cobra.Command{
		Use:   "rollback APP",
		Short: "Roll an app back to the last stable release before the current one",
		Long: `Starts a rollout to an earlier release and shows its progress until it is over.
Without --to that is the last stable release before the current one; nothing is
built again, but on nodes that do not have it any more, which are named at once.
Ctrl-C only detaches.

The exit code tells how it ended: see deployctl help exit-codes.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.start(cmd.Context(), args[0], f, []string{"succeeded"}, func(ctx context.Context, cl *api.Client) (api.Rollout, error) {
				return cl.Rollback(ctx, args[0], rq)
			})
		},
	}
	cmd.Flags().StringVar(&rq.To, "to", "", "`RELEASE`: its id, or its commit by at least 7 hex digits")
	c.byFlag(cmd, &rq.By)
	f.add(cmd)
	return cmd
}

// start asks for something that takes a while, and watches it unless told not
// to. wanted lists the statuses by which it did what was asked.
func (c *cli) start(ctx context.Context, app string, f followFlags, wanted []string, ask func(context.Context, *api.Client) (api.Rollout, error)) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	r, err := ask(ctx, cl)
	if err != nil {
		return maybeArrived(err, app)
	}
	warnings := r.Warnings
	for _, text := range warnings {
		fmt.Fprintf(c.errOut(), "warning: %s\n", oneLine(text))
	}
	if f.noWait {
		if c.json {
			return c.printJSON(r, false)
		}
		fmt.Fprintf(c.out(), "%s\nFollow it with: deployctl show --follow %s\n", rolloutLine(r), r.ID)
		return nil
	}
	if !c.json && c.term == nil {
		fmt.Fprintln(c.out(), rolloutLine(r))
	}
	r, err = c.follow(ctx, cl, r.ID, f.timeout, c.newView(false))
	if err != nil {
		return err
	}
	r.Warnings = warnings
	return c.outcome(r, wanted...)
}

// maybeArrived adds to err that the request may have been carried out, unless
// the coordinator itself refused it.
func maybeArrived(err error, app string) error {
	var refused *api.Error
	if errors.As(err, &refused) {
		return err
	}
	var ue *api.UnreachableError
	var ae *api.AnswerError
	if errors.As(err, &ue) && !ue.Refused() || errors.As(err, &ae) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w\nWhether the coordinator received the request is unknown. Look before asking again: deployctl rollouts %s", err, app)
	}
	return err
}
