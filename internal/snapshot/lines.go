package snapshot

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// plain is text without control characters other than white space.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// lines passes on what a remote reports, line by line. Of a counter that is drawn
// over and over only the last state is passed on. It never fails: what a remote
// reports is not worth a fetch.
type lines struct {
	out    io.Writer // may be nil
	line   []byte
	redraw bool // a carriage return came: what follows replaces the line
}

// maxLine bounds what is retained of a line.
const maxLine = 1 << 10

func newLines(out io.Writer) *lines { return &lines{out: out} }

// Write takes what the remote says.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexAny(p, "\r\n")
		if end < 0 {
			l.add(p)
			break
		}
		l.add(p[:end])
		if p[end] == '\n' {
			l.flush()
		} else {
			l.redraw = true
		}
		p = p[end+1:]
	}
	return n, nil
}

func (l *lines) add(p []byte) {
	if l.redraw && len(p) > 0 {
		l.line, l.redraw = l.line[:0], false
	}
	l.line = append(l.line, p[:min(len(p), maxLine-len(l.line))]...)
}

func (l *lines) flush() {
	if text := strings.TrimSpace(plain(string(l.line))); text != "" {
		l.print("remote: " + text)
	}
	l.line, l.redraw = l.line[:0], false
}

// printf says something of our own, as a line.
func (l *lines) printf(format string, a ...any) { l.print(fmt.Sprintf(format, a...)) }

func (l *lines) print(text string) {
	if l.out != nil {
		_, _ = io.WriteString(l.out, text+"\n")
	}
}
