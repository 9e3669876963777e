package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// screenView draws a rollout on a terminal: a heading, and a line for each
// target with its step and since when.
type screenView struct {
	term    terminal
	now     func() time.Time
	rollout api.Rollout
	seen    bool
	notice  string
	drawn   int // lines that the cursor is below the first one
}

// refresh is short: steps change without an event.
func (v *screenView) refresh() time.Duration { return 2 * time.Second }

func (v *screenView) news(p api.EventPage) error {
	v.rollout, v.seen = p.Rollout, true
	return v.draw()
}

func (v *screenView) lost(err error) {
	v.notice = ""
	if err != nil {
		v.notice = lostText(err)
	}
	_ = v.draw()
}

func (v *screenView) tick() {
	if v.seen {
		_ = v.draw()
	}
}

func (v *screenView) draw() error {
	columns, height := v.term.Size()
	lines := v.lines(height - 1)
	var b bytes.Buffer
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", v.drawn)
	}
	for _, line := range lines {
		// A line that wraps would put the cursor elsewhere than counted.
		b.WriteString(clip(harmless(line), columns-1) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	v.drawn = len(lines)
	if _, err := v.term.Write(b.Bytes()); err != nil {
		return fmt.Errorf("cannot write to the terminal: %w", err)
	}
	return nil
}

// lines renders the rollout in at most height lines.
func (v *screenView) lines(height int) []string {
	var head, foot []string
	if v.seen {
		head = append(head, heading(v.rollout, v.now()))
	}
	if p := v.rollout.Paused; p != nil {
		foot = append(foot, fmt.Sprintf("paused by %s: %s; go on with: deployctl resume %s", orUnknown(p.By), because(p.Reason, p.Text), v.rollout.ID))
	}
	if v.rollout.Blocked != "" {
		foot = append(foot, "blocked: "+oneLine(v.rollout.Blocked))
	}
	if v.notice != "" {
		foot = append(foot, oneLine(v.notice))
	}
	return append(append(head, targetLines(v.rollout, v.now(), height-len(head)-len(foot))...), foot...)
}

func heading(r api.Rollout, now time.Time) string {
	began := r.Created
	if r.Started != nil {
		began = *r.Started
	}
	end := now
	if r.Finished != nil {
		end = *r.Finished
	}
	s := fmt.Sprintf("%s  %s  %s  %s", r.ID, orUnknown(r.Kind), releaseName(&r.Release), orUnknown(r.Status))
	if !began.IsZero() {
		s += "  " + elapsed(end.Sub(began))
	}
	return s
}

// targetLines lists the targets; if height does not do for all, those in motion
// or in trouble, and counts the others.
func targetLines(r api.Rollout, now time.Time, height int) []string {
	listed, calm := r.Targets, map[string]int{}
	var phases []string // of calm ones, in order of appearance
	if len(r.Targets) > height {
		listed = nil
		for _, t := range r.Targets {
			switch t.Phase {
			case "waiting", "preparing", "prepared", "active", "reverted":
				if calm[t.Phase] == 0 {
					phases = append(phases, t.Phase)
				}
				calm[t.Phase]++
			default:
				listed = append(listed, t)
			}
		}
		listed = listed[:max(0, min(len(listed), height-1))]
	}
	rows := make([][]string, 0, len(listed))
	for _, t := range listed {
		rows = append(rows, targetRow(r.App, t, now))
	}
	var b bytes.Buffer
	table(&b, "  ", rows)
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(rows) == 0 {
		lines = nil
	}
	if rest := len(r.Targets) - len(listed); rest > 0 {
		s := fmt.Sprintf("  … %d more", rest)
		for _, p := range phases {
			s += fmt.Sprintf(", %d %s", calm[p], p)
		}
		lines = append(lines, s)
	}
	return lines
}

// targetRow is one target with its step and the time that it has taken so far.
func targetRow(app string, t api.RolloutTarget, now time.Time) []string {
	took := ""
	if t.Step != "" && t.Since != nil {
		took = elapsed(now.Sub(*t.Since))
	}
	return []string{targetLabel(app, t.Target, t.Node), orUnknown(t.Phase), oneLine(t.Step), took, because(t.Reason, t.Text)}
}
