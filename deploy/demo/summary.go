package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

// summary prints what was measured, and is an error if a promise was not kept.
func summary(ctx context.Context, f *fleet.Fleet, clients fleet.Result, watch *fleet.Rotation, version string) error {
	say("Summary")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "REQUESTS\tSENT\tFAILED\t"+strings.ToUpper(documented(f.Kind.Documented)))
	row := func(kind string, c fleet.Count) {
		fmt.Fprintf(w, "%s\t%d\t%d", kind, c.Sent, c.Failed)
		for _, class := range f.Kind.Documented {
			fmt.Fprintf(w, "\t%d", c.Documented[class])
		}
		fmt.Fprintln(w)
	}
	for _, kind := range sortedKeys(clients.Kinds) {
		row(kind, clients.Kinds[kind])
	}
	sent, failed := clients.All.Sent, clients.All.Failed
	row("all", clients.All)
	fmt.Fprintf(w, "\nTARGET\tTIMES OUT\tSECONDS OUT OF ROTATION, AS %s SHOWS IT\n", strings.ToUpper(f.Kind.Product))
	for _, n := range f.Nodes {
		var each []string
		for _, d := range watch.Spans[n] {
			each = append(each, fmt.Sprintf("%.2f", d.Seconds()))
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", n, len(each), strings.Join(each, "  "))
	}
	fmt.Fprintln(w, "\nVERSION\tANSWERS")
	for _, v := range sortedKeys(clients.Served) {
		fmt.Fprintf(w, "%s\t%d\n", v, clients.Served[v])
	}
	st, err := f.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nTARGET\tPROVED RELEASE\tIN ROTATION")
	wrong := 0
	for _, t := range st.Apps[0].Targets {
		rel := "unknown"
		if t.Release != nil {
			rel = t.Release.ID + " " + t.Release.Subject
		}
		if t.Release == nil || t.Release.Subject != "hello "+version || t.Rotation != api.RotationIn {
			wrong++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Target, rel, t.Rotation)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if f.Kind.Loses(fleet.Reset) {
		fmt.Printf("\nAn idle keep-alive reset is a request that was sent on a kept connection at the moment at which a reload of %s closed it.\n", f.Kind.Product)
	}
	fmt.Printf("\nMost targets out of rotation at the same time: %d\n", watch.Most)
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d requests failed:\n%s", failed, sent, strings.Join(failures(clients, watch), "\n"))
	case sent == 0:
		return fmt.Errorf("no request was sent")
	case wrong > 0:
		return fmt.Errorf("%d targets are not on %s, in rotation", wrong, version)
	case watch.Most > 1:
		return fmt.Errorf("%d targets were out of rotation at the same time", watch.Most)
	case clients.Served["v3"] > 0:
		return fmt.Errorf("%d requests were answered by the bad version", clients.Served["v3"])
	}
	fmt.Println("No request failed, and every target is on", version+".")
	return nil
}

// documented are the classes as heads of columns.
func documented(classes []fleet.Class) string {
	var all []string
	for _, c := range classes {
		all = append(all, string(c)+"s")
	}
	return strings.Join(all, "\t")
}

// failures names each with what the balancer went through at the time.
func failures(clients fleet.Result, watch *fleet.Rotation) []string {
	var all []string
	for _, f := range clients.Failures {
		all = append(all, fmt.Sprintf("%s (%s)", f, watch.Around(f.At)))
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
