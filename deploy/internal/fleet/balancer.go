package fleet

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// Balancers are the names of what can stand in front of the nodes.
var Balancers = []string{"haproxy", "nginx"}

// startBalancer returns the balancer as fleet.yaml is to describe it.
func (f *Fleet) startBalancer() (string, error) {
	via := cmp.Or(f.options.Via, "agent")
	switch f.options.Balancer {
	case "", "haproxy":
		b := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz", "balance roundrobin"}}
		for i, n := range Nodes {
			b.Servers = append(b.Servers, haproxytest.Server{Name: n, Address: f.server(i), Options: fmt.Sprintf("check inter %dms rise 2 fall 3", f.options.CheckEvery.Milliseconds())})
		}
		p, err := haproxytest.Launch(haproxytest.Options{Backends: []haproxytest.Backend{b}})
		if err != nil {
			return "", fmt.Errorf("cannot start HAProxy: %w", err)
		}
		f.Proxy, f.Front = p, strings.TrimPrefix(p.URL("web"), "http://")
		return fmt.Sprintf("{type: haproxy, via: %s, endpoints: [%q], backend: web}", via, p.Endpoint()), nil
	case "nginx":
		up := nginxtest.Upstream{Name: "web", Lines: []string{"keepalive 16;"}}
		var servers []string
		for i, n := range Nodes {
			up.Servers = append(up.Servers, f.server(i))
			servers = append(servers, fmt.Sprintf("%s: %q", n, f.server(i)))
		}
		p, err := nginxtest.Launch(nginxtest.Options{Upstreams: []nginxtest.Upstream{up}, Workers: 2,
			// So that no reload cuts an answer short, as lbclient/nginx/README.md says.
			Lines: []string{"proxy_buffer_size 5000; proxy_buffers 16 5000;"}})
		if err != nil {
			return "", err
		}
		f.Nginx, f.Front = p, strings.TrimPrefix(p.URL("web"), "http://")
		return fmt.Sprintf("{type: nginx, via: %s, file: %q, upstream: web, pid_file: %q, test: %s, reload: %s, servers: {%s}}", via,
			p.Upstreams(), p.PIDFile(), words(p.Command("-t")), words(p.Command("-s", "reload")), strings.Join(servers, ", ")), nil
	}
	return "", fmt.Errorf("cannot start a balancer %q: expected %s", f.options.Balancer, strings.Join(Balancers, " or "))
}

// server is where the app of a node listens.
func (f *Fleet) server(i int) string { return fmt.Sprintf("%s:%d", address(i), f.port) }

// words writes a command as a YAML list.
func words(argv []string) string {
	q := make([]string, len(argv))
	for i, w := range argv {
		q[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

// watcher looks at the balancer from beside the fleet.
func (f *Fleet) watcher() (lbclient.Provider, error) {
	if f.Nginx != nil {
		return nginx.New(nginx.Config{
			Name: "watch", File: f.Nginx.Upstreams(), Upstreams: []string{"web"}, Server: f.server(0), PIDFile: f.Nginx.PIDFile(),
			Test: f.Nginx.Command("-t"), Reload: f.Nginx.Command("-s", "reload"),
		})
	}
	return haproxy.New(haproxy.Config{Name: "edge", Endpoints: []string{f.Proxy.Endpoint()}, Backends: []string{"web"}, Server: Nodes[0]})
}

// node is the node whose target the balancer knows by the name.
func (f *Fleet) node(member string) string {
	for i, n := range Nodes {
		if member == f.server(i) {
			return n
		}
	}
	return member
}

// Product is the balancer's name, for people.
func (f *Fleet) Product() string {
	if f.options.Balancer == "nginx" {
		return "nginx"
	}
	return "HAProxy"
}

// Resets tells whether the balancer closes kept connections of clients at each
// change, so that a request may be sent on one at that very moment and is never
// answered. No app got such a request, and a client may send it again.
func (f *Fleet) Resets() bool { return f.options.Balancer == "nginx" }
