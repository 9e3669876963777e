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
	var ref, to string
	var back bool
	cmd := &cobra.Command{
		Use:   "plan APP",
		Short: "What a deploy, or a rollback, would do, in order, as things stand",
		Long: `Shows what a deploy would do, in the order that it would do it, with how each
target stands in its load balancer today; with --rollback what a rollback would
do, and which nodes do not have the release any more. Nothing is started.

Exits 3 when it would be refused, or something would stop it today.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case to != "" && !back:
				return usageErrorf("--to is for plan --rollback; a deploy is planned with --ref")
			case ref != "" && back:
				return usageErrorf("--ref is for the plan of a deploy; a rollback is planned with --to")
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			var p api.Plan
			if back {
				p, err = cl.PlanRollback(cmd.Context(), args[0], to)
			} else {
				p, err = cl.Plan(cmd.Context(), args[0], ref)
			}
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
	cmd.Flags().BoolVar(&back, "rollback", false, "of a rollback rather than a deploy")
	cmd.Flags().StringVar(&to, "to", "", "with --rollback, `RELEASE`: its id, or its commit by at least 7 hex digits")
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
	from, back := "the first one", p.Kind == "rollback"
	if p.From != nil {
		from = "from " + releaseName(p.From)
	}
	if back {
		fmt.Fprintf(w, "rollback of %s to %s (%s)\n", p.App, releaseName(&p.Release), from)
	} else {
		fmt.Fprintf(w, "deploy of %s to %s (%s)\n", releaseName(&p.Release), p.App, from)
	}
	if p.Refused != "" {
		fmt.Fprintf(w, "\nIt would not start: %s\n", oneLine(p.Refused))
	}
	switch {
	case !back:
		printPreparation(w, p)
	case p.Refused == "":
		printMissing(w, p.Missing)
	}
	printTurns(w, p)
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

// printMissing shows what a rollback has to do before its first turn.
func printMissing(w io.Writer, missing []string) {
	if len(missing) == 0 {
		fmt.Fprintln(w, "\nNothing is built: every node that answers has the release.")
		return
	}
	fmt.Fprintln(w, "\nFirst, with all targets in rotation:")
	for _, m := range missing {
		fmt.Fprintln(w, "  "+oneLine(m))
	}
}

// printPreparation shows what a deploy does before its first turn.
func printPreparation(w io.Writer, p api.Plan) {
	if r := p.Recipe; r != nil {
		sets := "nothing otherwise than fleet.yaml"
		if len(r.Sets) > 0 {
			sets = strings.Join(r.Sets, ", ")
		}
		fmt.Fprintf(w, "\nIn the commit %s sets %s; it may set %s.\n", oneLine(r.File), sets, strings.Join(r.MaySet, ", "))
	}
	switch p.BuildOn {
	case "", "each":
		fmt.Fprintln(w, "\nFirst, on every node that does not have it, with all targets in rotation:")
	case "first":
		fmt.Fprintln(w, "\nFirst, on the first node that can, for all, with all targets in rotation:")
	default:
		fmt.Fprintf(w, "\nFirst, on %s, for all nodes, with all targets in rotation:\n", oneLine(p.BuildOn))
	}
	fmt.Fprintln(w, "  fetch the commit")
	printCommands(w, p.Build)
	if len(p.Artifact) > 0 {
		fmt.Fprintln(w, "  keep "+strings.Join(p.Artifact, ", "))
	}
	if p.BuildOn != "" && p.BuildOn != "each" {
		fmt.Fprintln(w, "  hand the files to every other node")
	}
	if len(p.Shared) > 0 {
		fmt.Fprintln(w, "  link to what all releases on a node share: "+strings.Join(p.Shared, ", "))
	}
	if len(p.ReleaseCommand) > 0 {
		fmt.Fprintln(w, "\nThen, once, on one node, when every node has it:")
		printCommands(w, p.ReleaseCommand)
	}
}

func printCommands(w io.Writer, lines []string) {
	for _, l := range lines {
		fmt.Fprintln(w, "  run "+oneLine(l))
	}
}

// printTurns shows the turns of a rollout, and what is run in each.
func printTurns(w io.Writer, p api.Plan) {
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
	hooks := [][]string{}
	for _, step := range p.Hooks.Steps() {
		for _, l := range p.Hooks.At(step) {
			hooks = append(hooks, []string{string(step), oneLine(l)})
		}
	}
	if len(hooks) > 0 {
		fmt.Fprintln(w, "\nIn each turn its hooks are run:")
		table(w, "  ", hooks)
	}
	if p.HealthPath != "" {
		fmt.Fprintln(w, "\nIts health is asked for at "+oneLine(p.HealthPath)+", in the place of the path in fleet.yaml.")
	}
}
