package config

import (
	"fmt"
	"regexp"

	"github.com/goccy/go-yaml/ast"
)

var (
	userName     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (r *reader) user(n ast.Node) string {
	s := r.text(n, "build.user")
	if s != "" && !userName.MatchString(s) {
		r.fail(n, "build.user", `expected the name of a user, or "dynamic" for one that exists only during a build; got %q`, s)
	}
	return s
}

// secrets reads {NPM_TOKEN: {file: /etc/lockstep/npm-token}}.
func (r *reader) secrets(n ast.Node) map[string]string {
	const write = "{file: /etc/lockstep/npm-token}"
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.fail(n, "secrets", "expected names and files; write NPM_TOKEN: %s", write)
		return nil
	}
	all := map[string]string{}
	for _, v := range values {
		name := v.Key.String()
		if k, ok := v.Key.(*ast.StringNode); ok {
			name = k.Value
		}
		if !variableName.MatchString(name) {
			r.fail(v.Key, "secrets", "expected the name of an environment variable, of letters, digits and underscores, such as NPM_TOKEN")
			continue
		}
		if _, twice := all[name]; twice {
			r.fail(v.Key, "secrets", "%s stands here twice; remove one", name)
			continue
		}
		// Whatever stands there instead may be the secret itself, and is not repeated.
		switch v.Value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
		default:
			r.fail(v.Value, "secrets."+name, "expected the file that holds it; write %s", write)
			continue
		}
		r.object(v.Value, "secrets."+name, map[string]func(ast.Node){
			"file": func(n ast.Node) { all[name] = r.path(n, "secrets."+name+".file") },
		})
		if all[name] == "" && len(r.problems) == 0 {
			r.fail(v.Value, "secrets."+name, "expected the file that holds it; write %s", write)
		}
	}
	return all
}

// Secret reads a secret that a build asks for. It refuses a file that others can
// read.
func (c Config) Secret(name string) (string, error) {
	file := c.Secrets[name]
	if file == "" {
		return "", fmt.Errorf("cannot give the build its secret %s: agent.yaml has none of this name; write secrets: {%s: {file: /etc/lockstep/…}} there and restart deploy-agent", name, name)
	}
	return read("secret "+name, file)
}
