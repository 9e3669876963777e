package config

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// balancerTypes are the types of balancers that there are.
var balancerTypes map[string]balancerType

// Filled here because reading a balancer looks it up.
func init() {
	balancerTypes = map[string]balancerType{
		"haproxy": {
			keys: []string{"endpoints", "backend", "backends", "allow_unreachable", "servers"}, vias: []Via{ViaAgent, ViaCoordinator},
			server: "the name of the server in haproxy.cfg", fits: isWord, read: (*loader).readHAProxy,
		},
		"nginx": {
			keys: []string{"file", "upstream", "upstreams", "pid_file", "test", "reload", "servers"}, vias: []Via{ViaAgent, ViaCoordinator},
			server: "the address in its server line, such as 10.0.0.11:8080", fits: isDialled, read: (*loader).readNginx,
		},
		"caddy": {
			keys: []string{"endpoint", "handlers", "parked", "servers"}, vias: []Via{ViaAgent, ViaCoordinator},
			server: "the address that the upstream dials, such as 10.0.0.11:8080", fits: isDialled, read: (*loader).readCaddy,
		},
		"exec": {
			keys: []string{"command", "servers"}, vias: []Via{ViaAgent, ViaCoordinator},
			server: "what the program calls its target", fits: isDialled, read: (*loader).readExec,
		},
		"gate": {
			keys: append([]string{"check", "servers"}, gateKeys...), vias: []Via{ViaAgent},
			server: "what the balancer calls it", fits: isDialled, read: (*loader).readGate,
		},
		"hetzner": {
			keys: append([]string{"load_balancer", "token", "endpoint", "mode", "ips", "servers"}, gateKeys...), vias: []Via{ViaCoordinator, ViaAgent},
			server: "the name of its server at Hetzner, or its id in quotes", fits: isWord, read: (*loader).readHetzner,
		},
		"digitalocean": {
			keys: append([]string{"load_balancer", "token", "endpoint", "mode", "droplets", "settle"}, gateKeys...), vias: []Via{ViaCoordinator, ViaAgent},
			read: (*loader).readDigitalOcean,
		},
	}
}

func (l *loader) readHAProxy(b *Balancer, o object) {
	b.HAProxy = &HAProxy{}
	const socket = `["unix:///run/haproxy/admin.sock"]`
	if v, ok := o.need("endpoints", socket); ok {
		b.HAProxy.Endpoints = v.list(socket, "an admin socket, unix:///path or tcp://host:port", isEndpoint)
	}
	b.HAProxy.Backends = o.oneOrMore("backend", "[web]", "the name of the backend in haproxy.cfg", "the name of a backend in haproxy.cfg", isWord)
	if v, _ := o.get("backend"); !o.has("backend") && !o.has("backends") {
		v.fail("missing; write the name of the backend in haproxy.cfg, such as web")
	}
	b.HAProxy.AllowUnreachable = o.count("allow_unreachable", 0, 0, 100)
	v, given := o.get("allow_unreachable")
	switch most := len(b.HAProxy.Endpoints) - 1; {
	case !given || most < 0 || b.HAProxy.AllowUnreachable <= most:
	case most == 0:
		v.fail("there is one endpoint, and one must answer; leave it out")
	default:
		v.fail("%d may be unreachable of %d endpoints, and one must answer; write %d or less", b.HAProxy.AllowUnreachable, most+1, most)
	}
}

// oneOrMore is a list at the key's plural, or the one at the key itself.
func (o object) oneOrMore(key, write, the, a string, fit func(string) bool) []string {
	one, hasOne := o.get(key)
	many, hasMany := o.get(key + "s")
	switch {
	case hasOne && hasMany:
		many.fail("expected one of %s and %ss; put all of them in %ss", key, key, key)
	case hasMany:
		return many.list(write, a, fit)
	case hasOne:
		s, ok := one.text(the)
		if ok && !fit(s) {
			one.fail("expected %s, got %s", a, quoted(s))
		}
		if ok {
			return []string{s}
		}
	}
	return nil
}

