package activate_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// The releases of a world whose app says its version, and where.
const (
	goalSHA     = "1234567890ab"
	fallbackSHA = "0987654321fe"
)

// unitStories are about the ways for a unit to come to run another release, and
// of showing it.
func unitStories() map[string]expectation {
	reload := func(a app) scenario {
		return change(base(with(a)), func(s *scenario) { s.How = api.RestartReload })
	}
	version := func(s scenario, before string) scenario {
		s.Where = &api.Version{Header: "X-Version"}
		b := s.Apps[fallback]
		b.Version = before
		s.Apps[fallback] = b
		return s
	}
	return map[string]expectation{
		"a reload":                     {s: reload(app{Boot: 300 * time.Millisecond}), ok: true, reloads: 1},
		"a reload that takes its time": {s: reload(app{}), ok: true, reloads: 1}, // healthy before its workers are there
		"a reload of a sick app":       {s: reload(app{Sick: true}), reverted: true, reason: api.ReasonUnhealthy, reloads: 2},
		"a reload of the wrong":        {s: reload(app{Stuck: true}), reverted: true, reason: api.ReasonWrongRelease, reloads: 2, text: "after its reload"},
		"a reload that fails":          {s: reload(app{NoLoad: true}), reverted: true, reason: api.ReasonStartFailed, reloads: 1, text: "ExecReload failed"},
		"a unit without a reload":      {s: change(reload(app{}), func(s *scenario) { s.NoReload = true }), reverted: true, reason: api.ReasonNoReload},
		"a way back whose reload fails": {
			s:        change(reload(app{Sick: true}), func(s *scenario) { s.Apps[fallback] = app{NoLoad: true} }),
			reverted: true, reason: api.ReasonUnhealthy, reloads: 1, restarts: 1},
		"a stop and a start": {
			s: change(base(healthyApps()), func(s *scenario) { s.How = api.RestartStopStart }), ok: true, restarts: 1},

		"a version that is right": {s: version(base(with(app{Version: goal})), fallback), ok: true, restarts: 1},
		"a version that is wrong": {
			s: version(base(with(app{Version: "3f2a91c"})), fallback), reverted: true, reason: api.ReasonWrongRelease, restarts: 2,
			text: `answers as version "3f2a91c" (header X-Version), expected that of release ` + goal},
		"a version that is missing": {
			s: version(base(with(app{})), ""), reverted: true, reason: api.ReasonWrongRelease, restarts: 2, text: "has no header X-Version"},
		"a version that proves what runs from elsewhere": {
			s: version(base(with(app{Version: goal, Strays: true})), fallback), ok: true, restarts: 1},
		"a fallback that knows no version yet": {
			s: version(base(with(app{Version: goal, Sick: true})), "1.2.3"), reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"a reload that only the version shows": {
			s: version(reload(app{Version: goal, Strays: true}), fallback), ok: true, reloads: 1},
	}
}

// node is a service manager and a disk of which only what is looked at is made.
type node struct {
	activate.Units
	activate.Releases
	current string
	present []string
	main    []string
	all     []unit.Process
}

func (n node) Current() (string, error)   { return n.current, nil }
func (n node) Present() ([]string, error) { return n.present, nil }
func (n node) Of(path string) (string, bool) {
	return releases{}.Of(path)
}

func (n node) Runs(context.Context, string) (int, []string, error) { return 7, n.main, nil }
func (n node) Processes(context.Context, string) ([]unit.Process, error) {
	return n.all, nil
}

func TestProof(t *testing.T) {
	one, two := goalSHA+"-aaaaaa", fallbackSHA+"-aaaaaa"
	at := func(release string, started uint64) unit.Process {
		return unit.Process{Started: started, Paths: []string{"/usr/bin/python3", "/rel/" + release}}
	}
	elsewhere := []string{"/usr/bin/python3", "/"}
	for name, tc := range map[string]struct {
		how     string
		n       node
		version string
		want    string
	}{
		"nothing runs":                           {"", node{}, "", ""},
		"the working directory":                  {"", node{main: []string{"/usr/bin/python3", "/rel/" + one}}, "", one},
		"the executable of a daemon":             {"", node{main: []string{"/rel/" + one, "/"}}, "", one},
		"a contradiction":                        {"", node{main: []string{"/rel/" + one, "/rel/" + two}}, "", ""},
		"elsewhere":                              {"", node{main: elsewhere}, "", ""},
		"elsewhere, with a version":              {"", node{main: elsewhere}, goalSHA, one},
		"elsewhere, with a version of nothing":   {"", node{main: elsewhere}, "1.2.3", ""},
		"down, with a version of somebody else":  {"", node{}, goalSHA, ""},
		"a version that contradicts the process": {"", node{main: []string{"/usr/bin/python3", "/rel/" + one}}, fallbackSHA, one},

		"no worker yet":                 {"reload", node{current: two, all: []unit.Process{at(one, 1)}}, "", one},
		"a new worker":                  {"reload", node{current: two, all: []unit.Process{at(one, 1), at(two, 5)}}, "", two},
		"an old worker's late child":    {"reload", node{current: two, all: []unit.Process{at(one, 1), at(two, 5), at(one, 9)}}, "", two},
		"current moved by hand":         {"reload", node{current: "other", all: []unit.Process{at(one, 1), at(two, 5), at(one, 3)}}, "", two},
		"workers that only say so":      {"reload", node{current: two, all: []unit.Process{at(one, 1)}}, fallbackSHA, two},
		"workers that say nothing true": {"reload", node{current: two, all: []unit.Process{at(one, 1)}}, "1.2.3", one},
	} {
		tc.n.present = []string{one, two}
		got, _, err := activate.Proof(t.Context(), tc.n, tc.n, api.Spec{Unit: unitName, Restart: tc.how}, tc.version)
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
	// Two builds of one commit: the one that is current.
	n := node{main: elsewhere, present: []string{goalSHA + "-bbbbbb", one}, current: one}
	if got, _, _ := activate.Proof(t.Context(), n, n, api.Spec{}, goalSHA); got != one {
		t.Errorf("of two builds of a commit %q is chosen, want the current one", got)
	}
	n.current = ""
	if got, _, _ := activate.Proof(t.Context(), n, n, api.Spec{}, goalSHA); slices.Contains(n.present, got) {
		t.Errorf("of two builds of a commit %q is guessed", got)
	}
}
