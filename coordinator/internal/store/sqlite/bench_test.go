package sqlite

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// BenchmarkReceive is how fast deliveries are recorded that arrive together.
func BenchmarkReceive(b *testing.B) {
	for _, senders := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			s := openTest(b, filepath.Join(b.TempDir(), "lockstep.db"))
			var n atomic.Int64
			b.SetParallelism(senders)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					_, _, err := s.Receive(b.Context(), store.Delivery{
						ID: fmt.Sprintf("72d3162e-cc78-11e3-81ab-%012d", i), Event: "push", Repository: "acme/blog", Ref: "refs/heads/main",
						After: "6113728f27ae82c7b1a177c8d03f9e96e0adf246", Sender: "ann", Received: time.Unix(i, 0), Apps: []string{"blog"}, Decision: store.Accepted,
					})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkCommit is how fast a pool of twenty targets steps.
func BenchmarkCommit(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "lockstep.db"))
	state := rollout.State{Pool: "web", Apps: []rollout.App{{Name: "blog", Releases: make([]rollout.Release, 100)}}}
	for i := range 20 {
		node := fmt.Sprintf("web%d", i)
		state.Nodes = append(state.Nodes, rollout.Node{Name: node, Reach: rollout.Reachable})
		state.Placements = append(state.Placements, rollout.Placement{App: "blog", Node: node, Generation: 3, Present: []rollout.ReleaseID{"0123456789ab-012345"}})
		state.Targets = append(state.Targets, rollout.Target{ID: rollout.TargetName("blog", node, ""), App: "blog", Node: node, Phase: rollout.TargetActive})
	}
	b.ReportAllocs()
	var version int64
	for b.Loop() {
		c := stepOf(version)
		state.Now = c.State.Now
		c.State = state
		var err error
		if version, err = s.Commit(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
