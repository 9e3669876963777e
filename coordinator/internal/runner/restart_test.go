package runner

import (
	"testing"
	"testing/synctest"
)

// A coordinator that comes back with room for more must hear of a node before
// it lets a target of it leave: what it last knew may be hours old.
func TestNoTurnOnWhatWasKnownBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(newMemory())
		r := start(t, cfg)
		agents := []*agent{newAgent(r, "web1"), newAgent(r, "web2")}
		hear := func() {
			for range 2 {
				for _, a := range agents {
					a.sync(t, 0)
				}
			}
		}
		hear()
		if _, err := deploy(r, releaseA); err != nil {
			t.Fatal(err)
		}
		for _, a := range agents {
			a.app().Present = []string{string(releaseA)}
		}
		hear()
		if n := turns(t, r); n != 1 {
			t.Fatalf("%d turns are out before the restart, expected 1", n)
		}

		cfg.Pools[0].MaxUnavailable = 2
		r = start(t, cfg)
		if n := turns(t, r); n != 1 {
			t.Errorf("%d turns are out right after the restart, expected the 1 of before", n)
		}
	})
}

func turns(t *testing.T, r *Runner) int {
	t.Helper()
	n := 0
	for _, target := range view(t, r).Targets {
		if target.Turn != 0 {
			n++
		}
	}
	return n
}
