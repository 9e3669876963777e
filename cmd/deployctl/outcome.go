package main

import (
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// outcome tells how a rollout ended: a sentence, and nil if as asked.
// wanted lists the statuses that are what the command asked for.
func (c *cli) outcome(r api.Rollout, wanted ...string) error {
	text := r.ID + " " + orUnknown(r.Status)
	if r.Finished != nil && r.Started != nil {
		text += " after " + elapsed(r.Finished.Sub(*r.Started))
	}
	out := leftOut(r)
	asked := false
	for _, w := range wanted {
		asked = asked || r.Status == w
	}
	switch {
	case asked && r.Status == "succeeded" && len(out) > 0:
		return c.notAsAsked(r, fmt.Sprintf("%s, but %d of %d targets were left out: %s",
			text, len(out), len(r.Targets), strings.Join(out, "; ")))
	case asked:
		if r.Status == "succeeded" {
			text += fmt.Sprintf(": %d of %d targets on %s", len(r.Targets), len(r.Targets), releaseName(&r.Release))
		} else if why := because(r.Reason, r.Text); why != "" {
			text += ": " + why
		}
		if c.json {
			return c.printJSON(r, false)
		}
		fmt.Fprintln(c.out(), text)
		return nil
	}
	if why := because(r.Reason, r.Text); why != "" {
		text += ": " + why
	}
	return c.notAsAsked(r, text)
}

func (c *cli) notAsAsked(r api.Rollout, text string) error {
	if c.json {
		if err := c.printJSON(r, false); err != nil {
			return err
		}
	}
	return &codeError{exitNotThere, text + fmt.Sprintf("\nSee: deployctl show %s, deployctl logs %s", r.ID, r.ID)}
}

// leftOut names the targets that a rollout did not bring onto its release.
func leftOut(r api.Rollout) []string {
	var out []string
	for _, t := range r.Targets {
		if t.Phase == "active" {
			continue
		}
		s := targetLabel(r.App, t.Target, t.Node) + " " + orUnknown(t.Phase)
		if why := because(t.Reason, t.Text); why != "" {
			s += " (" + why + ")"
		}
		out = append(out, s)
	}
	return out
}
