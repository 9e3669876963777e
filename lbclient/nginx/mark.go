package nginx

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The words of a mark.
const (
	markDrained   = "drained"   // we put "down" there
	markRejoining = "rejoining" // we took it away; whether nginx has read that is not proved yet
)

// mark is the comment by which a line is known to be ours.
type mark struct {
	word string // "" for no mark
	at   instant
}

// instant is a moment of one boot of the machine, in the unit in which the
// kernel gives the birth of a process. Unlike the time of day nobody sets it.
type instant struct {
	boot  string // the beginning of the boot's random id
	ticks uint64
}

var markForm = regexp.MustCompile(`[ \t]*# lockstep (drained|rejoining) ([0-9a-f]{8})-([0-9]{1,18})([ \t\r]*)$`)

// readMark finds the mark at the end of what follows a directive on its line.
func readMark(rest string) mark {
	m := markForm.FindStringSubmatch(rest)
	if m == nil {
		return mark{}
	}
	ticks, err := strconv.ParseUint(m[3], 10, 64)
	if err != nil {
		return mark{}
	}
	return mark{word: m[1], at: instant{m[2], ticks}}
}

func (m mark) String() string {
	return fmt.Sprintf("# lockstep %s %s-%d", m.word, m.at.boot, m.at.ticks)
}

// marked returns the server's line marked down by us, and back returns it with
// neither "down" nor the mark of a drain, so that back undoes marked to the
// byte. Neither changes anything else of the line.
func (s *server) marked(at instant) string {
	text := s.unmarked()
	if !s.down() {
		i := s.semicolon - s.from
		text = text[:i] + " down" + text[i:]
	}
	return withMark(text, mark{markDrained, at})
}

func (s *server) back() string {
	text := s.unmarked()
	// From the last to the first, so that places before it stay where they are.
	for i := len(s.args) - 1; i > 0; i-- {
		if a := s.args[i]; a.text == "down" {
			from := a.start - s.from
			if isSpace(text[from-1]) {
				from--
			}
			text = text[:from] + text[a.end-s.from:]
		}
	}
	return text
}

// rejoining is back with the mark of a rejoin.
func (s *server) rejoining(at instant) string { return withMark(s.back(), mark{markRejoining, at}) }

// unmarked is the line without any mark.
func (s *server) unmarked() string {
	if s.mark.word == "" {
		return s.text
	}
	at := s.semicolon + 1 - s.from
	rest := s.text[at:]
	m := markForm.FindStringSubmatchIndex(rest)
	return s.text[:at] + rest[:m[0]] + rest[m[8]:]
}

func withMark(line string, m mark) string {
	body := strings.TrimRight(line, " \t\r")
	return body + " " + m.String() + line[len(body):]
}

// replace puts new lines in the place of servers' lines. The servers are in the
// order of the file.
func replace(src string, servers []*server, line func(*server) string) string {
	var b strings.Builder
	at := 0
	for _, s := range servers {
		b.WriteString(src[at:s.from])
		b.WriteString(line(s))
		at = s.to
	}
	b.WriteString(src[at:])
	return b.String()
}
