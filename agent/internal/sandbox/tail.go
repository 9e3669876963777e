package sandbox

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

// Bounds of the output that goes into an error.
const (
	tailBytes = 2 << 10
	tailLines = 10
)

// tail retains the end of what is written to it.
type tail struct {
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > tailBytes {
		p = p[n-tailBytes:]
	}
	if over := len(t.buf) + len(p) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|.)")

// lines are the last lines, freed of what would garble a terminal.
func (t *tail) lines() []string {
	text := strings.ToValidUTF8(string(t.buf), "")
	text = escapes.ReplaceAllString(text, "")
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(text, "\r\n"), "\n") {
		line = strings.TrimRight(line, "\r")
		// A progress bar draws over itself; only its last state counts.
		if i := strings.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:]
		}
		line = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, line)
		lines = append(lines, line)
	}
	return lines[max(0, len(lines)-tailLines):]
}

// denied tells whether the command may have failed for want of permission, as
// programs say it.
func (t *tail) denied() bool {
	return bytes.Contains(t.buf, []byte("ermission denied")) || bytes.Contains(t.buf, []byte("EACCES"))
}

// quote renders what the command printed last as the end of an error, indented
// below it.
func (t *tail) quote(command string) string {
	header := "$ " + command + "\n"
	if i := bytes.LastIndex(t.buf, []byte(header)); i >= 0 {
		t.buf = t.buf[i+len(header):]
	}
	if len(strings.TrimSpace(string(t.buf))) == 0 {
		return " (it printed nothing)"
	}
	return "; its last output:\n  " + strings.Join(t.lines(), "\n  ")
}