func (l *loader) readNginx(b *Balancer, o object) {
	n := &api.Nginx{}
	b.Nginx = n
	const file = "/etc/nginx/upstreams.conf"
	if v, ok := o.need("file", file); ok {
		n.File = v.absolute(file)
	}
	n.Upstreams = o.oneOrMore("upstream", "[web]", "the name of the upstream in the file", "the name of an upstream in the file", isDialled)
	if v, ok := o.get("pid_file"); ok {
		n.PIDFile = v.absolute("/run/nginx.pid")
	}
	if v, ok := o.get("test"); ok {
		n.Test = v.argv("[nginx, -t]")
	}
	if v, ok := o.get("reload"); ok {
		n.Reload = v.argv("[systemctl, reload, nginx]")
	}
	if v, ok := o.get("servers"); !ok {
		v.fail(`missing; write each node's address as its server line has it, such as {web1: "10.0.0.11:8080"}`)
	}
}

func (l *loader) readCaddy(b *Balancer, o object) {
	c := &api.Caddy{}
	b.Caddy = c
	const admin = "http://127.0.0.1:2019"
	if v, ok := o.need("endpoint", admin); ok {
		if c.Endpoint, ok = v.text(admin); ok && !isCaddyAdmin(c.Endpoint) {
			v.fail("expected where Caddy's admin API is, http://host:port or unix:///path; write %s", admin)
		}
	}
	if v, ok := o.need("handlers", "[web]"); ok {
		c.Handlers = v.list("[web]", "the @id of a reverse_proxy handler", isCaddyID)
	}
	if v, ok := o.get("parked"); ok {
		if c.Parked, ok = v.text("the @id of the handler that gets no requests"); ok && !isCaddyID(c.Parked) {
			v.fail("expected the @id of a reverse_proxy handler, got %s", quoted(c.Parked))
		}
		if slices.Contains(c.Handlers, c.Parked) {
			v.fail("handler %s cannot be parked and in use; name another, or leave it out", quoted(c.Parked))
		}
	}
}

func (l *loader) readExec(b *Balancer, o object) {
	b.Exec = &api.Exec{}
	const command = "[/etc/lockstep/balancer]"
	v, ok := o.need("command", command)
	if !ok {
		return
	}
	b.Exec.Command = v.argv(command)
	if len(b.Exec.Command) > 0 && !isAbsolute(b.Exec.Command[0]) {
		v.fail("expected a program by its absolute path, got %s; write %s", quoted(b.Exec.Command[0]), command)
	}
}

func (l *loader) readHetzner(b *Balancer, o object) {
	h := &Hetzner{}
	b.Hetzner = h
	if v, ok := o.need("load_balancer", "its name at Hetzner, or its id in quotes"); ok {
		if h.LoadBalancer, ok = v.text("its name at Hetzner, or its id in quotes"); ok && !isWord(h.LoadBalancer) {
			v.fail("expected the name or the id of a load balancer at Hetzner, got %s", quoted(h.LoadBalancer))
		}
	}
	h.Token, h.Endpoint = o.cloud(b, "/etc/lockstep/hetzner-token", false)
	h.Mode = o.cloudMode(b)
	v, ok := o.get("ips")
	if !ok {
		return
	}
	h.IPs = map[string]string{}
	seen := map[netip.Addr]string{}
	l.byNode(v, `{web1: "10.0.0.11"}, for targets that are IP addresses at Hetzner`, func(node string, v value) {
		s, ok := v.text("the IP address of the target at Hetzner")
		if !ok {
			return
		}
		ip, err := netip.ParseAddr(s)
		if err != nil {
			v.fail("expected an IP address, got %s", quoted(s))
			return
		}
		if other, twice := seen[ip]; twice {
			v.fail("nodes %s and %s have the same address; give each its own", other, node)
		}
		seen[ip], h.IPs[node] = node, ip.String()
	})
}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func (l *loader) readDigitalOcean(b *Balancer, o object) {
	d := &DigitalOcean{}
	b.DigitalOcean = d
	const id = "its id, such as 4de7ac8b-495b-4884-9a69-1050c6793cd6"
	if v, ok := o.need("load_balancer", id); ok {
		if d.LoadBalancer, ok = v.text(id); ok && !uuid.MatchString(d.LoadBalancer) {
			v.fail("expected the id of a load balancer at DigitalOcean, got %s; write %s", quoted(d.LoadBalancer), id)
		}
	}
	d.Token, d.Endpoint = o.cloud(b, "/etc/lockstep/digitalocean-token", true)
	d.Mode = o.cloudMode(b)
	d.Settle = o.duration("settle", 15*second, second, 10*minute)
	v, ok := o.get("droplets")
	if !ok {
		return
	}
	d.Droplets = map[string]int{}
	seen := map[int]string{}
	l.byNode(v, "{web1: 123456}, the ids of droplets that are not named like their node", func(node string, v value) {
		id, ok := v.count(1, 1<<53)
		if !ok {
			return
		}
		if other, twice := seen[id]; twice {
			v.fail("nodes %s and %s are both droplet %d; give each its own", other, node, id)
		}
		seen[id], d.Droplets[node] = node, id
	})
}

