package digitalocean_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestOurOwnGate takes a droplet of a tag through a turn with the real gate,
// checked by a balancer of two machines.
func TestOurOwnGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate, tag: "web", nodes: 2})
	check := lbclient.Timing{Interval: second, Timeout: 8 * second, Fall: 2, Rise: 2}
	file := filepath.Join(t.TempDir(), "w1")
	g, err := gate.Open(gate.Options{
		Server: "w1", File: file, Path: "/gate", Check: check, MinPollers: 2,
		App: func(context.Context) error {
			if !w.Apps["w1"].Healthy() {
				return errors.New("sick")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g)
	defer s.Close()
	w.cloud.AddDroplet(digitaloceantest.Droplet{ID: w.ids["w1"], Name: "w1", Address: "127.10.0.1", Tags: []string{"web"}, Ports: map[int]string{
		appPort: w.Apps["w1"].Address, gatePort: strings.TrimPrefix(s.URL, "http://"),
	}})
	closer, err := gate.New(gate.Config{Name: "front", Server: "w1", File: file, Gate: g, CapacityElsewhere: true})
	if err != nil {
		t.Fatal(err)
	}
	p := lbclient.Multi(w.alone("w1"), closer)
	w.Await("the gate is polled", func() bool { return p.Preflight(t.Context()) == nil })
	r := lbtest.Snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.Await("nothing new arrives", func() bool {
		st, err := p.DrainStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.DrainBusy
	})
	if w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("the balancer has not noticed")
	}
	for range 6 {
		if who, err := w.Get(); err != nil || who == "w1" {
			t.Errorf("a request went to %s, error %v", who, err)
		}
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
}
