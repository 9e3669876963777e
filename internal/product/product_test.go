package product_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/product"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

func TestOpen(t *testing.T) {
	token := func() (string, error) { return "secret", nil }
	for name, c := range map[string]struct {
		b      api.Balancer
		server string
		class  lbclient.Class // "" when it is to be made
	}{
		"haproxy":          {api.Balancer{Type: "haproxy", Endpoints: []string{"unix:///run/a.sock"}, Backends: []string{"web"}}, "web1", ""},
		"nginx":            {api.Balancer{Type: "nginx", Nginx: &api.Nginx{File: "/etc/nginx/upstreams.conf"}}, "10.0.0.11:8080", ""},
		"caddy":            {api.Balancer{Type: "caddy", Caddy: &api.Caddy{Endpoint: "unix:///run/a.sock", Handlers: []string{"web"}}}, "10.0.0.11:8080", ""},
		"exec":             {api.Balancer{Type: "exec", Exec: &api.Exec{Command: []string{"/bin/true"}}}, "web1", ""},
		"nginx, malformed": {api.Balancer{Type: "nginx", Nginx: &api.Nginx{File: "upstreams.conf"}}, "10.0.0.11:8080", lbclient.ClassInvalid},
		"nginx, untold":    {api.Balancer{Type: "nginx"}, "10.0.0.11:8080", lbclient.ClassUnsupported},
		"hetzner":          {api.Balancer{Type: "hetzner", Cloud: &api.Cloud{LoadBalancer: "front", Mode: "remove"}}, "web1", ""},
		"digitalocean":     {api.Balancer{Type: "digitalocean", Cloud: &api.Cloud{LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6", Mode: "remove", Settle: api.Duration(time.Second)}}, "web1", ""},
		"a cloud, untold":  {api.Balancer{Type: "hetzner"}, "web1", lbclient.ClassUnsupported},
		"of the future":    {api.Balancer{Type: "quantum"}, "web1", lbclient.ClassUnsupported},
	} {
		c.b.Name = "edge"
		lb, err := product.Open(c.b, "web1", c.server, token)
		var e *lbclient.Error
		switch {
		case c.class == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.class == "":
			lb.Close()
		case !errors.As(err, &e) || e.Class != c.class:
			t.Errorf("%s: got %v, want %s", name, err, c.class)
		}
	}
}
