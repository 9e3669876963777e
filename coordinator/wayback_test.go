package coordinator

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store/sqlite"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// A balancer behind which a target has its turn cannot be taken out of the file.
func TestNoBalancerIsRemovedInMidTurn(t *testing.T) {
	s := newSite(t)
	s.commit("First")
	keep := func(turn uint64, node string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(filepath.Dir(s.config), "lockstep.db")); err != nil {
			t.Fatal(err)
		}
		st, err := sqlite.Open(t.Context(), filepath.Join(filepath.Dir(s.config), "lockstep.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		state := rollout.State{Pool: "edge", Targets: []rollout.Target{{ID: rollout.TargetName("hello", node, ""), App: "hello", Node: node, Turn: turn}}}
		if _, err := st.Commit(t.Context(), store.Commit{State: state, Event: rollout.Tick{At: time.Now().UTC()}}); err != nil {
			t.Fatal(err)
		}
	}
	keep(7, "web1")
	err := Run(t.Context(), Options{Config: s.config, Log: slog.New(slog.DiscardHandler)})
	for _, want := range []string{s.config, "no balancer edge any more", "hello@web1 has its turn", "write the balancer and its apps as they were"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, which does not say %q", err, want)
		}
	}
	// One that nobody is out of rotation at, and one whose node is gone too.
	for node, turn := range map[string]uint64{"web1": 0, "web9": 7} {
		keep(turn, node)
		if err := s.start().stop(); err != nil {
			t.Error(err)
		}
	}
}
