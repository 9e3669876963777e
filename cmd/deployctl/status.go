package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status [APP]",
		Short: "What runs where, and whether it is what should",
		Long: `Shows for each app the release that every target should run, what each target
proved to run, and whether it is in rotation or why not.

Exits 0 when everything converged, and 3 on skew or when anything is unknown.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			st, err := cl.Status(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				app, err := findApp(st, args[0])
				if err != nil {
					return err
				}
				st.Apps = []api.AppStatus{*app}
			}
			if c.json {
				err = c.printJSON(st, false)
			} else {
				c.printStatus(c.out(), st)
			}
			if err == nil && !st.Converged() {
				return &codeError{code: exitNotThere}
			}
			return err
		},
	}
}

func findApp(st api.Status, name string) (*api.AppStatus, error) {
	for i, a := range st.Apps {
		if a.App == name {
			return &st.Apps[i], nil
		}
	}
	names := "there is none"
	for i, a := range st.Apps {
		if i == 0 {
			names = "there is " + a.App
			continue
		}
		names += ", " + a.App
	}
	return nil, &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("there is no app %q on this coordinator: %s", name, names)}
}

func (c *cli) printStatus(w io.Writer, st api.Status) {
	// Ages by the coordinator's clock, which is the one that the times are of.
	now := st.At
	if now.IsZero() {
		now = c.now()
	}
	if len(st.Apps) == 0 {
		fmt.Fprintln(w, "no apps: fleet.yaml names none")
	}
	for i, a := range st.Apps {
		if i > 0 {
			fmt.Fprintln(w)
		}
		printAppStatus(w, now, a)
	}
}

func printAppStatus(w io.Writer, now time.Time, a api.AppStatus) {
	verdict := "CONVERGED"
	if !a.Converged {
		verdict = "NOT CONVERGED"
	}
	fmt.Fprintf(w, "%s  %s\n", a.App, verdict)
	facts := [][]string{{"release", targetRelease(now, a)}, {"pool", orUnknown(a.Pool)}, {"skew", orUnknown(a.Skew)}}
	if a.BuildSkew != "" {
		facts = append(facts, []string{"builds differ", a.BuildSkew})
	}
	if r := a.Live; r != nil {
		facts = append(facts, []string{"rollout", rolloutLine(*r) + "; follow it with: deployctl show --follow " + r.ID})
	}
	if r := a.Waiting; r != nil {
		facts = append(facts, []string{"waiting", rolloutLine(*r)})
	}
	if h := a.Hold; h != nil {
		facts = append(facts, []string{"hold", holdLine(now, *h)})
	}
	table(w, "  ", facts)
	rows := [][]string{{"NODE", "RELEASE", "ROTATION", "HEALTH", "SEEN", "PHASE", "DETAIL"}}
	for _, t := range a.Targets {
		phase := orUnknown(t.Phase)
		if t.Step != "" {
			phase += " (" + oneLine(t.Step) + ")"
		}
		if t.Last {
			phase += " (to be last)"
		}
		rows = append(rows, []string{
			targetLabel(a.App, t.Target, t.Node), provedRelease(t), orUnknown(t.Rotation), orUnknown(t.Health),
			seen(now, t), phase, statusDetail(now, t),
		})
	}
	fmt.Fprintln(w)
	table(w, "  ", rows)
	for _, text := range a.Left {
		fmt.Fprintf(w, "  note: %s\n", oneLine(text))
	}
}

// statusDetail is why a target is as it is. A drift comes first, for nothing but a
// person may end it.
func statusDetail(now time.Time, t api.TargetStatus) string {
	detail := because(t.Reason, t.Text)
	if d := t.Drift; d != nil {
		return strings.TrimSuffix("drift, "+age(now, d.Since)+": "+oneLine(d.Text)+"; "+detail, "; ")
	}
	return detail
}

func targetRelease(now time.Time, a api.AppStatus) string {
	if a.Release == nil {
		return "none yet: nothing was deployed"
	}
	s := releaseName(a.Release)
	if t := a.Release.Committed; t != nil {
		s += ", committed " + age(now, *t)
	}
	if a.Since != nil {
		s += ", wanted since " + age(now, *a.Since)
	}
	if a.Release.Bad != "" {
		s += ", bad: " + oneLine(a.Release.Bad)
	}
	return s
}

// provedRelease never shows an old proof as if it were one of now.
func provedRelease(t api.TargetStatus) string {
	switch {
	case !t.Reachable && t.Release != nil:
		return unknown + " (was " + shortSHA(t.Release) + ")"
	case !t.Reachable || t.Release == nil && (t.Rotation == "" || t.Rotation == api.RotationUnknown):
		return unknown // its agent is lost, or is back and has told nothing yet
	case t.Release == nil:
		return "none"
	}
	return shortSHA(t.Release)
}

func seen(now time.Time, t api.TargetStatus) string {
	s := "never"
	if t.LastSeen != nil {
		s = age(now, *t.LastSeen)
	}
	if !t.Reachable {
		s += " (unreachable)"
	}
	return s
}

// rolloutLine is one rollout at a glance.
func rolloutLine(r api.Rollout) string {
	s := fmt.Sprintf("%s %s of %s: %s", r.ID, orUnknown(r.Kind), releaseName(&r.Release), orUnknown(r.Status))
	if p := r.Paused; p != nil {
		s += ", paused by " + orUnknown(p.By)
		if why := because(p.Reason, p.Text); why != "" {
			s += " (" + why + ")"
		}
	}
	if r.Blocked != "" {
		s += ", blocked: " + oneLine(r.Blocked)
	}
	return s
}

func holdLine(now time.Time, h api.Hold) string {
	until := "until unhold"
	if h.Until != nil {
		until = "until " + stamp(*h.Until) + " (" + age(now, *h.Until) + ")"
	}
	return fmt.Sprintf("by %s %s, %s: %s", orUnknown(h.By), age(now, h.At), until, orUnknown(h.Reason))
}
