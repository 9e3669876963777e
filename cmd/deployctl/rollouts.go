package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) rolloutsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rollouts APP",
		Short:             "The rollouts of an app, as the coordinator remembers them",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			list, err := cl.Rollouts(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				if list == nil {
					list = []api.Rollout{}
				}
				return c.printJSON(list, false)
			}
			if len(list) == 0 {
				fmt.Fprintf(c.out(), "%s has had no rollout\n", args[0])
				return nil
			}
			rows := [][]string{{"ROLLOUT", "KIND", "STATUS", "RELEASE", "BY", "CREATED", "TOOK", "DETAIL"}}
			for _, r := range list {
				rows = append(rows, []string{r.ID, orUnknown(r.Kind), statusWord(r), releaseName(&r.Release), orUnknown(r.By),
					age(c.now(), r.Created), took(r, c.now()), because(r.Reason, r.Text)})
			}
			table(c.out(), "", rows)
			return nil
		},
	}
}

func statusWord(r api.Rollout) string {
	s := orUnknown(r.Status)
	if r.Paused != nil {
		s += " (paused)"
	}
	return s
}

func took(r api.Rollout, now time.Time) string {
	switch {
	case r.Started == nil:
		return "-"
	case r.Finished == nil:
		return elapsed(now.Sub(*r.Started)) + " so far"
	}
	return elapsed(r.Finished.Sub(*r.Started))
}

func (c *cli) showCommand() *cobra.Command {
	var follow bool
	var f followFlags
	cmd := &cobra.Command{
		Use:   "show ROLLOUT|APP",
		Short: "One rollout: its targets and its timeline",
		Long: `Shows a rollout, or the newest one of an app. With --follow, shows its progress
until it is over, and the exit code tells how it ended. One that is the app's
next is waited for: a push takes a moment to arrive.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAppsAndLive,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			cl, err := c.connect()
			if err != nil {
				return err
			}
			r, err := findRollout(ctx, cl, args[0])
			if err != nil && follow && isNext(ctx, cl, args[0]) {
				r, err = c.awaitRollout(ctx, cl, args[0], f.timeout)
			}
			if err != nil {
				return err
			}
			if follow {
				return c.showOn(ctx, cl, r, f.timeout)
			}
			page, err := timeline(ctx, cl, r)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(page, false)
			}
			printRollout(c.out(), c.now(), page)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show progress until it is over")
	f.addTimeout(cmd)
	return cmd
}

// isNext tells whether the rollout will be the next one of its app.
func isNext(ctx context.Context, cl *api.Client, id string) bool {
	dash := strings.LastIndex(id, "-")
	n, err := strconv.Atoi(id[dash+1:])
	if dash < 1 || err != nil {
		return false
	}
	if n == 1 {
		st, err := cl.Status(ctx)
		return err == nil && slices.ContainsFunc(st.Apps, func(a api.AppStatus) bool { return a.App == id[:dash] })
	}
	_, err = cl.Rollout(ctx, fmt.Sprintf("%s-%d", id[:dash], n-1))
	return err == nil
}

// awaitRollout returns a rollout once there is one of the name.
func (c *cli) awaitRollout(ctx context.Context, cl *api.Client, id string, timeout time.Duration) (api.Rollout, error) {
	fmt.Fprintf(c.errOut(), "%s has not begun; waiting for it\n", id)
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for {
		r, err := cl.Rollout(ctx, id)
		var refused *api.Error
		if err == nil || (ctx.Err() == nil && (!errors.As(err, &refused) || refused.Kind != api.ErrorNotFound)) {
			return r, err
		}
		if sleep(ctx, c.retryPause) {
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return r, &codeError{exitNotThere, fmt.Sprintf("%s has not begun after %s", id, timeout)}
		}
		return r, &codeError{exitDetached, id + " has not begun; stopped waiting for it"}
	}
}

func (c *cli) showOn(ctx context.Context, cl *api.Client, r api.Rollout, timeout time.Duration) error {
	last, err := c.follow(ctx, cl, r.ID, timeout, c.newView(true))
	if err != nil {
		return err
	}
	if c.json { // its last page holds the rollout
		if last.Status != "succeeded" || len(leftOut(last)) > 0 {
			return &codeError{code: exitNotThere}
		}
		return nil
	}
	return c.outcome(last, "succeeded")
}

// timeline returns a rollout with all of its events so far.
func timeline(ctx context.Context, cl *api.Client, r api.Rollout) (api.EventPage, error) {
	all := api.EventPage{Rollout: r, Events: []api.Event{}}
	after := int64(0)
	for {
		page, err := cl.Events(ctx, r.ID, after, 0)
		if err != nil {
			return all, err
		}
		if page.Rollout.ID != "" {
			all.Rollout = page.Rollout
		}
		before := after
		for _, e := range page.Events {
			after = max(after, e.Number)
		}
		all.Events = append(all.Events, page.Events...)
		if after == before { // nothing new
			return all, nil
		}
	}
}

func printRollout(w io.Writer, now time.Time, p api.EventPage) {
	r := p.Rollout
	fmt.Fprintf(w, "%s  %s of %s\n", r.ID, orUnknown(r.Kind), releaseName(&r.Release))
	status := statusWord(r)
	if why := because(r.Reason, r.Text); why != "" {
		status += ": " + why
	}
	facts := [][]string{{"status", status}}
	if h := r.Paused; h != nil {
		facts = append(facts, []string{"paused", fmt.Sprintf("by %s %s: %s", orUnknown(h.By), age(now, h.At), because(h.Reason, h.Text))})
	}
	if r.Blocked != "" {
		facts = append(facts, []string{"blocked", oneLine(r.Blocked)})
	}
	if r.From != nil {
		facts = append(facts, []string{"from", releaseName(r.From)})
	}
	by := orUnknown(r.By)
	if r.Cause != "" {
		by += " (" + oneLine(r.Cause) + ")"
	}
	facts = append(facts, []string{"by", by}, []string{"created", stamp(r.Created) + ", " + age(now, r.Created)}, []string{"took", took(r, now)})
	table(w, "  ", facts)

	rows := [][]string{{"NODE", "PHASE", "STEP", "SINCE", "DETAIL"}}
	for _, t := range r.Targets {
		since := ""
		if t.Step != "" && t.Since != nil {
			since = age(now, *t.Since)
		}
		rows = append(rows, []string{targetLabel(r.App, t.Target, t.Node), orUnknown(t.Phase), oneLine(t.Step), since, because(t.Reason, t.Text)})
	}
	fmt.Fprintln(w)
	table(w, "  ", rows)

	fmt.Fprintln(w, "\nTimeline:")
	for _, e := range p.Events {
		fmt.Fprintln(w, "  "+eventLine(e))
	}
	if len(p.Events) == 0 {
		fmt.Fprintln(w, "  nothing has happened yet")
	}
}
