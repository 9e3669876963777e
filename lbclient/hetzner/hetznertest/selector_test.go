package hetznertest

import "testing"

func TestSelectors(t *testing.T) {
	labels := map[string]string{"env": "prod", "tier": "web", "example.com/team": "a-b_c.d"}
	for text, want := range map[string]bool{
		"env=prod":                     true,
		"env==prod":                    true,
		"env = prod":                   true,
		"env!=prod":                    false,
		"env=test":                     false,
		"env":                          true,
		"!env":                         false,
		"zone":                         false,
		"!zone":                        true,
		"zone!=a":                      true,
		"env in (test, prod)":          true,
		"env in (test)":                false,
		"env notin (test)":             true,
		"env=prod,tier=web":            true,
		"env=prod,tier=db":             false,
		"env in (a,prod),!zone,tier":   true,
		"example.com/team == a-b_c.d":  true,
		"example.com/team notin (a,b)": true,
	} {
		s, err := parseSelector(text)
		if err != nil || s.matches(labels) != want {
			t.Errorf("%q: matches %t, error %v; want %t", text, !want, err, want)
		}
	}
	for _, text := range []string{"", "=prod", "env in prod", "env=prod,", "a b", "!"} {
		if _, err := parseSelector(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func FuzzSelector(f *testing.F) {
	for _, s := range []string{"env=prod", "!env", "env in (a,b),tier!=db", "a notin ()", "((", "=", ","} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if s, err := parseSelector(text); err == nil {
			s.matches(map[string]string{"env": "prod"})
			s.matches(nil)
		}
	})
}
