package lbtest

import (
	"fmt"
	"strings"
	"testing"
)

func TestAccount(t *testing.T) {
	there := func(dir string) ([]string, error) {
		if dir == "../gate" {
			return []string{"TestGate"}, nil
		}
		return []string{"TestHere", "FuzzHere"}, nil
	}
	// table accounts for every failure, the first one as given.
	table := func(one string) string {
		var b strings.Builder
		fmt.Fprintf(&b, "\n 1 %s\n", one)
		for i := range failures[1:] {
			fmt.Fprintf(&b, "%2d cannot apply: for a reason\n", i+2)
		}
		return b.String()
	}
	for one, want := range map[string]string{
		"contract: round trip, observe; TestHere, FuzzHere: both": "",
		"TestHere,\n   gate.TestGate":                             "",
		"elsewhere: the agent's":                                  "",
		"cannot apply:":                                           "gives no reason",
		"it will be fine":                                         "names no test",
		"TestGone":                                                "no test TestGone",
		"TestHere and gate.TestHere":                              "no test gate.TestHere",
		"contract: round trips":                                   `"round trips": it is none`,
		"contract: in flight":                                     "the harness has no CountsInFlight",
		"TestHere\n 1 TestHere":                                   "told twice",
		"TestHere\n28 TestHere":                                   "failure 28",
	} {
		var said []string
		for _, err := range account(table(one), there, []Harness{{}}) {
			said = append(said, err.Error())
		}
		if got := strings.Join(said, "; "); len(said) > 1 || (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", one, got, want)
		}
	}
	short := strings.Replace(table("TestHere"), "27 cannot", "   cannot", 1)
	if wrong := account(short, there, nil); len(wrong) != 1 || !strings.Contains(wrong[0].Error(), "not accounted for") {
		t.Errorf("a table without the last failure: %v", wrong)
	}
}
