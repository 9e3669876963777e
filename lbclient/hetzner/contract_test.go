package hetzner_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func harness(o options) lbtest.Harness {
	h := lbtest.Harness{
		New: func(t *testing.T) lbtest.World { return newWorld(t, o) },
		Cut: func(_ *testing.T, w lbtest.World) { w.(*world).cloud.Cut() },
		Hang: func(_ *testing.T, w lbtest.World) {
			w.(*world).cloud.Inject(hetznertest.Fault{Delay: time.Hour})
		},
		Deny: func(_ *testing.T, w lbtest.World) { w.(*world).cloud.Revoke() },
		Restart: func(_ *testing.T, w lbtest.World, target string, while func()) {
			w.(*world).Restart(target, while)
		},
		Without: map[string]string{
			"in flight":    "Hetzner counts nothing of one target",
			"force":        "Hetzner cannot end what is in flight",
			"another hand": "Hetzner knows neither maintenance nor weights: a server is a target or it is not",
			"forgets":      "membership is Hetzner's own lasting state",
		},
	}
	if o.mode == hetzner.ModeGate {
		h.Remove = func(_ *testing.T, w lbtest.World, target string) { w.(*world).take(target) }
		h.Without["all at once"] = "nothing is changed at Hetzner; the gates are counted by who serialises the drains"
		h.Without["readmitted"] = "the gate keeps a target out whoever adds it"
		h.Without["answers lost"] = "nothing is changed at Hetzner"
		h.Without["changes ignored"] = "nothing is changed at Hetzner"
		return h
	}
	h.CountsTwice = true
	h.Without["removed"] = "a target that another hand removed stands as one that an earlier process of ours removed"
	h.Readmit = func(_ *testing.T, w lbtest.World, target string) {
		v := w.(*world)
		v.cloud.SetTargets(v.lb, append(v.cloud.Targets(v.lb), v.target(target))...)
	}
	h.LoseAnswers = func(_ *testing.T, w lbtest.World) func() {
		w.(*world).cloud.Inject(hetznertest.Fault{Method: http.MethodPost, Lose: true})
		return w.(*world).cloud.Recover
	}
	h.Ignore = func(_ *testing.T, w lbtest.World) func() {
		w.(*world).cloud.Inject(hetznertest.Fault{Method: http.MethodPost, Action: hetznertest.OutcomeNoEffect})
		return w.(*world).cloud.Recover
	}
	return h
}

// take removes a target as another hand would.
func (w *world) take(name string) {
	if w.opt.kind == bySelector {
		w.cloud.SetLabels(w.ids[name], map[string]string{"env": "test"})
		return
	}
	w.cloud.SetTargets(w.lb, slices.DeleteFunc(w.cloud.Targets(w.lb), func(t hetznertest.Target) bool {
		return t == w.target(name)
	})...)
}

func TestContract(t *testing.T) {
	for name, o := range map[string]options{
		"remove private servers": {kind: byPrivateServer, mode: hetzner.ModeRemove},
		"remove addresses":       {kind: byIP, mode: hetzner.ModeRemove},
		"gate before a selector": {kind: bySelector, mode: hetzner.ModeGate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lbtest.Run(t, harness(o))
		})
	}
}

// TestContractOfASlowCloud has actions that take long, show at once, and that
// the machines follow late.
func TestContractOfASlowCloud(t *testing.T) {
	t.Parallel()
	o := options{kind: byServer, mode: hetzner.ModeRemove}
	o.ActionTime, o.DataPlaneLag, o.CutOnRemove, o.ListAtOnce = 80*time.Millisecond, 20*time.Millisecond, true, true
	h := harness(o)
	h.Restart = nil
	h.Without["rolling restart"] = "it needs evidence from the node that nothing new arrives; here the machines follow late"
	lbtest.Run(t, h)
}
