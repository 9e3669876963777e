package lbclient_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// twins is two HAProxies before the same apps, joined by Multi.
type twins struct {
	*lbtest.Front
	t   *testing.T
	lbs [2]*haproxytest.Process
}

func newTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{Front: lbtest.NewFront(t, 3), t: t}
	be := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz"}}
	for _, n := range w.Targets() {
		be.Servers = append(be.Servers, haproxytest.Server{
			Name: n, Address: w.Apps[n].Address, Options: "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2",
		})
	}
	for i := range w.lbs {
		w.lbs[i] = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{be}})
	}
	w.URL = w.lbs[0].URL("web")
	w.Await("all serve", func() bool {
		p, err := w.Provider("w1").Observe(t.Context())
		if err != nil {
			return false
		}
		for _, m := range p.Members {
			if m.Phase != lbclient.PhaseServing {
				return false
			}
		}
		return true
	})
	return w
}

func (w *twins) Provider(target string) lbclient.Provider {
	var sides []lbclient.Provider
	for _, lb := range w.lbs {
		p, err := haproxy.New(haproxy.Config{Name: "front", Endpoints: []string{lb.Endpoint()}, Backends: []string{"web"}, Server: target})
		if err != nil {
			w.t.Fatal(err)
		}
		sides = append(sides, p)
	}
	return lbclient.Multi(sides...)
}

func (w *twins) second(line string) string {
	w.t.Helper()
	answer, err := w.lbs[1].Command(line)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func TestMultiContract(t *testing.T) {
	lbtest.Run(t, lbtest.Harness{
		New:            func(t *testing.T) lbtest.World { return newTwins(t) },
		CountsInFlight: true,
		HoldOut: func(_ *testing.T, w lbtest.World, target string) {
			w.(*twins).second("set server web/" + target + " state maint")
		},
		HeldOut: func(t *testing.T, w lbtest.World, target string) bool {
			p, err := w.Provider(target).Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range p.Members {
				if m.Name == target {
					return m.Phase == lbclient.PhaseForeignOut
				}
			}
			return false
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*twins).lbs[1].Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Readmit: func(_ *testing.T, w lbtest.World, target string) {
			w.(*twins).second("set server web/" + target + " state ready")
		},
		Cut: func(_ *testing.T, w lbtest.World) {
			for _, lb := range w.(*twins).lbs {
				lb.Stop()
			}
		},
		Restart: func(_ *testing.T, w lbtest.World, target string, while func()) {
			w.(*twins).Restart(target, while)
		},
		CountsTwice: true,
		Without: map[string]string{
			"removed":         "HAProxy loses no server without a reload, and haproxy.cfg is not ours",
			"hangs":           "each side's own deadline, which the haproxy package tests",
			"denied":          "a side's own, which the haproxy package tests",
			"answers lost":    "a side's own, which the haproxy package tests",
			"changes ignored": "a side's own, which the haproxy package tests",
		},
	})
}
