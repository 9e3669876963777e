package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// reader collects what is wrong while the parts of a file are read.
type reader struct {
	file      string
	expected  string // of the file as a whole; "" for a fleet file
	dir       string // of the file; relative paths start there
	checkOnly bool
	problems  []Problem
	warnings  []Problem
}

// value is one YAML value, or the place where one is missing (node is nil).
type value struct {
	r    *reader
	path string
	node ast.Node
	at   token.Position // of a scalar itself, of anything else its key
}

func (v value) problem(format string, args []any) Problem {
	return Problem{File: v.r.file, Line: max(v.at.Line, 1), Column: max(v.at.Column, 1), Path: v.path, Text: fmt.Sprintf(format, args...)}
}

func (v value) fail(format string, args ...any) {
	v.r.problems = append(v.r.problems, v.problem(format, args))
}

func (v value) warn(format string, args ...any) {
	v.r.warnings = append(v.r.warnings, v.problem(format, args))
}

func (v value) isNull() bool {
	_, null := v.node.(*ast.NullNode)
	return v.node == nil || null
}

// hidden tells whether people might have written a secret here: what is found
// is then not repeated.
func (v value) hidden() bool {
	for _, p := range []string{"github", "nodes.", "coordinator.admin_tokens"} {
		if strings.HasPrefix(v.path, p) {
			return true
		}
	}
	parts := strings.SplitN(v.path, ".", 4)
	return len(parts) > 2 && parts[0] == "balancers" && strings.HasPrefix(parts[2], "token")
}

// what describes the value for "got …".
func (v value) what() string {
	switch n := v.node.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode:
		return "an anchor or alias (write the value itself)"
	case *ast.TagNode:
		return "a tag (write the value without it)"
	case *ast.StringNode:
		if v.hidden() {
			return "a text"
		}
		return quoted(n.Value)
	case *ast.LiteralNode:
		return "a text of several lines"
	case ast.ScalarNode:
		if v.hidden() {
			return "a plain value"
		}
		if s := n.GetToken().Value; len(s) < 40 {
			return s
		}
		return "a long number"
	}
	return "something else"
}

func quoted(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return strconv.Quote(s)
}

// text is a string, false when it is none. A number or a boolean is not taken
// for one: YAML reads 1.10 as 1.1 and a commit's 12e4567 as infinite.
func (v value) text(write string) (string, bool) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		if n.Value != "" {
			return n.Value, true
		}
	case *ast.LiteralNode:
		if n.Value != nil && n.Value.Value != "" {
			return n.Value.Value, true
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		v.fail("expected a string, got %s, which YAML takes for something else; write it in quotes", v.what())
		return "", false
	}
	v.fail("expected a string, got %s; write %s", v.what(), write)
	return "", false
}

func (v value) word(words ...string) (string, bool) {
	if n, ok := v.node.(*ast.StringNode); ok && slices.Contains(words, n.Value) {
		return n.Value, true
	}
	v.fail("expected %s, got %s", either(words), v.what())
	return "", false
}

func (v value) is(word string) bool {
	n, ok := v.node.(*ast.StringNode)
	return ok && n.Value == word
}

func (v value) duration(least, most time.Duration) (time.Duration, bool) {
	n, ok := v.node.(*ast.StringNode)
	if ok {
		if d, err := time.ParseDuration(n.Value); err == nil {
			if d >= least && d <= most {
				return d, true
			}
			v.fail("expected a duration from %s to %s, got %s", short(least), short(most), short(d))
			return 0, false
		}
	}
	v.fail("expected a duration, got %s; write a number with a unit, such as 30s or 5m", v.what())
	return 0, false
}

func (v value) count(least, most int) (int, bool) {
	if _, ok := v.node.(*ast.IntegerNode); ok {
		if i, err := strconv.Atoi(v.node.GetToken().Value); err == nil && i >= least && i <= most {
			return i, true
		}
	}
	v.fail("expected a whole number from %d to %d, got %s", least, most, v.what())
	return 0, false
}

func (v value) flag() (bool, bool) {
	if n, ok := v.node.(*ast.BoolNode); ok {
		return n.Value, true
	}
	v.fail("expected true or false, got %s", v.what())
	return false, false
}

// items are the values of a list.
func (v value) items(write string) []value {
	s, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.fail("expected a list, got %s; write %s", v.what(), write)
		return nil
	}
	if len(s.Values) == 0 {
		v.fail("expected at least one, got an empty list; write %s", write)
	}
	items := make([]value, len(s.Values))
	for i, n := range s.Values {
		items[i] = v.r.value(fmt.Sprintf("%s[%d]", v.path, i), n, place(n, v.at))
	}
	return items
}

// value wraps a node; key is where it stands when it has no place of its own.
func (r *reader) value(path string, n ast.Node, key token.Position) value {
	v := value{r: r, path: path, node: n, at: key}
	switch n.(type) {
	case nil, *ast.MappingNode, *ast.SequenceNode, *ast.NullNode:
	default:
		v.at = place(n, key)
	}
	return v
}

// place is where a node begins, otherwise when the parser does not say.
func place(n ast.Node, otherwise token.Position) token.Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // its own token is the first colon
	}
	if n == nil {
		return otherwise
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return *t.Position
	}
	return otherwise
}

// either joins words for a reader: `"a", "b" or "c"`.
func either(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	if len(q) < 2 {
		return strings.Join(q, "")
	}
	return strings.Join(q[:len(q)-1], ", ") + " or " + q[len(q)-1]
}
