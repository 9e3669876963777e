package config

import (
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml/ast"
)

const (
	second = time.Second
	minute = time.Minute
	day    = 24 * time.Hour

	defaultListen     = "127.0.0.1:7400"
	defaultDatabase   = "/var/lib/lockstep/lockstep.db"
	defaultMirrors    = "/var/lib/lockstep/mirrors"
	defaultAdminToken = "/etc/lockstep/admin-token"
	defaultTokens     = "/etc/lockstep/tokens/"
	defaultAddress    = "127.0.0.1"
)

// loader fills a fleet, and remembers where its parts are in the file for what
// can only be judged once all of it is read.
type loader struct {
	fleet     *Fleet
	tokens    []tokenPlace
	apps      map[*App]object
	balancers map[*Balancer]object
	servers   map[*Balancer]map[Place]value
}

type tokenPlace struct {
	who    string
	secret Secret
	at     value
}

func (l *loader) read(root value) {
	sections := []string{"coordinator", "github", "nodes", "balancers", "apps"}
	o, ok := root.object("coordinator, github, nodes, balancers, and apps", sections...)
	if !ok {
		return
	}
	l.readCoordinator(o)
	l.readGitHub(o)
	named(o, "nodes", "{web1: {}}", true, l.readNode)
	l.checkTokens()
	named(o, "balancers", "{edge: {type: haproxy, endpoints: …, backend: …}}", false, l.readBalancer)
	named(o, "apps", "{hello: {repo: …, branch: …, nodes: …, unit: …, health: …, balancer: …}}", true, l.readApp)
	l.checkUnits()
	l.checkPools()
}

// named reads each entry of a mapping of names.
func named(o object, key, write string, required bool, read func(name string, v value)) {
	v, ok := o.get(key)
	if !ok {
		if required {
			v.fail("missing; write %s: %s", key, write)
		}
		return
	}
	entries, ok := v.object(write)
	if !ok {
		return
	}
	if len(entries.keys) == 0 && required {
		v.fail("expected at least one; write %s", write)
	}
	for _, name := range entries.keys {
		if !isName(name) {
			entries.places[name].fail("expected a name of up to 63 lower-case letters, digits and hyphens that does not begin with a hyphen")
			continue
		}
		read(name, entries.values[name])
	}
}

func (l *loader) readCoordinator(root object) {
	c := &l.fleet.Coordinator
	v, given := root.get("coordinator")
	o := object{value: v}
	if given {
		var ok bool
		if o, ok = v.object("listen and database", "listen", "database", "admin_tokens", "mirrors", "archives", "poll_interval", "node_timeout"); !ok {
			return
		}
	}
	c.Listen = defaultListen
	if v, ok := o.get("listen"); ok {
		if s, ok := v.text(defaultListen); ok {
			if !isHostPort(s, true) {
				v.fail("expected host:port, got %s; write %s", quoted(s), defaultListen)
			}
			c.Listen = s
		}
	}
	c.Database = o.filePath("database", defaultDatabase)
	c.Mirrors = o.filePath("mirrors", defaultMirrors)
	c.Archives = o.filePath("archives", filepath.Join(filepath.Dir(c.Database), "archives"))
	c.PollInterval = o.duration("poll_interval", 60*second, second, day)
	c.NodeTimeout = o.duration("node_timeout", 60*second, second, day)
	v, ok := o.get("admin_tokens")
	if ok {
		c.AdminTokens = v.secrets()
	} else if s, ok := v.secretFile(defaultAdminToken, " (the default)"); ok {
		c.AdminTokens = []Secret{s}
	}
	for _, s := range c.AdminTokens {
		l.tokens = append(l.tokens, tokenPlace{"administrators", s, v})
	}
}

func (l *loader) readGitHub(root object) {
	v, ok := root.need("github", "{webhook_secrets: [{file: /etc/lockstep/webhook-secret}]}")
	if !ok {
		return
	}
	o, ok := v.object("webhook_secrets", "webhook_secrets")
	if !ok {
		return
	}
	if v, ok := o.need("webhook_secrets", "[{file: /etc/lockstep/webhook-secret}]"); ok {
		l.fleet.GitHub.WebhookSecrets = v.secrets()
	}
}

func (l *loader) readNode(name string, v value) {
	n := &Node{Name: name, Address: defaultAddress}
	l.fleet.Nodes = append(l.fleet.Nodes, n)
	o := object{value: v}
	if !v.isNull() {
		var ok bool
		if o, ok = v.object("{}", "address", "token"); !ok {
			return
		}
	}
	if v, ok := o.get("address"); ok {
		if n.Address, ok = v.text("10.0.0.11"); ok && !isHost(n.Address) {
			v.fail("expected an IP address or a host name, without a port; write 10.0.0.11")
		}
	}
	v, ok := o.get("token")
	if ok {
		n.Token, _ = v.secret()
	} else {
		n.Token, _ = v.secretFile(defaultTokens+name, " (the default)")
	}
	l.tokens = append(l.tokens, tokenPlace{"node " + name, n.Token, v})
}

// checkTokens finds tokens with which one could speak for another.
func (l *loader) checkTokens() {
	seen := map[string]string{}
	for _, t := range l.tokens {
		if t.secret.Bytes() == nil {
			continue
		}
		if other, twice := seen[string(t.secret.Bytes())]; twice {
			t.at.fail("the token of %s is the same as that of %s; give each its own", t.who, other)
			continue
		}
		seen[string(t.secret.Bytes())] = t.who
	}
}

// secrets reads a list of secrets.
func (v value) secrets() []Secret {
	if _, isList := v.node.(*ast.SequenceNode); !isList {
		v.fail("expected a list of secrets; write [{file: /path/to/it}]")
		return nil
	}
	var all []Secret
	for _, item := range v.items("[" + writeSecret + "]") {
		if s, ok := item.secret(); ok {
			all = append(all, s)
		}
	}
	return all
}
