package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

func allOf[T any](known map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

func anyOf[T any](known map[string]T) string {
	return slices.Min(slices.Collect(maps.Keys(known)))
}

// pairs are the keys and values of a mapping, and false of anything else.
func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func keyOf(v *ast.MappingValueNode) string {
	if k, ok := v.Key.(*ast.StringNode); ok {
		return k.Value
	}
	return v.Key.String()
}

// secretFile reads where a secret is kept. What stands there instead may be the
// secret itself, and is not repeated.
func (r *reader) secretFile(n ast.Node, key, write string) (file string) {
	found := false
	if _, ok := pairs(n); ok {
		r.object(n, key, map[string]func(ast.Node){
			"file": func(n ast.Node) { found, file = true, r.path(n, key+".file") },
		})
	}
	if !found {
		r.fail(n, key, "expected the file that holds it; write %s", write)
	}
	return file
}
