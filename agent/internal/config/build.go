package config

import (
	"fmt"
	"regexp"
	"strings"

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
	values, ok := pairs(n)
	if !ok {
		r.fail(n, "secrets", "expected names and files; write NPM_TOKEN: %s", write)
		return nil
	}
	all := map[string]string{}
	for _, v := range values {
		name := keyOf(v)
		if !variableName.MatchString(name) {
			r.fail(v.Key, "secrets", "expected the name of an environment variable, of letters, digits and underscores, such as NPM_TOKEN")
			continue
		}
		if strings.HasPrefix(name, "LOCKSTEP_") {
			r.fail(v.Key, "secrets", "expected a name that does not begin with LOCKSTEP_: those are set by Lockstep; write another one, here and in fleet.yaml")
			continue
		}
		if _, twice := all[name]; twice {
			r.fail(v.Key, "secrets", "%s stands here twice; remove one", name)
			continue
		}
		all[name] = r.secretFile(v.Value, "secrets."+name, write)
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
