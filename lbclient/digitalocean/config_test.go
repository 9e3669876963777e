package digitalocean_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func TestNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	w.cloud.RemoveDroplet(w.ids["w1"])
	err := p.BeginRejoin(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("rejoin of a destroyed droplet: %v", err)
	}
	w.edit = func(c *digitalocean.Config) { c.LoadBalancer = "00000000-0000-0000-0000-000000000000" }
	err = w.alone("w2").Preflight(t.Context())
	wantClass(t, "an unknown balancer", err, lbclient.ClassNotFound)
	w.edit = func(c *digitalocean.Config) { c.Droplets = map[string]int{"w2": 7} }
	err = w.alone("w2").Preflight(t.Context())
	wantClass(t, "a droplet that is no member", err, lbclient.ClassNotFound)
	if err == nil || !strings.Contains(err.Error(), "droplet 3164445") {
		t.Errorf("the members are not named: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Droplets = nil }})
	// One that was just made knows its target, too.
	if pool, err := w.alone("w1").Observe(t.Context()); err != nil || !slices.ContainsFunc(pool.Members, func(m lbclient.Member) bool { return m.Name == "w1" }) {
		t.Errorf("w1 is not among %v (%v)", pool.Members, err)
	}
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	if m := w.cloud.Members(w.lb); slices.Contains(m, w.ids["w1"]) || len(m) != 2 {
		t.Errorf("the members are %v", m)
	}
	w.cloud.AddDroplet(digitaloceantest.Droplet{ID: 9, Name: "W2", Address: "127.0.0.9"})
	err := w.alone("w2").Preflight(t.Context())
	wantClass(t, "a name that two droplets have", err, lbclient.ClassInvalid)
	if err == nil || !strings.Contains(err.Error(), "9 3164445") {
		t.Errorf("the two are not named: %v", err)
	}
}

func TestTiming(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) {
		b.Check.Interval, b.Check.Timeout, b.Check.Healthy, b.Check.Unhealthy = 10, 5, 5, 3
	})
	p := w.alone("w1").(lbclient.Timed)
	got, err := p.Timing(t.Context())
	if err != nil || got.DownWithin() != 35*second || got.UpWithin() != 55*second {
		t.Errorf("got %+v, error %v", got, err)
	}
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Healthy = 0 })
	_, err = p.Timing(t.Context())
	wantClass(t, "a check without a threshold", err, lbclient.ClassUnsupported)
}

func TestConfig(t *testing.T) {
	good := digitalocean.Config{
		Name: "front", Token: "token-of-ours", LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6", Target: "web1", Mode: digitalocean.ModeRemove,
	}
	if _, err := digitalocean.New(good); err != nil {
		t.Fatal(err)
	}
	for what, edit := range map[string]func(*digitalocean.Config){
		"no name":           func(c *digitalocean.Config) { c.Name = "" },
		"no target":         func(c *digitalocean.Config) { c.Target = "" },
		"no token":          func(c *digitalocean.Config) { c.Token = "" },
		"no balancer":       func(c *digitalocean.Config) { c.LoadBalancer = "" },
		"a name for an id":  func(c *digitalocean.Config) { c.LoadBalancer = "front" },
		"a path for an id":  func(c *digitalocean.Config) { c.LoadBalancer = "../droplets/4de7ac8b-495b-4884-9a69-1050c6793cd6" },
		"no mode":           func(c *digitalocean.Config) { c.Mode = "" },
		"another mode":      func(c *digitalocean.Config) { c.Mode = "drain" },
		"a negative id":     func(c *digitalocean.Config) { c.Droplets = map[string]int{"web1": -1} },
		"one id twice":      func(c *digitalocean.Config) { c.Droplets = map[string]int{"web1": 1, "web2": 1} },
		"plain http":        func(c *digitalocean.Config) { c.Endpoint = "http://api.example.com" },
		"a path that drops": func(c *digitalocean.Config) { c.Endpoint = "https://api.example.com/do" },
		"a password":        func(c *digitalocean.Config) { c.Endpoint = "https://a:token-of-ours@api.example.com" },
		"no scheme":         func(c *digitalocean.Config) { c.Endpoint = "api.example.com" },
		"a long settle":     func(c *digitalocean.Config) { c.Settle = time.Hour },
		"a negative settle": func(c *digitalocean.Config) { c.Settle = -1 },
		"a strange port":    func(c *digitalocean.Config) { c.GatePort = 70000 },
		"a relative path":   func(c *digitalocean.Config) { c.GatePath = "gate" },
	} {
		c := good
		edit(&c)
		_, err := digitalocean.New(c)
		wantClass(t, what, err, lbclient.ClassInvalid)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, good); strings.Contains(text, "token-of-ours") {
			t.Errorf("%s prints the token: %s", verb, text)
		}
	}
	var e *lbclient.Error
	if _, err := digitalocean.New(digitalocean.Config{Name: "x"}); !errors.As(err, &e) {
		t.Errorf("got %T", err)
	}
}
