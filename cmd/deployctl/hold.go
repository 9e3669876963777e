package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) holdCommand() *cobra.Command {
	var rq api.HoldRequest
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "hold APP --reason TEXT",
		Short: "Keep pushes from being deployed",
		Long: `Keeps automation from deploying the app, until unhold or for --for. A rollout in
progress goes on, and a person may still deploy.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if rq.Reason == "" {
				return usageErrorf("a hold needs a reason for whoever finds it: --reason TEXT")
			}
			if span < 0 {
				return usageErrorf("--for %s: expected a duration that is not negative", span)
			}
			rq.For = api.Duration(span)
			cl, err := c.connect()
			if err != nil {
				return err
			}
			a, err := cl.Hold(cmd.Context(), args[0], rq)
			if err != nil {
				return maybeArrived(err, args[0])
			}
			if c.json {
				return c.printJSON(a, false)
			}
			if a.Hold == nil {
				return fmt.Errorf("the coordinator accepted the hold but shows none on %s", args[0])
			}
			fmt.Fprintf(c.out(), "%s is on hold %s\n", args[0], holdLine(c.now(), *a.Hold))
			return nil
		},
	}
	cmd.Flags().StringVar(&rq.Reason, "reason", "", "`TEXT` for whoever finds the hold")
	cmd.Flags().DurationVar(&span, "for", 0, "`DURATION` such as 2h (0: until unhold)")
	c.byFlag(cmd, &rq.By)
	return cmd
}

func (c *cli) unholdCommand() *cobra.Command {
	var rq api.ActionRequest
	cmd := &cobra.Command{
		Use:               "unhold APP",
		Short:             "Let pushes be deployed again",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			a, err := cl.Unhold(cmd.Context(), args[0], rq)
			if err != nil {
				return maybeArrived(err, args[0])
			}
			if c.json {
				return c.printJSON(a, false)
			}
			fmt.Fprintf(c.out(), "%s is not on hold\n", args[0])
			return nil
		},
	}
	c.byFlag(cmd, &rq.By)
	return cmd
}
