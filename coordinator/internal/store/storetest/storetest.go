// Package storetest is the contract of [store.Store] as tests, for every
// implementation alike.
package storetest

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Run runs the suite. Each call of open must return an empty store of its own,
// closed by a cleanup of its t.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"a pool is loaded as it was committed", testLoad},
		{"a commit from an old version is refused whole", testConflict},
		{"of racing commits one wins each version", testRace},
		{"a commit that cannot be stored changes nothing", testWhole},
		{"rollouts are those of the app, newest first", testRollouts},
		{"a timeline is read on from where it was left", testTimeline},
		{"a release is recorded once", testReleases},
		{"a delivery is recorded once", testReceive},
		{"of racing deliveries with one id the first stays", testReceiveRace},
		{"a delivery is pending until it is resolved", testResolve},
		{"output is kept once and in order of arrival", testLogs},
		{"pruning keeps what is needed", testPrune},
		{"output is pruned by its arrival", testPruneLogs},
		{"any sequence of calls does what a map would do", testModel},
		{"an ended context stops a call", testContext},
		{"a closed store says so", testClosed},
		{"a store that works answers a ping", testPing},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// zone is one that is not UTC, as a caller's clock may have it.
var zone = time.FixedZone("somewhere", 2*60*60)

// poolState returns a state that differs from one version to the next.
func poolState(pool string, version int64) rollout.State {
	return rollout.State{
		Pool: pool, Now: noon.Add(time.Duration(version) * time.Second), MaxUnavailable: 1, Generation: uint64(version),
		Apps: []rollout.App{{
			Name: "blog", Policy: rollout.Policy{Soak: time.Second}, Current: "abc",
			Releases: []rollout.Release{{ID: "abc", SHA: "abcdef", Subject: "é <\"> \x00", Bad: &rollout.Mark{By: "ann", At: noon}}},
			Live:     &rollout.Rollout{ID: "blog-1", App: "blog", Status: rollout.Rolling, Created: noon, Order: []rollout.TargetID{"blog@web1"}},
		}},
		Nodes:      []rollout.Node{{Name: "web1", Reach: rollout.Reachable}},
		Placements: []rollout.Placement{{App: "blog", Node: "web1", Generation: 1 << 63, Present: []rollout.ReleaseID{"abc"}}},
		Targets:    []rollout.Target{{ID: "blog@web1", App: "blog", Node: "web1", TurnBy: noon, Seen: rollout.Sighting{Known: true}}},
	}
}

// commitOf is the step of the pool from the version, with the effects.
func commitOf(pool string, version int64, effects ...rollout.Effect) store.Commit {
	s := poolState(pool, version+1)
	return store.Commit{Version: version, State: s, Event: rollout.Tick{At: s.Now}, Effects: effects}
}

func changed(id rollout.RolloutID, app string, created time.Time, status rollout.Status) rollout.Changed {
	c := rollout.Changed{
		Rollout: rollout.Rollout{ID: id, App: app, Kind: rollout.Deploy, Release: "abc", Status: status, Created: created, Order: []rollout.TargetID{"blog@web1"}},
		Targets: []rollout.Progress{{Target: "blog@web1", Node: "web1", Phase: rollout.TargetActive}},
	}
	if status.Final() {
		c.Rollout.Finished = created.Add(time.Minute)
	}
	return c
}

func noted(id rollout.RolloutID, at time.Time, text string) rollout.Noted {
	return rollout.Noted{At: at, Rollout: id, App: "blog", Target: "blog@web1", Kind: rollout.NoteTurn, Reason: "r", Text: text}
}

func mustCommit(t *testing.T, s store.Store, c store.Commit) {
	t.Helper()
	v, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if v != c.Version+1 {
		t.Fatalf("committed as version %d, expected %d", v, c.Version+1)
	}
}

// tester is what a test and a property have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// must returns v of a call that may not fail.
func must[T any](v T, err error) func(tester) T {
	return func(t tester) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func equal(t tester, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func background() context.Context { return context.Background() }

func name(kind string, i int) string { return fmt.Sprintf("%s-%d", kind, i) }
