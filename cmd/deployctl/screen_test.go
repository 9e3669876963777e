package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// screen is a terminal that keeps every picture that it showed. It understands
// what deployctl sends: up n lines, whole lines each cleared to its end, and
// clear below.
type screen struct {
	columns, height int

	lines    []string
	row      int
	pictures []string
	faults   []string
}

func (s *screen) Size() (int, int) { return s.columns, s.height }

func (s *screen) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

var cursorUp = regexp.MustCompile("^\r\x1b\\[([0-9]+)A")

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	if m := cursorUp.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		s.row -= n
		if s.row < 0 || len(s.lines)+1-s.row > s.height {
			s.fault("the cursor went up %d lines and left the screen", n)
			s.row = 0
		}
		text = text[len(m[0]):]
	}
	for {
		line, rest, found := strings.Cut(text, "\x1b[K\n")
		if !found {
			break
		}
		if n := len([]rune(line)); n >= s.columns {
			s.fault("%d characters wrap: %s", n, line)
		}
		if strings.ContainsRune(line, '\x1b') {
			s.fault("a foreign escape in %q", line)
		}
		s.lines = append(s.lines[:min(s.row, len(s.lines))], append([]string{line}, s.lines[min(s.row+1, len(s.lines)):]...)...)
		s.row++
		text = rest
	}
	if text != "\x1b[J" {
		s.fault("ends with %q", text)
	}
	s.lines = s.lines[:s.row]
	s.pictures = append(s.pictures, strings.Join(s.lines, "\n"))
	return len(p), nil
}

// onTerminal runs one command line on a terminal and returns it, with what was
// printed below the last picture.
func onTerminal(t *testing.T, f *fake, s *screen, args ...string) (code int, below string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := setup(t, f, &stdout, &stderr)
	c.term = s
	code = c.run(t.Context(), args)
	for _, fault := range s.faults {
		t.Error(fault)
	}
	return code, stdout.String() + stderr.String()
}

func TestProgressOnATerminal(t *testing.T) {
	f := newFake(t)
	rolling(f)
	s := &screen{columns: 80, height: 24}
	code, below := onTerminal(t, f, s, "deploy", "hello")
	var b strings.Builder
	last := ""
	for _, p := range s.pictures {
		if p != last {
			b.WriteString(p + "\n----\n")
		}
		last = p
	}
	fmt.Fprintf(&b, "%s--- exit %d ---\n", below, code)
	compare(t, "deploy-terminal", b.String())
}

// A fleet larger than the screen: what moves or fails stays in sight.
func TestProgressOfMoreTargetsThanLines(t *testing.T) {
	r := liveRollout()
	r.Targets = nil
	for i := range 40 {
		p := "waiting"
		if i < 10 {
			p = "active"
		}
		r.Targets = append(r.Targets, api.RolloutTarget{Target: fmt.Sprintf("hello@web%d", i), Node: fmt.Sprintf("web%d", i), Phase: p})
	}
	phase(10, "activating", "verify")(&r)
	phase(20, "quarantined", "")(&r)
	r.Targets[20].Text = strings.Repeat("a long story ", 20)
	s := &screen{columns: 60, height: 8}
	v := &screenView{term: s, now: func() time.Time { return noon }}
	for range 2 { // the second picture replaces the first
		if err := v.news(api.EventPage{Rollout: r}); err != nil {
			t.Fatal(err)
		}
	}
	for _, fault := range s.faults {
		t.Error(fault)
	}
	compare(t, "screen-small", strings.Join(s.lines, "\n")+"\n")

	// When even those are too many, the cursor must still find its way back.
	for i := range r.Targets {
		phase(i, "quarantined", "")(&r)
	}
	s = &screen{columns: 60, height: 8}
	v = &screenView{term: s, now: func() time.Time { return noon }}
	for range 2 {
		if err := v.news(api.EventPage{Rollout: r}); err != nil {
			t.Fatal(err)
		}
	}
	for _, fault := range s.faults {
		t.Error(fault)
	}
	mustSay(t, strings.Join(s.lines, "\n"), "web4 ", "… 35 more")

	for height := range 4 { // absurdly small must not break it either
		s := &screen{columns: 3, height: height + 1}
		v := &screenView{term: s, now: func() time.Time { return noon }}
		_ = v.news(api.EventPage{Rollout: r})
	}
}

func TestTerminalTellsWhyItStands(t *testing.T) {
	s := &screen{columns: 150, height: 24}
	v := &screenView{term: s, now: func() time.Time { return noon }}
	r := liveRollout()
	r.Paused = &api.Pause{By: "bob", Reason: "requested", Text: "lunch"}
	r.Blocked = "web2 is out of rotation"
	r.Release.Subject = "\x1b[2Jboo"
	if err := v.news(api.EventPage{Rollout: r}); err != nil {
		t.Fatal(err)
	}
	v.lost(&api.UnreachableError{Base: "http://coordinator:7400", Method: "GET", URL: "http://coordinator:7400/v1/x", Err: fmt.Errorf("refused")})
	compare(t, "screen-stands", strings.Join(s.lines, "\n")+"\n")
	v.lost(nil)
	if strings.Contains(strings.Join(s.lines, "\n"), "waiting for the coordinator") {
		t.Error("the notice stays")
	}
	for _, fault := range s.faults {
		t.Error(fault)
	}
}

// The clock must run on the screen without news from the coordinator.
func TestTickRunsTheClock(t *testing.T) {
	s := &screen{columns: 100, height: 24}
	now := noon
	v := &screenView{term: s, now: func() time.Time { return now }}
	r := liveRollout()
	phase(0, "activating", "drain")(&r)
	if err := v.news(api.EventPage{Rollout: r}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(5 * time.Second)
	v.tick()
	mustSay(t, strings.Join(s.lines, "\n"), "1m35s", "drain  17s")
}
