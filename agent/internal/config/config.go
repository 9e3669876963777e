// Package config reads agent.yaml: which coordinator the agent obeys, where it
// keeps things, and what it may touch.
//
// The file is read strictly. Every mistake is reported with file and line, what
// was expected, and what to write; all of them at once.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Config is an agent.yaml that can be worked with.
type Config struct {
	File        string   // that says so
	Coordinator string   // base URL
	Name        string   // of the node
	TokenFile   string   // absolute
	State       string   // absolute
	Apps        string   // absolute
	Systemd     string   // "system" or "user"
	Units       []string // glob patterns of unit names; matched by [Config.MayRestart]
	Credentials []Credential
	// GenerateUnits allows units to be written for apps that have none of their own;
	// RunUser is whom they run as, "" for a user that systemd makes up.
	GenerateUnits bool
	RunUser       string
	GateListen    string // host:port of the node's health gates; "" when it has none
	// BuildUser is whom builds run as; "dynamic" is one that exists only meanwhile.
	// Only an agent that is root has a choice.
	BuildUser string
	// Secrets are the files of what builds may ask for, by the variable's name.
	Secrets map[string]string
	// BalancerTokens are the files of the tokens for clouds that this agent speaks
	// to itself, by the balancer's name.
	BalancerTokens map[string]string
}

// What a file that leaves a key out gets.
const (
	DefaultState = "/var/lib/lockstep/agent"
	DefaultApps  = "/var/lib/lockstep/apps"
	// DefaultBuildUser needs no user to be made.
	DefaultBuildUser = "dynamic"
)

// MayRestart tells whether the file allows restarting a unit.
func (c Config) MayRestart(unit string) bool {
	for _, p := range c.Units {
		// The patterns were checked when the file was read.
		if ok, err := path.Match(p, unit); err == nil && ok {
			return true
		}
	}
	return false
}

// Load reads and checks the file. Relative paths in it start at its directory.
func Load(file string) (Config, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("cannot find the agent's configuration %s: create it, or name another file with --config", file)
	}
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the agent's configuration: %w", err)
	}
	return Parse(file, b)
}

// Parse checks the content of a file.
func Parse(file string, b []byte) (Config, error) {
	r := &reader{file: file}
	c := Config{File: file, Name: hostname(), State: DefaultState, Apps: DefaultApps, Systemd: "system", Units: []string{"*.service"}, BuildUser: DefaultBuildUser}
	tree, err := parser.ParseBytes(b, 0)
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		// Its own text shows the lines around, which may hold anything.
		return Config{}, fmt.Errorf("%s:%d: %s", file, syntax.GetToken().Position.Line, syntax.GetMessage())
	}
	if err != nil {
		return Config{}, fmt.Errorf("cannot read %s: it is no YAML", file)
	}
	var root ast.Node
	for _, d := range tree.Docs {
		if d.Body == nil {
			continue
		}
		if root != nil {
			r.fail(d.Body, "", "expected one document; remove this one")
			return Config{}, r.err()
		}
		root = d.Body
	}
	if root == nil {
		return Config{}, fmt.Errorf("%s:1: the file is empty; write at least\n\tcoordinator: http://10.0.0.1:7400\n\ttoken: {file: /etc/lockstep/agent-token}", file)
	}
	var runUser ast.Node
	r.object(root, "", map[string]func(ast.Node){
		"coordinator": func(n ast.Node) { c.Coordinator = r.coordinator(n) },
		"name":        func(n ast.Node) { c.Name = r.name(n) },
		"token": func(n ast.Node) {
			found := false
			r.object(n, "token", map[string]func(ast.Node){
				"file": func(n ast.Node) { found, c.TokenFile = true, r.path(n, "token.file") },
			})
			if !found {
				r.fail(n, "token", "expected the file that holds it; write {file: /etc/lockstep/agent-token}")
			}
		},
		"state": func(n ast.Node) { c.State = r.path(n, "state") },
		"apps":  func(n ast.Node) { c.Apps = r.path(n, "apps") },
		"systemd": func(n ast.Node) {
			c.Systemd = r.text(n, "systemd")
			if c.Systemd != "system" && c.Systemd != "user" && c.Systemd != "" {
				r.fail(n, "systemd", `expected "system" or "user", got %q`, c.Systemd)
			}
		},
		"units": func(n ast.Node) { c.Units = r.patterns(n) },
		"generate_units": func(n ast.Node) {
			b, ok := n.(*ast.BoolNode)
			if !ok {
				r.fail(n, "generate_units", "expected true or false")
				return
			}
			c.GenerateUnits = b.Value
		},
		"run_user": func(n ast.Node) {
			if c.RunUser = r.text(n, "run_user"); c.RunUser != "" && !userName.MatchString(c.RunUser) {
				r.fail(n, "run_user", "expected the name of a user, got %q; or leave it out for systemd to make one up", c.RunUser)
			}
			runUser = n
		},
		"credentials": func(n ast.Node) { c.Credentials = r.credentials(n) },
		"gate": func(n ast.Node) {
			found := false
			r.object(n, "gate", map[string]func(ast.Node){
				"listen": func(n ast.Node) { found, c.GateListen = true, r.listen(n, "gate.listen") },
			})
			if !found {
				r.fail(n, "gate", `expected where balancers reach it; write {listen: ":9101"}`)
			}
		},
		"build": func(n ast.Node) {
			r.object(n, "build", map[string]func(ast.Node){
				"user": func(n ast.Node) { c.BuildUser = r.user(n) },
			})
		},
		"secrets":   func(n ast.Node) { c.Secrets = r.secrets(n) },
		"balancers": func(n ast.Node) { c.BalancerTokens = r.balancers(n) },
	})
	if runUser != nil && c.Systemd == "user" {
		r.fail(runUser, "run_user", "the units of a user's systemd run as that user; leave it out")
	}
	if c.Coordinator == "" && len(r.problems) == 0 {
		r.fail(root, "coordinator", "it is missing; write coordinator: http://10.0.0.1:7400")
	}
	if c.TokenFile == "" && len(r.problems) == 0 {
		r.fail(root, "token", "it is missing; write token: {file: /etc/lockstep/agent-token}")
	}
	if c.Name == "" && len(r.problems) == 0 {
		r.fail(root, "name", "it is missing, and this machine has no hostname that could stand for it; write name: web1")
	}
	return c, r.err()
}

