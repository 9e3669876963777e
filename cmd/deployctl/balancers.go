package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) balancersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "balancers [NAME]",
		Short: "How each load balancer sees its members, and why any is out",
		Long: `Shows every member of each load balancer as the balancer itself sees it: whether
it serves, how much it has in flight, and in the balancer's own words why not.
Balancers that the coordinator speaks to are looked at now; of the others it
shows what an agent last saw, and when.

Exits 3 when a target of this fleet does not serve, unless a rollout holds it
out just now, or when it is not known.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			bs, err := cl.Balancers(cmd.Context(), name)
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(bs, false)
			} else {
				printBalancers(c.out(), bs)
			}
			if err == nil && !allServe(bs) {
				return &codeError{code: exitNotThere}
			}
			return err
		},
	}
}

// allServe tells whether every target that should is known to serve.
func allServe(bs api.Balancers) bool {
	for _, b := range bs.Balancers {
		if b.Seen == nil && len(b.Apps) > 0 {
			return false
		}
		for _, m := range b.Members {
			if len(m.Targets) > 0 && m.Phase != "serving" && !m.Turn {
				return false
			}
		}
	}
	return true
}

func printBalancers(w io.Writer, bs api.Balancers) {
	if len(bs.Balancers) == 0 {
		fmt.Fprintln(w, "no balancers: fleet.yaml names none")
	}
	for i, b := range bs.Balancers {
		if i > 0 {
			fmt.Fprintln(w)
		}
		printBalancer(w, bs.At, b)
	}
}

func printBalancer(w io.Writer, now time.Time, b api.BalancerStatus) {
	fmt.Fprintf(w, "%s  %d of %d serve\n", orUnknown(b.Name), b.Serving(), len(b.Members))
	facts := [][]string{
		{"type", orUnknown(b.Type) + ", via " + orUnknown(b.Via)},
		{"apps", oneLine(strings.Join(b.Apps, ", "))},
		{"seen", balancerSeen(now, b)},
		{"drains", fmt.Sprintf("only while %d or more others serve", b.MinHealthy)},
	}
	if b.Problem != "" {
		facts = append(facts, []string{"problem", oneLine(b.Problem)})
	}
	table(w, "  ", facts)
	if len(b.Members) == 0 {
		return
	}
	rows := [][]string{{"MEMBER", "PHASE", "IN FLIGHT", "TARGETS", "DETAIL"}}
	for _, m := range b.Members {
		phase := orUnknown(m.Phase)
		if m.Turn {
			phase += " (its turn)"
		}
		rows = append(rows, []string{orUnknown(m.Name), phase, inFlight(m.InFlight), memberTargets(m), oneLine(m.Detail)})
	}
	fmt.Fprintln(w)
	table(w, "  ", rows)
}

func balancerSeen(now time.Time, b api.BalancerStatus) string {
	if b.Seen == nil {
		return "not yet"
	}
	s := age(now, *b.Seen)
	if b.Source != "" {
		s += ", by " + oneLine(b.Source)
	}
	return s
}

// inFlight never shows what is not known as nothing.
func inFlight(n int64) string {
	if n < 0 {
		return unknown
	}
	return strconv.FormatInt(n, 10)
}

func memberTargets(m api.BalancerMemberStatus) string {
	if len(m.Targets) == 0 {
		return "none of this fleet"
	}
	return oneLine(strings.Join(m.Targets, ", "))
}
