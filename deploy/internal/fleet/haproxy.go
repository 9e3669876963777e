package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

func (f *Fleet) startHAProxy() (*front, error) { return f.haproxies(1, "/healthz", "") }

func (f *Fleet) startPair() (*front, error) { return f.haproxies(2, "/healthz", "") }

// startGatedHAProxy starts one that checks the gates, and that only the watch
// beside the fleet speaks to.
func (f *Fleet) startGatedHAProxy() (*front, error) {
	out, err := f.haproxies(1, gatePath, fmt.Sprintf(" port %d", f.gatePort))
	if err == nil {
		out.yaml = fmt.Sprintf("{type: gate, port: %d, check: {interval: %s, timeout: 5s, fall: 3, rise: 2}}", f.gatePort, f.options.CheckEvery)
	}
	return out, err
}

// haproxies starts instances that are configured alike, as keepalived has them.
func (f *Fleet) haproxies(n int, path, check string) (*front, error) {
	out := &front{stop: func() {
		for _, p := range f.Proxies {
			p.Stop()
		}
	}}
	b := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET " + path, "balance roundrobin"}}
	for i, n := range f.Nodes {
		b.Servers = append(b.Servers, haproxytest.Server{Name: n, Address: f.server(i), Options: fmt.Sprintf("check%s inter %dms rise 2 fall 3", check, f.options.CheckEvery.Milliseconds())})
	}
	var sockets []string
	for range n {
		p, err := haproxytest.Launch(haproxytest.Options{Backends: []haproxytest.Backend{b}})
		if err != nil {
			out.stop()
			return nil, err
		}
		f.Proxies = append(f.Proxies, p)
		sockets = append(sockets, p.Endpoint())
		out.addresses = append(out.addresses, strings.TrimPrefix(p.URL("web"), "http://"))
	}
	out.yaml = fmt.Sprintf("{type: haproxy, via: %s, endpoints: %s, backend: web}", f.options.Via, words(sockets))
	// The last one is never killed.
	look, err := haproxy.New(haproxy.Config{Name: "watch", Endpoints: sockets[n-1:], Backends: []string{"web"}, Server: f.Nodes[0]})
	if err != nil {
		out.stop()
		return nil, err
	}
	out.serving = observing(look, f.byName())
	return out, nil
}

// FailOver kills the HAProxy that clients use, as a crash would, and starts it
// again after a while, as systemd would. Clients use the other one from the
// moment before: the time that keepalived takes to move the address is not
// played. What was in flight on the killed one is lost.
func (f *Fleet) FailOver(ctx context.Context, after time.Duration) error {
	if len(f.Proxies) < 2 {
		return errors.New("there is no second HAProxy to take over")
	}
	f.killed.Store(true)
	f.Proxies[0].Kill()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(after):
	}
	return f.Proxies[0].Restart()
}