// hostname is the first label of the machine's name, if it can name a node.
func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	if !IsName(h) {
		return ""
	}
	return h
}

// IsName tells whether s can name a node or an app: lower case letters, digits,
// and dashes, at most 63.
func IsName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// reader turns nodes into values and collects what is wrong with them.
type reader struct {
	file     string
	problems []string
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.problems, "\n"))
}

func (r *reader) fail(n ast.Node, key, format string, a ...any) {
	line := 1
	if t := n.GetToken(); t != nil && t.Position != nil {
		line = t.Position.Line
	}
	if key != "" {
		key += ": "
	}
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s%s", r.file, line, key, fmt.Sprintf(format, a...)))
}

// object calls the function of each key that n has.
func (r *reader) object(n ast.Node, key string, known map[string]func(ast.Node)) {
	values, ok := pairs(n)
	if !ok {
		r.fail(n, key, "expected keys and values, such as %s: …", anyOf(known))
		return
	}
	seen := map[string]bool{}
	for _, v := range values {
		name := keyOf(v)
		f, ok := known[name]
		switch {
		case !ok:
			r.fail(v.Key, key, "unknown key %q; expected one of %s", name, allOf(known))
		case seen[name]:
			r.fail(v.Key, key, "%q stands here twice; remove one", name)
		default:
			seen[name] = true
			f(v.Value)
		}
	}
}

func (r *reader) text(n ast.Node, key string) string {
	switch n := n.(type) {
	case *ast.StringNode:
		if n.Value != "" {
			return n.Value
		}
	case *ast.LiteralNode:
		if s := strings.TrimSpace(n.Value.Value); s != "" {
			return s
		}
	case *ast.IntegerNode:
		// A node may well be named 7.
		return n.String()
	}
	r.fail(n, key, "expected a text")
	return ""
}

func (r *reader) path(n ast.Node, key string) string {
	s := r.text(n, key)
	if s == "" {
		return ""
	}
	if strings.Contains(s, "://") || strings.ContainsRune(s, 0) {
		r.fail(n, key, "expected a path, got %q", s)
		return ""
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(filepath.Dir(r.file), s)
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		r.fail(n, key, "cannot make %q absolute: %v", s, err)
		return ""
	}
	return abs
}

// listen is an address to listen at: a port alone, or that of one address.
func (r *reader) listen(n ast.Node, key string) string {
	s := r.text(n, key)
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	number, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || number == 0 || host != "" && net.ParseIP(host) == nil {
		r.fail(n, key, `expected :port or address:port, got %q; write ":9101" or "10.0.0.11:9101"`, s)
		return ""
	}
	return s
}

func (r *reader) coordinator(n ast.Node) string {
	s := r.text(n, "coordinator")
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		r.fail(n, "coordinator", "expected a URL; write http://10.0.0.1:7400 or https://deploy.example.com")
		return ""
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		r.fail(n, "coordinator", "expected scheme, host, and port alone; the token goes into its own file")
		return ""
	}
	return s
}

func (r *reader) name(n ast.Node) string {
	s := r.text(n, "name")
	if s != "" && !IsName(s) {
		r.fail(n, "name", "expected lower case letters, digits, and dashes, as in fleet.yaml; got %q", s)
	}
	return s
}

func (r *reader) patterns(n ast.Node) []string {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fail(n, "units", `expected a list of unit names or patterns; write ["*.service"]`)
		return nil
	}
	out := []string{}
	for _, v := range list.Values {
		s := r.text(v, "units")
		if s == "" {
			continue
		}
		if _, err := path.Match(s, "x"); err != nil {
			r.fail(v, "units", "expected a pattern such as app-*.service, got %q: %v", s, err)
			continue
		}
		if !strings.ContainsAny(s, ".*?") {
			r.fail(v, "units", "expected the full name of a unit; write %s.service", s)
			continue
		}
		out = append(out, s)
	}
	return out
}
