// Package product makes the provider for a load balancer from what the wire
// contract says of it. It is the one place that knows every product to which an
// agent or the coordinator speaks.
package product

import (
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/exec"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
)

// Open makes the provider for one target on a node, which the balancer knows as
// server; token gives what a cloud asks for, and no other product calls it. It
// speaks to nobody yet. Its errors are of class [lbclient.ClassUnsupported] for a
// balancer that it does not know, ClassDenied without a token, and ClassInvalid.
func Open(b api.Balancer, node, server string, token func() (string, error)) (lbclient.Provider, error) {
	switch {
	case b.Type == "haproxy":
		return haproxy.New(haproxy.Config{Name: b.Name, Endpoints: b.Endpoints, Backends: b.Backends, Server: server, AllowUnreachable: b.AllowUnreachable})
	case b.Type == "nginx" && b.Nginx != nil:
		n := b.Nginx
		return nginx.New(nginx.Config{
			Name: b.Name, Server: server, File: n.File, Upstreams: n.Upstreams, PIDFile: n.PIDFile, Test: n.Test, Reload: n.Reload,
		})
	case b.Type == "caddy" && b.Caddy != nil:
		return caddy.New(caddy.Config{Name: b.Name, Server: server, Endpoint: b.Caddy.Endpoint, Handlers: b.Caddy.Handlers, Parked: b.Caddy.Parked})
	case b.Type == "exec" && b.Exec != nil:
		return exec.New(exec.Config{Name: b.Name, Node: node, Server: server, Command: b.Exec.Command})
	case (b.Type == "hetzner" || b.Type == "digitalocean") && b.Cloud != nil:
		secret, err := token()
		if err != nil {
			return nil, &lbclient.Error{Class: lbclient.ClassDenied, Op: "use balancer " + b.Name, Err: err}
		}
		return openCloud(b, server, secret)
	}
	return nil, &lbclient.Error{
		Class: lbclient.ClassUnsupported, Op: "use balancer " + b.Name,
		Text: fmt.Sprintf("this version knows no balancer of type %q; update deploy-agent", b.Type),
	}
}

func openCloud(b api.Balancer, server, token string) (lbclient.Provider, error) {
	c, g := b.Cloud, b.Gate
	if g == nil {
		g = &api.Gate{}
	}
	if b.Type == "digitalocean" {
		return digitalocean.New(digitalocean.Config{
			Name: b.Name, LoadBalancer: c.LoadBalancer, Token: token, Endpoint: c.Endpoint, Target: server, Mode: digitalocean.Mode(c.Mode),
			Droplets: c.Droplets, Settle: c.Settle.D(), GatePort: g.Port, GatePath: g.Path,
		})
	}
	names := map[string]string{}
	for server, ip := range c.IPs {
		names[ip] = server
	}
	return hetzner.New(hetzner.Config{
		Name: b.Name, LoadBalancer: c.LoadBalancer, Token: token, Endpoint: c.Endpoint, Server: server, Mode: hetzner.Mode(c.Mode),
		IP: c.IPs[server], Names: names, GatePort: g.Port, GatePath: g.Path, GateStatus: g.Refusal,
	})
}
