package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// balancers reads which clouds the agent may speak to itself, and with what.
func (r *reader) balancers(n ast.Node) map[string]string {
	const write = "{file: /etc/lockstep/hetzner-token}"
	values, ok := pairs(n)
	if !ok {
		r.fail(n, "balancers", "expected the names of balancers, and their tokens; write {front: {token: %s}}", write)
		return nil
	}
	all := map[string]string{}
	for _, v := range values {
		name := keyOf(v)
		key := "balancers." + name
		if _, twice := all[name]; twice {
			r.fail(v.Key, key, "it stands here twice; remove one")
			continue
		}
		all[name] = ""
		found := false
		r.object(v.Value, key, map[string]func(ast.Node){
			"token": func(n ast.Node) { found, all[name] = true, r.secretFile(n, key+".token", write) },
		})
		if !found {
			r.fail(v.Key, key, "expected its token; write {token: %s}", write)
		}
	}
	return all
}

// BalancerToken reads the token with which the agent speaks to a cloud's balancer.
func (c Config) BalancerToken(balancer string) (string, error) {
	file := c.BalancerTokens[balancer]
	if file == "" {
		return "", fmt.Errorf("agent.yaml has no token for it; write balancers: {%s: {token: {file: /etc/lockstep/…}}} there and restart deploy-agent, or leave it to the coordinator (via: coordinator in fleet.yaml)", balancer)
	}
	return read("the token of balancer "+balancer, file)
}

// read returns what a file holds that nobody else may read.
func read(what, file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", what, err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return "", fmt.Errorf("cannot use %s: others may read or change %s (mode %04o); run: chmod 0640 %s", what, file, mode, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", what, err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || strings.Contains(s, "\x00") {
		return "", fmt.Errorf("cannot use %s: %s is empty, or holds a zero byte", what, file)
	}
	return s, nil
}
