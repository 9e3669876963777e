package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const unknown = "unknown"

// orUnknown keeps an absent fact visible.
func orUnknown[S ~string](s S) string {
	if s == "" {
		return unknown
	}
	return oneLine(string(s))
}

// age tells how long ago t was: "3m ago", or "in 3m".
func age(now, t time.Time) string {
	switch d := now.Sub(t); {
	case d.Abs() < time.Second:
		return "just now"
	case d > 0:
		return brief(d) + " ago"
	default:
		return "in " + brief(-d)
	}
}

// brief renders a duration with its largest unit only.
func brief(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// elapsed renders a duration to the second. Clocks of two machines differ, so
// what would be negative is nothing.
func elapsed(d time.Duration) string {
	return max(d, 0).Truncate(time.Second).String()
}

// stamp renders an instant for a line of a timeline.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// releaseID begins with twelve digits of the commit.
var releaseID = regexp.MustCompile(`^[0-9a-f]{12}-[0-9a-z]+$`)

// shortID names the commit of a release's id as people do.
func shortID(id string) string {
	if releaseID.MatchString(id) {
		return id[:7]
	}
	return orUnknown(id)
}

// shortSHA names a commit as people do.
func shortSHA(r *api.ReleaseRef) string {
	switch {
	case r == nil:
		return unknown
	case len(r.SHA) >= 7:
		return oneLine(r.SHA[:7])
	case r.SHA != "":
		return oneLine(r.SHA)
	}
	return shortID(r.ID)
}

// releaseName is the short commit with its subject.
func releaseName(r *api.ReleaseRef) string {
	s := shortSHA(r)
	if r != nil && r.Subject != "" {
		s += ` "` + clip(oneLine(r.Subject), 60) + `"`
	}
	return s
}

// targetLabel names a target of an app: by its node, which says it all, unless
// the target is named otherwise than after it.
func targetLabel(app, target, node string) string {
	target, node = oneLine(target), oneLine(node)
	switch {
	case node == "":
		return orUnknown(target)
	case target == "" || target == node || target == app+"@"+node:
		return node
	case strings.HasPrefix(target, app+"@"+node+":"):
		return strings.TrimPrefix(target, app+"@") // one of several instances
	}
	return target + " on " + node
}

// because joins a typed reason and its sentence.
func because(reason, text string) string {
	reason, text = oneLine(reason), oneLine(text)
	switch {
	case reason == "":
		return text
	case text == "":
		return reason
	}
	return reason + ": " + text
}

// oneLine makes s fit for a cell of a table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip shortens s to at most width characters.
func clip(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width < 2 {
		return string(r[:max(width, 0)])
	}
	return string(r[:width-1]) + "…"
}

// table writes rows with aligned columns, each line after indent. A row's last
// cell may be empty.
func table(w io.Writer, indent string, rows [][]string) {
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // into memory
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(w, strings.TrimRight(indent+line, " \n"))
	}
}

// textWriter passes text on without what could steer a terminal: a commit
// subject or a build's output is written by others.
type textWriter struct {
	w      io.Writer
	failed *error // the first failure, if somebody asks
}

func (t *textWriter) Write(p []byte) (int, error) {
	_, err := io.WriteString(t.w, harmless(string(p)))
	if err != nil {
		if t.failed != nil && *t.failed == nil {
			*t.failed = err
		}
		return 0, err
	}
	return len(p), nil
}

// escapes are the sequences by which programs colour text and set titles.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)?")

// harmless takes escape sequences and control characters out of s, other than
// line ends and tabs.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		// Cf holds the characters that reorder text (bidirectional overrides).
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, escapes.ReplaceAllString(s, ""))
}
