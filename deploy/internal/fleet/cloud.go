package fleet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
)

// A made cloud's second, so that nobody waits for checks that a real one makes
// every three seconds at the most.
const cloudSecond = 100 * time.Millisecond

// cloudToken is what the made clouds take for a token.
const cloudToken = "a-token-of-a-made-cloud"

// entry is the port on which the made clouds' balancers claim to listen.
const entry = 80

func (f *Fleet) startHetznerServers() (*front, error) { return f.hetzner(byServer) }

func (f *Fleet) startHetznerAddresses() (*front, error) { return f.hetzner(byIP) }

func (f *Fleet) startHetznerLabel() (*front, error) { return f.hetzner(byLabel) }

// membership is how nodes are targets of a made Hetzner balancer.
type membership int

const (
	byServer membership = iota // each by its server
	byIP                       // each by an IP address
	byLabel                    // all by a label, which only a gate can drain
)

// hetzner starts a made Hetzner Cloud with a balancer.
func (f *Fleet) hetzner(by membership) (out *front, err error) {
	second := cloudSecond
	if by == byLabel {
		second = time.Second
	}
	c, err := hetznertest.New(hetznertest.Options{
		Token:  cloudToken,
		Second: second, ActionTime: 300 * time.Millisecond, DataPlaneLag: 200 * time.Millisecond,
		RateLimit: 1e6, // the watching beside the fleet asks all the time
	})
	if err != nil {
		return nil, err
	}
	stop := func() {
		_ = c.Close() // the listener's end is all that can fail
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	check := hetznertest.Check{Interval: 3, Timeout: 20, Retries: 2, Path: "/healthz"}
	mode := hetzner.ModeRemove
	if by == byLabel {
		// The gate goes by the check as it reads it, in true seconds.
		check = hetznertest.Check{Interval: 1, Timeout: 2, Retries: 2, Path: gatePath, Port: f.gatePort}
		mode = hetzner.ModeGate
	}
	b := hetznertest.Balancer{Name: "front", Services: []hetznertest.Service{{ListenPort: entry, DestinationPort: f.port, Check: check}}}
	look := hetzner.Config{Name: "watch", LoadBalancer: "front", Token: cloudToken, Endpoint: c.Endpoint(), Server: f.Nodes[0], Mode: mode, Names: map[string]string{}}
	var ips []string
	for i, n := range f.Nodes {
		at := hetznertest.Backend{Host: address(i)}
		if by != byIP {
			id := c.AddServer(hetznertest.Server{Name: n, Backend: at, Labels: map[string]string{"role": "web"}})
			if by == byServer {
				b.Targets = append(b.Targets, hetznertest.Target{Server: id})
			}
			continue
		}
		ip := fmt.Sprintf("198.51.100.%d", 11+i)
		c.AddAddress(ip, at)
		b.Targets = append(b.Targets, hetznertest.Target{IP: ip})
		ips = append(ips, fmt.Sprintf("%s: %q", n, ip))
		look.Names[ip] = n
		if i == 0 {
			look.IP = ip
		}
	}
	if by == byLabel {
		b.Targets = []hetznertest.Target{{Selector: "role=web"}}
	}
	id, err := c.AddBalancer(b)
	if err != nil {
		return nil, err
	}
	p, err := hetzner.New(look)
	if err != nil {
		return nil, err
	}
	if err := f.write("cloud-token", cloudToken); err != nil {
		return nil, err
	}
	access := fmt.Sprintf("token: {file: %q}", f.path("cloud-token"))
	if f.Kind.OwnToken {
		access = "via: agent"
	}
	yaml := fmt.Sprintf("{type: hetzner, load_balancer: front, %s, endpoint: %q, mode: %s", access, c.Endpoint(), mode)
	switch by {
	case byIP:
		yaml += ", ips: {" + strings.Join(ips, ", ") + "}"
	case byLabel:
		yaml += fmt.Sprintf(", port: %d", f.gatePort)
	}
	return &front{
		yaml: yaml + "}", addresses: []string{c.Address(id, entry)}, stop: stop,
		serving: observing(p, f.byName()),
	}, nil
}

func (f *Fleet) startDroplets() (*front, error) { return f.digitalOcean("") }

func (f *Fleet) startTag() (*front, error) { return f.digitalOcean("web") }

// digitalOcean starts a made DigitalOcean whose balancer has the nodes by a tag,
// which only a gate can drain, or by their ids.
func (f *Fleet) digitalOcean(tag string) (*front, error) {
	c, err := digitaloceantest.Start(digitaloceantest.Options{Token: cloudToken, Apply: 300 * time.Millisecond, Lag: 200 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	// The real one allows no interval below three seconds.
	check := digitaloceantest.Check{Protocol: "http", Port: f.port, Path: "/healthz", Interval: 1, Timeout: 2, Healthy: 2, Unhealthy: 2}
	how := "mode: remove, settle: 1s"
	if tag != "" {
		check.Port, check.Path = f.gatePort, gatePath
		how = fmt.Sprintf("mode: gate, port: %d", f.gatePort)
	}
	b := digitaloceantest.Balancer{
		Name: "front", KeepAlive: true, Nodes: 2, Tag: tag, Check: check,
		Rules: []digitaloceantest.Rule{{Protocol: "http", Entry: entry, Target: f.port}},
	}
	const first = 3164440
	for i, n := range f.Nodes {
		c.AddDroplet(digitaloceantest.Droplet{ID: first + i, Name: n, Address: address(i), Tags: []string{"web"}})
		if tag == "" {
			b.Droplets = append(b.Droplets, first+i)
		}
	}
	id, err := c.AddBalancer(b)
	if err == nil {
		err = f.write("cloud-token", cloudToken)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &front{
		yaml:      fmt.Sprintf("{type: digitalocean, load_balancer: %s, token: {file: %q}, endpoint: %q, %s}", id, f.path("cloud-token"), c.URL(), how),
		addresses: []string{c.Entry(id, entry)}, stop: c.Close,
		// Its API tells no health, so the machines that balance are asked.
		serving: func(ctx context.Context) (map[string]bool, error) {
			in := map[string]bool{}
			for i, n := range f.Nodes {
				in[n] = c.Healthy(id, first+i)
			}
			return in, ctx.Err()
		},
	}, nil
}
