package unit

import (
	"bytes"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	keepLines    = 10
	keepBytes    = 4 << 10
	linesTimeout = 3 * time.Second
)

// lastLines returns what the processes of one start of a unit wrote to the
// journal last, as the end of a sentence; "" when there is nothing or it cannot
// be read, for the sentence then says enough. The journal is read by its own
// program, since its files have no reader in Go.
func (m *Manager) lastLines(ctx context.Context, invocation string) string {
	if invocation == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), linesTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", "--quiet", "--no-pager", "--output=cat",
		"--lines="+strconv.Itoa(keepLines), "_SYSTEMD_INVOCATION_ID="+invocation)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	text := printable(out)
	if text == "" {
		return ""
	}
	return "; its last output:\n" + text
}

// printable makes output safe to show in a terminal and short enough to send:
// the end of it, without control characters, each line indented.
func printable(out []byte) string {
	if len(out) > keepBytes {
		out = out[len(out)-keepBytes:]
		if i := bytes.IndexByte(out, '\n'); i >= 0 {
			out = out[i+1:]
		}
	}
	clean := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(out), "?"))
	clean = strings.TrimSpace(clean)
	if clean == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(clean, "\n", "\n  ")
}