// cloud reads what the clouds have in common. The token is with whoever speaks to
// the cloud.
func (o object) cloud(b *Balancer, file string, bare bool) (token Secret, endpoint string) {
	if b.Via == ViaAgent {
		if v, ok := o.get("token"); ok {
			v.fail("with via: agent each node needs the token, in agent.yaml: balancers: {%s: {token: {file: %s}}}; leave it out here", b.Name, file)
		}
	} else if v, ok := o.need("token", "{file: "+file+"}"); ok {
		token, _ = v.secret()
	}
	if v, ok := o.get("endpoint"); ok {
		if endpoint, ok = v.text("https://host/path"); ok && !isAPI(endpoint, bare) {
			// Not what was found, for it may hold a password.
			v.fail("expected the address of another API, https://host, for it gets the token (http only on this machine); leave it out for the cloud's own")
			endpoint = ""
		}
	}
	return token, endpoint
}

// absolute is an absolute path.
func (v value) absolute(write string) string {
	s, ok := v.text(write)
	if ok && !isAbsolute(s) {
		v.fail("expected an absolute path, got %s; write %s", quoted(s), write)
	}
	return s
}

func isAbsolute(s string) bool {
	return filepath.IsAbs(s) && filepath.Clean(s) == s && s != "/" && !strings.ContainsRune(s, 0)
}

// argv is a command with its arguments, which no shell looks at.
func (v value) argv(write string) []string {
	var all []string
	for _, item := range v.items(write) {
		s, ok := item.text("a word of the command")
		if !ok {
			continue
		}
		if strings.ContainsRune(s, 0) {
			item.fail("a word of a command cannot hold a zero byte")
		}
		all = append(all, s)
	}
	return all
}

var dialled = regexp.MustCompile(`^[A-Za-z0-9_.:/\[\]-]{1,200}$`)

// isDialled tells whether s can be an address that a balancer's configuration
// names: a host, a host with a port, or a socket.
func isDialled(s string) bool { return dialled.MatchString(s) }

var caddyID = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,128}$`)

func isCaddyID(s string) bool { return caddyID.MatchString(s) && strings.Trim(s, ".") != "" }

func isCaddyAdmin(s string) bool {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		return isAbsolute(path)
	}
	address, ok := strings.CutPrefix(s, "http://")
	return ok && isHostPort(strings.TrimSuffix(address, "/"), false)
}

// isAPI tells whether a token may be sent there. A bare one has no path.
func isAPI(s string, bare bool) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || bare && strings.Trim(u.Path, "/") != "" {
		return false
	}
	if u.Scheme == "http" {
		ip := net.ParseIP(u.Hostname())
		return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	}
	return u.Scheme == "https"
}
