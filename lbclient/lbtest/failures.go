package lbtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// failures are the ways in which balancers are known to fail, by number from 1.
// Every provider says where it is tried on each: see [Account].
var failures = []string{
	"a step taken twice, or a rejoin without a drain",
	"a change carried out whose answer is lost",
	"a change answered as done that is not",
	"a change that never ends, or vanishes",
	"another change is under way",
	"too many calls",
	"credentials that do not suffice, from the beginning or on the way",
	"answers that are none: errors, half ones, other words",
	"no member, no balancer, a member deleted, or one in two places",
	"membership by label or tag",
	"attributes put back exactly",
	"the last healthy one, also where another falls ill meanwhile",
	"held out by another hand before we came",
	"put in by another hand, or by a reload, while we hold it out",
	"requests that never end, and visitors who stick",
	"a former process that still serves",
	"health that is old, unknown, or never good in one place",
	"traffic before the first check",
	"killed between any two steps",
	"cancelled in mid-step",
	"one of several instances is unreachable, or takes over",
	"a connection refused, forbidden, or that hangs",
	"configuration files: bad, edited meanwhile, not writable",
	"healthy after the rejoin, and then not",
	"the deploy fails, and the target stays out",
	"checks slower than the timeouts",
	"no request fails in a rolling restart",
}

var (
	entryLine = regexp.MustCompile(`^\s*(\d+)\s+(\S.*)$`)
	testName  = regexp.MustCompile(`(?:([a-z][a-z/]*)\.)?\b((?:Test|Fuzz)[A-Z]\w*)`)
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)
)

// Account checks a table that says where a provider is tried on each of the 27
// known ways to fail, so that none is forgotten. A line of the table begins with
// the failure's number; what it says goes on in lines without one. Its parts are
// separated by ";" and are
//
//	contract: NAME, NAME     cases of the suite, which must run in one of harnesses
//	TestName                 tests of the package in whose directory this runs, or
//	gate.TestName            of another one, by its path below lbclient
//	cannot apply: WHY        a failure that the product does not have
//	elsewhere: WHERE         one that is another's to deal with
//
// A part that names tests may say more about them.
func Account(t *testing.T, table string, harnesses ...Harness) {
	t.Helper()
	for _, err := range account(table, tests, harnesses) {
		t.Error(err)
	}
}

// account finds what is wrong with a table, given the means to list the tests of
// a directory.
func account(table string, tests func(dir string) ([]string, error), harnesses []Harness) (wrong []error) {
	entries := make(map[int]string)
	last := 0
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		m := entryLine.FindStringSubmatch(line)
		switch {
		case line == "":
		case m != nil:
			last, _ = strconv.Atoi(m[1]) // what is no number fits no failure
			if entries[last] != "" || last < 1 || last > len(failures) {
				wrong = append(wrong, fmt.Errorf("failure %s is told twice, or there is none", m[1]))
			}
			entries[last] = m[2]
		case last == 0:
			wrong = append(wrong, fmt.Errorf("%q belongs to no failure", line))
		default:
			entries[last] += " " + line
		}
	}
	for i, what := range failures {
		entry, there := entries[i+1]
		if !there {
			wrong = append(wrong, fmt.Errorf("failure %d, %s, is not accounted for", i+1, what))
			continue
		}
		for part := range strings.SplitSeq(entry, ";") {
			if err := check(strings.TrimSpace(part), tests, harnesses); err != nil {
				wrong = append(wrong, fmt.Errorf("failure %d, %s: %w", i+1, what, err))
			}
		}
	}
	return wrong
}

// check checks one part of an entry.
func check(part string, tests func(dir string) ([]string, error), harnesses []Harness) error {
	kind, rest, _ := strings.Cut(part, ":")
	switch kind {
	case "cannot apply", "elsewhere":
		if strings.TrimSpace(rest) == "" {
			return fmt.Errorf("%q gives no reason", part)
		}
		return nil
	case "contract":
		for name := range strings.SplitSeq(rest, ",") {
			if err := runs(strings.TrimSpace(name), harnesses); err != nil {
				return err
			}
		}
		return nil
	}
	named := testName.FindAllStringSubmatch(part, -1)
	if len(named) == 0 {
		return fmt.Errorf("%q names no test and begins with none of contract, cannot apply, elsewhere", part)
	}
	for _, n := range named {
		dir := "."
		if n[1] != "" {
			dir = filepath.Join("..", n[1])
		}
		there, err := tests(dir)
		if err != nil {
			return err
		}
		if !slices.Contains(there, n[2]) {
			return fmt.Errorf("there is no test %s", n[0])
		}
	}
	return nil
}

// runs is an error unless the case of the suite is run with one of harnesses.
func runs(name string, harnesses []Harness) error {
	why := "it is none"
	for _, h := range harnesses {
		for _, c := range h.cases() {
			if c.name != name {
				continue
			}
			if c.missing == "" {
				return nil
			}
			why = c.missing
		}
	}
	return fmt.Errorf("the contract does not run a case %q: %s", name, why)
}

// tests are the names of all tests in a directory.
func tests(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(text), -1) {
			out = append(out, m[1])
		}
	}
	return out, nil
}
