package activate

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// How a target stood is remembered for as long as it stands in the same place,
// also while the way to reload its balancer is mended.
func TestSamePlace(t *testing.T) {
	nginx := func(n api.Nginx) api.Balancer { return api.Balancer{Name: "edge", Type: "nginx", Nginx: &n} }
	caddy := func(c api.Caddy) api.Balancer { return api.Balancer{Name: "edge", Type: "caddy", Caddy: &c} }
	for name, c := range map[string]struct {
		a, b api.Balancer
		same bool
	}{
		"another reload":    {nginx(api.Nginx{File: "/a"}), nginx(api.Nginx{File: "/a", Reload: []string{"true"}}), true},
		"another file":      {nginx(api.Nginx{File: "/a"}), nginx(api.Nginx{File: "/b"}), false},
		"another upstream":  {nginx(api.Nginx{File: "/a"}), nginx(api.Nginx{File: "/a", Upstreams: []string{"web"}}), false},
		"another handler":   {caddy(api.Caddy{Handlers: []string{"a"}}), caddy(api.Caddy{Handlers: []string{"b"}}), false},
		"now parked":        {caddy(api.Caddy{Handlers: []string{"a"}}), caddy(api.Caddy{Handlers: []string{"a"}, Parked: "p"}), true},
		"another type":      {nginx(api.Nginx{}), caddy(api.Caddy{}), false},
		"another backend":   {api.Balancer{Backends: []string{"a"}}, api.Balancer{Backends: []string{"b"}}, false},
		"by the other side": {api.Balancer{Name: "edge", Via: api.ViaCoordinator}, api.Balancer{Name: "edge"}, true},
	} {
		if got := samePlace(c.a, c.b); got != c.same {
			t.Errorf("%s: same is %t, want %t", name, got, c.same)
		}
	}
}
