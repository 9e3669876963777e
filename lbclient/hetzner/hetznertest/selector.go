package hetznertest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// selector is a parsed label selector: all of its terms must hold.
type selector []func(labels map[string]string) bool

var (
	labelKey  = regexp.MustCompile(`^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	labelTerm = regexp.MustCompile(`^(\S+?)\s*(==|=|!=|\s+in\s*|\s+notin\s*)\s*(.*)$`)
)

// parseSelector reads the terms key, !key, key=value, key==value, key!=value,
// key in (a,b) and key notin (a,b), joined by commas.
func parseSelector(text string) (selector, error) {
	var out selector
	for _, term := range splitTerms(text) {
		f, err := parseTerm(strings.TrimSpace(term))
		if err != nil {
			return nil, fmt.Errorf("label selector %q: %w", text, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// splitTerms splits at the commas outside of parentheses.
func splitTerms(text string) []string {
	var out []string
	depth, from := 0, 0
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			out = append(out, text[from:i])
			from = i + 1
		}
	}
	return append(out, text[from:])
}

func parseTerm(term string) (func(map[string]string) bool, error) {
	m := labelTerm.FindStringSubmatch(term)
	if m == nil {
		name, not := strings.CutPrefix(term, "!")
		if !labelKey.MatchString(name) {
			return nil, fmt.Errorf("%q is no term", term)
		}
		return func(l map[string]string) bool { _, has := l[name]; return has != not }, nil
	}
	name, operator, value := m[1], strings.TrimSpace(m[2]), strings.TrimSpace(m[3])
	if !labelKey.MatchString(name) {
		return nil, fmt.Errorf("%q is no label key", name)
	}
	values := []string{value}
	if operator == "in" || operator == "notin" {
		inner, opens := strings.CutPrefix(value, "(")
		inner, closes := strings.CutSuffix(inner, ")")
		if !opens || !closes {
			return nil, fmt.Errorf("%q wants values in parentheses", operator)
		}
		values = strings.Split(inner, ",")
		for i := range values {
			values[i] = strings.TrimSpace(values[i])
		}
	}
	want := operator == "=" || operator == "==" || operator == "in"
	return func(l map[string]string) bool {
		v, has := l[name]
		return (has && slices.Contains(values, v)) == want
	}, nil
}

func (s selector) matches(labels map[string]string) bool {
	for _, term := range s {
		if !term(labels) {
			return false
		}
	}
	return true
}
