package fleet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient/caddy"
	"github.com/lockstep-deploy/lockstep/lbclient/caddy/caddytest"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

func (f *Fleet) startNginx() (*front, error) {
	up := nginxtest.Upstream{Name: "web", Lines: []string{"keepalive 16;"}}
	for i := range f.Nodes {
		up.Servers = append(up.Servers, f.server(i))
	}
	p, err := nginxtest.Launch(nginxtest.Options{Upstreams: []nginxtest.Upstream{up}, Workers: 2,
		// So that no reload cuts an answer short, as lbclient/nginx/README.md says.
		Lines: []string{"proxy_buffer_size 5000; proxy_buffers 16 5000;"}})
	if err != nil {
		return nil, err
	}
	look, err := nginx.New(nginx.Config{
		Name: "watch", File: p.Upstreams(), Upstreams: []string{"web"}, Server: f.server(0), PIDFile: p.PIDFile(),
		Test: p.Command("-t"), Reload: p.Command("-s", "reload"),
	})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return &front{
		yaml: fmt.Sprintf("{type: nginx, via: %s, file: %q, upstream: web, pid_file: %q, test: %s, reload: %s, servers: %s}", f.options.Via,
			p.Upstreams(), p.PIDFile(), words(p.Command("-t")), words(p.Command("-s", "reload")), f.serversYAML()),
		addresses: []string{strings.TrimPrefix(p.URL("web"), "http://")},
		serving:   observing(look, f.byServer()),
		stop:      p.Stop,
	}, nil
}

func caddyVersion() (string, error) {
	programs := caddytest.Programs()
	if len(programs) == 0 {
		return "", errors.New("there is no caddy")
	}
	return caddytest.Version(programs[0])
}

func (f *Fleet) startCaddy() (*front, error) {
	web := caddytest.Handler{ID: "web"}
	switch version, err := caddyVersion(); {
	case err != nil:
		return nil, err
	case strings.HasPrefix(version, "2.6."): // what lbclient/caddy/README.md says of answers cut short
		web.Settings = map[string]any{"buffer_requests": true}
	default:
		web.Settings = map[string]any{"request_buffers": 1 << 20}
	}
	for i := range f.Nodes {
		web.Upstreams = append(web.Upstreams, map[string]any{"dial": f.server(i)})
	}
	p, err := caddytest.Launch(caddytest.Options{Handlers: []caddytest.Handler{web}, Parked: "parked"})
	if err != nil {
		return nil, err
	}
	look, err := caddy.New(caddy.Config{Name: "watch", Endpoint: p.Endpoint(), Handlers: []string{"web"}, Parked: "parked", Server: f.server(0)})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return &front{
		yaml: fmt.Sprintf("{type: caddy, via: %s, endpoint: %q, handlers: [web], parked: parked, servers: %s}",
			f.options.Via, p.Endpoint(), f.serversYAML()),
		addresses: []string{strings.TrimPrefix(p.URL("web"), "http://")},
		serving:   observing(look, f.byServer()),
		stop:      p.Stop,
	}, nil
}
