package hetzner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
)

func TestConfigIsChecked(t *testing.T) {
	good := hetzner.Config{Name: "front", LoadBalancer: "web-lb", Token: "t0ken", Server: "web1", Mode: hetzner.ModeGate}
	p, err := hetzner.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for words, edit := range map[string]func(*hetzner.Config){
		"has no name":                  func(c *hetzner.Config) { c.Name = "" },
		`load balancer ""`:             func(c *hetzner.Config) { c.LoadBalancer = "" },
		`load balancer "a/b"`:          func(c *hetzner.Config) { c.LoadBalancer = "a/b" },
		"there is no API token":        func(c *hetzner.Config) { c.Token = "" },
		"characters that no token has": func(c *hetzner.Config) { c.Token = "t0ken\n" },
		"target has no name":           func(c *hetzner.Config) { c.Server = "" },
		`mode "drain"`:                 func(c *hetzner.Config) { c.Mode = "drain" },
		"server id -1":                 func(c *hetzner.Config) { c.ServerID = -1 },
		`IP address "10.0.0"`:          func(c *hetzner.Config) { c.IP = "10.0.0" },
		"keep one":                     func(c *hetzner.Config) { c.ServerID, c.IP = 7, "10.0.0.7" },
		"more than one of":             func(c *hetzner.Config) { c.ServerID, c.FromMetadata = 7, true },
		"no base address":              func(c *hetzner.Config) { c.Endpoint = "api.hetzner.cloud" },
		"want https://":                func(c *hetzner.Config) { c.Endpoint = "https://user:s3cret@host/v1" },
		"port 0":                       func(c *hetzner.Config) { c.Ports = []int{0} },
		"port 80 is named twice":       func(c *hetzner.Config) { c.Ports = []int{80, 443, 80} },
		"gate status 200":              func(c *hetzner.Config) { c.GateStatus = 200 },
		"gate port 70000":              func(c *hetzner.Config) { c.GatePort = 70000 },
		`gate path "health"`:           func(c *hetzner.Config) { c.GatePath = "health" },
		"call timeout -1s":             func(c *hetzner.Config) { c.CallTimeout = -time.Second },
		"action wait 1h0m0s":           func(c *hetzner.Config) { c.ActionWait = time.Hour },
	} {
		c := good
		edit(&c)
		_, err := hetzner.New(c)
		if err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid || !strings.Contains(err.Error(), words) {
			t.Errorf("want an error that says %q, got %v", words, err)
			continue
		}
		for _, secret := range []string{"t0ken", "s3cret"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error has a secret: %v", err)
			}
		}
	}
}

func TestWhatItSaysOfItself(t *testing.T) {
	c := hetzner.Config{Name: "front", LoadBalancer: "web-lb", Token: "t0ken", Server: "web1"}
	for mode, words := range map[hetzner.Mode]string{hetzner.ModeGate: "turns unhealthy", hetzner.ModeRemove: "is removed"} {
		c.Mode = mode
		p, err := hetzner.New(c)
		if err != nil {
			t.Fatal(err)
		}
		caps := lbclient.CapsOf(p)
		if !caps.Health || caps.InFlight || !strings.Contains(caps.Undocumented, words) {
			t.Errorf("mode %s: %+v", mode, caps)
		}
		f, ok := p.(lbclient.Forcer)
		if !ok {
			t.Fatal("it is no Forcer")
		}
		wantError(t, f.ForceIdle(t.Context(), lbclient.Restore{}), lbclient.ClassUnsupported)
	}
}
