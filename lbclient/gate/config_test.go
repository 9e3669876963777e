package gate_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

func TestRemote(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.1:9101", "unix:///run/gate", "http://user:pass@10.0.0.1/ready/status"} {
		if _, err := gate.Remote(bad); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%q: got error %v", bad, err)
		}
	}
	for what, answer := range map[string]http.HandlerFunc{
		"a failure":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a redirect":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/else", http.StatusFound) },
		"a page":         func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"something else": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"status":"ok"}`)) },
		"an endless one": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"server":"w1","epoch":"` + strings.Repeat("x", 1<<20) + `"}`))
		},
	} {
		s := httptest.NewServer(answer)
		v, err := gate.Remote(s.URL + "/ready/status")
		if err != nil {
			t.Fatal(err)
		}
		if st, err := v.Status(t.Context()); err == nil {
			t.Errorf("%s gives %+v", what, st)
		}
		s.Close()
	}
}

func TestBadConfig(t *testing.T) {
	good := gate.Options{Server: "w1", File: "/var/lib/x.json", App: func(context.Context) error { return nil }, Check: check}
	if _, err := gate.Open(good); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(*gate.Options){
		"no server":                    func(o *gate.Options) { o.Server = "" },
		"a relative file":              func(o *gate.Options) { o.File = "x.json" },
		"one file for both":            func(o *gate.Options) { o.HoldFile = o.File },
		"a strange path":               func(o *gate.Options) { o.Path = "ready" },
		"the root as path":             func(o *gate.Options) { o.Path = "/" },
		"a friendly refusal":           func(o *gate.Options) { o.Refusal = 200 },
		"no app":                       func(o *gate.Options) { o.App = nil },
		"no check":                     func(o *gate.Options) { o.Check = lbclient.Timing{} },
		"an app slower than the check": func(o *gate.Options) { o.AppTimeout = check.Timeout },
		"no address range":             func(o *gate.Options) { o.Pollers = []netip.Prefix{{}} },
		"too many pollers":             func(o *gate.Options) { o.MinPollers = 1000 },
		"negative pollers":             func(o *gate.Options) { o.MinPollers = -1 },
	} {
		o := good
		f(&o)
		if _, err := gate.Open(o); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
	g, err := gate.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	fine := gate.Config{Name: "front", Server: "w1", File: good.File, Gate: g}
	for what, f := range map[string]func(*gate.Config){
		"no name":           func(c *gate.Config) { c.Name = "" },
		"no server":         func(c *gate.Config) { c.Server = "" },
		"a relative file":   func(c *gate.Config) { c.File = "x" },
		"no gate":           func(c *gate.Config) { c.Gate = nil },
		"its own peer":      func(c *gate.Config) { c.Peers = map[string]gate.Viewer{"w1": g} },
		"a peer without it": func(c *gate.Config) { c.Peers = map[string]gate.Viewer{"w2": nil} },
	} {
		c := fine
		f(&c)
		if _, err := gate.New(c); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
}
