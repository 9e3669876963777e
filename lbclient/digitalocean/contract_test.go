package digitalocean_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func harness(o options) lbtest.Harness {
	h := lbtest.Harness{
		New: func(t *testing.T) lbtest.World { return newWorld(t, o) },
		Cut: func(_ *testing.T, w lbtest.World) { w.(*world).cloud.Cut() },
		Hang: func(_ *testing.T, w lbtest.World) {
			w.(*world).cloud.Inject(digitaloceantest.Fault{Hang: true})
		},
		Deny: func(_ *testing.T, w lbtest.World) { w.(*world).cloud.Revoke() },
		Restart: func(_ *testing.T, w lbtest.World, target string, while func()) {
			w.(*world).Restart(target, while)
		},
		Without: map[string]string{
			"in flight":    "DigitalOcean counts nothing in flight",
			"force":        "DigitalOcean cannot end what is in flight",
			"all at once":  "a droplet that is put back is down until its check has passed, so only who serialises the changes can keep two from leaving",
			"another hand": "DigitalOcean knows neither maintenance nor weights: a droplet is a member or it is not",
			"forgets":      "membership is DigitalOcean's own lasting state",
		},
	}
	if o.mode == digitalocean.ModeGate {
		h.Remove = func(_ *testing.T, w lbtest.World, target string) { w.(*world).take(target) }
		h.Without["readmitted"] = "the gate keeps a droplet out whoever adds it"
		h.Without["answers lost"] = "nothing is changed at DigitalOcean"
		h.Without["changes ignored"] = "nothing is changed at DigitalOcean"
		return h
	}
	h.Without["removed"] = "a droplet that another hand removed stands as one that an earlier process of ours removed"
	h.Readmit = func(_ *testing.T, w lbtest.World, target string) {
		c, lb, id := w.(*world).cloud, w.(*world).lb, w.(*world).ids[target]
		c.SetMembers(lb, append(c.Members(lb), id)...)
	}
	h.LoseAnswers = func(_ *testing.T, w lbtest.World) func() {
		return w.(*world).writes(digitaloceantest.Fault{Lose: true})
	}
	h.Ignore = func(_ *testing.T, w lbtest.World) func() {
		return w.(*world).writes(digitaloceantest.Fault{Ignore: true})
	}
	return h
}

// writes makes a fault befall every change.
func (w *world) writes(f digitaloceantest.Fault) (mend func()) {
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		f.Method = method
		w.cloud.Inject(f)
	}
	return w.cloud.Heal
}

// take removes a target as another hand would.
func (w *world) take(target string) {
	id := w.ids[target]
	w.cloud.SetMembers(w.lb, slices.DeleteFunc(w.cloud.Members(w.lb), func(n int) bool { return n == id })...)
}

func TestContractRemove(t *testing.T) {
	t.Parallel()
	lbtest.Run(t, harness(options{mode: digitalocean.ModeRemove}))
}

func TestContractGate(t *testing.T) {
	t.Parallel()
	lbtest.Run(t, harness(options{mode: digitalocean.ModeGate}))
}
