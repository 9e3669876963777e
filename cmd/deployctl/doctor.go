package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that a deploy needs, and say what would stop one",
		Long: `Has the coordinator look at everything that a deploy needs: whether its
configuration and secrets are still what it started with, whether it can read
each repository and its submodules, when it heard of each agent and of which
version that is, whether units that Lockstep wrote are as it wrote them, whether
every target could be drained at its balancer, whether one can be
spared, and whether the balancers' health checks fit the timeouts. Nothing is
changed.

Exits 0 when all is well, and 3 when anything was found.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			d, err := cl.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(d, false)
			} else {
				printDoctor(c.out(), d)
			}
			if err == nil && d.Findings() > 0 {
				return &codeError{code: exitNotThere}
			}
			return err
		},
	}
}

func printDoctor(w io.Writer, d api.Doctor) {
	rows := [][]string{{"RESULT", "AREA", "SUBJECT", "FOUND"}}
	for _, c := range d.Checks {
		mark := "ok"
		if c.Result == api.CheckNote {
			mark = "note"
		} else if c.Result != api.CheckOK {
			mark = strings.ToUpper(orUnknown(c.Result))
		}
		rows = append(rows, []string{mark, orUnknown(c.Area), orUnknown(c.Subject), oneLine(c.Text)})
	}
	if len(d.Checks) > 0 {
		table(w, "", rows)
		fmt.Fprintln(w)
	}
	switch n := d.Findings(); {
	case len(d.Checks) == 0:
		fmt.Fprintln(w, "nothing was looked at")
	case n == 0:
		fmt.Fprintf(w, "%d checks, all well\n", len(d.Checks))
	default:
		fmt.Fprintf(w, "%d checks, %d of them found something\n", len(d.Checks), n)
	}
}
