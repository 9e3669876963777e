package unit

import (
	"maps"
	"strings"
	"testing"
)

func TestParseEnvironment(t *testing.T) {
	got := parseEnvironment("# a comment\n; another\n\nA=1\n  B = two words  \nC=\"quoted \\\"x\\\" # not a comment \"\nD='single $x \\n'\n" +
		"E=first\\\nsecond\nno assignment\n1X=no\nF=\nG=\"two\nlines\"\nH=a\\ b\nI=last")
	want := map[string]string{
		"A": "1", "B": "two words", "C": "quoted \"x\" # not a comment ", "D": "single $x \\n",
		"E": "firstsecond", "F": "", "G": "two\nlines", "H": "a b", "I": "last",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %q\nexpected %q", got, want)
	}
}

func FuzzParseEnvironment(f *testing.F) {
	f.Add("A=1\nB=\"x\\\"y\"\n# c\nC='z'\\\n")
	f.Fuzz(func(t *testing.T, s string) {
		for k, v := range parseEnvironment(s) {
			if !isVariable(k) || strings.Contains(k+v, "\x00") || len(v) > len(s) {
				t.Errorf("%q is %q", k, v)
			}
		}
	})
}
