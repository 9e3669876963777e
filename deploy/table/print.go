package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

func print(rows []*row) {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BALANCER\tMODE\tREQUESTS\tFAILED\tKNOWN LOSSES\tOUT AT ONCE\tTIME OF A TARGET OUT\tROLLOUT TOOK")
	for _, r := range rows {
		if r.watch == nil {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t-\t-\tdid not run\n", r.kind.Product, r.kind.Mode)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", r.kind.Product, r.kind.Mode, r.clients.All.Sent, r.clients.All.Failed,
			losses(r), r.watch.Most, span(r.watch), seconds(r.took))
	}
	_ = w.Flush() // to standard output
	fmt.Print(`
Known losses are those that the balancer's own page describes; clients see them at every reload, with or without us.
An idle keep-alive reset is a request sent on a kept connection at the moment at which the balancer closed it.
A failover cut is a request in flight on the HAProxy that was killed. Its clients went to the other one at once: the
time that keepalived takes to move an address is not in the table.
`)
}

// losses are the documented losses, by class.
func losses(r *row) string {
	var all []string
	for _, c := range r.kind.Documented {
		n := r.clients.All.Documented[c]
		s := "s"
		if n == 1 {
			s = ""
		}
		all = append(all, fmt.Sprintf("%d %s%s", n, c, s))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// span is the shortest and the longest time out of rotation.
func span(w *fleet.Rotation) string {
	var least, most time.Duration
	for _, all := range w.Spans {
		for _, d := range all {
			if least == 0 || d < least {
				least = d
			}
			most = max(most, d)
		}
	}
	return fmt.Sprintf("%.1f to %s", least.Seconds(), seconds(most))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
