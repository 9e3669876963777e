package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) planCommand() *cobra.Command {
	var ref string
	cmd := &cobra.Command{
		Use:   "plan APP",
		Short: "What a deploy would do, in order, as things stand",
		Long: `Shows what a deploy would do, in the order that it would do it, with how each
target stands in its load balancer today. Nothing is started.

Exits 3 when the deploy would be refused, or something would stop it today.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			p, err := cl.Plan(cmd.Context(), args[0], ref)
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(p, false)
			} else {
				printPlan(c.out(), p)
			}
			if err == nil && !planClear(p) {
				return &codeError{code: exitNotThere}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "branch, tag, or commit (the app's branch if not given)")
	return cmd
}

// planClear tells whether nothing stands against the plan.
func planClear(p api.Plan) bool {
	if p.Refused != "" {
		return false
	}
	for _, s := range p.Steps {
		if s.Problem != "" {
			return false
		}
	}
	return true
}

// runsNow tells nothing running from not knowing what does.
func runsNow(s api.PlanStep) string {
	switch {
	case s.Release != "":
		return shortID(s.Release)
	case s.Rotation == "" || s.Rotation == api.RotationUnknown:
		return unknown
	}
	return "none"
}

// printPlanUnit shows a unit that would be written, as it would be.
func printPlanUnit(w io.Writer, u api.PlanUnit) {
	nodes := strings.Join(u.Nodes, ", ")
	switch u.Change {
	case api.UnitStays:
		fmt.Fprintf(w, "\nIts unit %s stays as it is on %s.\n", u.Name, nodes)
		return
	case api.UnitInstall:
		fmt.Fprintf(w, "\nIts unit %s would be installed on %s, as the release is switched to:\n", u.Name, nodes)
	default:
		fmt.Fprintf(w, "\nIts unit %s on %s would be replaced as the release is switched to, and the one before put back with the release before:\n", u.Name, nodes)
	}
	for line := range strings.Lines(u.Text) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			line = "  " + line
		}
		fmt.Fprintln(w, line)
	}
}

func printPlan(w io.Writer, p api.Plan) {
	from := "the first one"
	if p.From != nil {
		from = "from " + releaseName(p.From)
	}
	fmt.Fprintf(w, "deploy of %s to %s (%s)\n", releaseName(&p.Release), p.App, from)
	if p.Refused != "" {
		fmt.Fprintf(w, "\nIt would not start: %s\n", oneLine(p.Refused))
	}
	fmt.Fprintln(w, "\nFirst, on every node that does not have it, with all targets in rotation:")
	fmt.Fprintln(w, "  fetch the commit")
	for _, b := range p.Build {
		fmt.Fprintln(w, "  run "+oneLine(b))
	}
	fmt.Fprintln(w, "\nThen, turn by turn: out of rotation, onto the release, proved healthy, back in:")
	rows := [][]string{{"TURN", "NODE", "RUNS NOW", "ROTATION", "HEALTH", "PREPARED", "SOAK", "PROBLEM"}}
	for i, s := range p.Steps {
		prepared := "no"
		if s.Prepared {
			prepared = "yes"
		}
		soak := "none"
		if s.Soak > 0 {
			soak = s.Soak.String()
		}
		rows = append(rows, []string{
			strconv.Itoa(i + 1), targetLabel(p.App, s.Target, s.Node), runsNow(s), orUnknown(s.Rotation), orUnknown(s.Health),
			prepared, soak, oneLine(s.Problem),
		})
	}
	if len(p.Steps) > 0 {
		table(w, "  ", rows)
	} else {
		fmt.Fprintln(w, "  no target")
	}
	for _, u := range p.Units {
		printPlanUnit(w, u)
	}
	if len(p.Notes) > 0 {
		fmt.Fprintln(w, "\nNotes:")
		for _, n := range p.Notes {
			fmt.Fprintln(w, "  "+oneLine(n))
		}
	}
}
