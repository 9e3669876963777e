package storetest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

func testLoad(t *testing.T, s store.Store) {
	if _, _, err := s.Load(t.Context(), "web"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Load before the first commit: %v, expected ErrNotFound", err)
	}
	mustCommit(t, s, commitOf("web", 0))
	mustCommit(t, s, commitOf("web", 1))
	mustCommit(t, s, commitOf("db", 0))
	if names, err := s.Pools(t.Context()); err != nil || !slices.Equal(names, []string{"db", "web"}) {
		t.Errorf("Pools: %q, %v", names, err)
	}
	for pool, version := range map[string]int64{"web": 2, "db": 1} {
		got, v, err := s.Load(t.Context(), pool)
		if err != nil || v != version {
			t.Fatalf("Load(%s): version %d, %v; expected %d", pool, v, err, version)
		}
		equal(t, "the state of "+pool, got, poolState(pool, version))
	}

	local := commitOf("web", 2)
	local.State.Now = local.State.Now.In(zone)
	local.State.Apps[0].Live.Created = noon.In(zone)
	mustCommit(t, s, local)
	got, _, err := s.Load(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the state given in another zone", got, poolState("web", 3))
}

func testConflict(t *testing.T, s store.Store) {
	mustCommit(t, s, commitOf("web", 0))
	mustCommit(t, s, commitOf("web", 1))
	for _, version := range []int64{0, 1, 3, -1} {
		c := commitOf("web", version, changed("blog-9", "blog", noon, rollout.Rolling), noted("blog-9", noon, "no"))
		if v, err := s.Commit(t.Context(), c); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Commit from version %d of 2: %d, %v; expected ErrConflict", version, v, err)
		}
	}
	if _, err := s.Commit(t.Context(), commitOf("new", 1)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Commit from version 1 of a pool that is not there: %v; expected ErrConflict", err)
	}
	if _, _, err := s.Load(t.Context(), "new"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a refused commit made a pool: %v", err)
	}
	got, v, err := s.Load(t.Context(), "web")
	if err != nil || v != 2 {
		t.Fatalf("version %d, %v; expected 2", v, err)
	}
	equal(t, "the state", got, poolState("web", 2))
	if _, err := s.Rollout(t.Context(), "blog-9"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a refused commit recorded a rollout: %v", err)
	}
	if lines := must(s.Timeline(t.Context(), "blog-9", 0, 0))(t); len(lines) > 0 {
		t.Errorf("a refused commit wrote the timeline: %v", lines)
	}
}

func testRace(t *testing.T, s store.Store) {
	const writers, rounds = 4, 10
	var won atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			var version int64
			for range rounds {
				_, err := s.Commit(t.Context(), commitOf("web", version, noted("blog-1", noon, "step")))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
				_, v, err := s.Load(t.Context(), "web")
				if err != nil {
					t.Error(err)
					return
				}
				version = v
			}
		})
	}
	wg.Wait()
	_, v, err := s.Load(t.Context(), "web")
	if err != nil || v != won.Load() || v == 0 {
		t.Errorf("%d commits won, but the version is %d, %v", won.Load(), v, err)
	}
	if lines := must(s.Timeline(t.Context(), "blog-1", 0, 0))(t); int64(len(lines)) != v {
		t.Errorf("%d commits won, but the timeline has %d lines", v, len(lines))
	}
}

func testWhole(t *testing.T, s store.Store) {
	noPool := commitOf("", 0, changed("blog-9", "blog", noon, rollout.Rolling))
	noEvent := commitOf("web", 0, changed("blog-9", "blog", noon, rollout.Rolling))
	noEvent.Event = nil
	noForm := commitOf("web", 0, changed("blog-9", "blog", noon, rollout.Rolling))
	noForm.State.Now = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // has no JSON form
	for what, c := range map[string]store.Commit{"no pool": noPool, "no event": noEvent, "no JSON form": noForm} {
		if _, err := s.Commit(t.Context(), c); err == nil {
			t.Errorf("a commit with %s was stored", what)
		}
	}
	if _, err := s.Rollout(t.Context(), "blog-9"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a commit that failed recorded a rollout: %v", err)
	}
	mustCommit(t, s, commitOf("web", 0))
}

func testRollouts(t *testing.T, s store.Store) {
	first := changed("blog-1", "blog", noon, rollout.Succeeded)
	second := changed("blog-2", "blog", noon.Add(time.Hour), rollout.Failed)
	// Requested in the same instant as the second, after it.
	third := changed("blog-3", "blog", noon.Add(time.Hour), rollout.Rolling)
	local := third
	local.Rollout.Created = local.Rollout.Created.In(zone)
	mustCommit(t, s, commitOf("web", 0, changed("blog-1", "blog", noon, rollout.Rolling), changed("shop-1", "shop", noon, rollout.Rolling)))
	mustCommit(t, s, commitOf("web", 1, second, local))
	mustCommit(t, s, commitOf("web", 2, first)) // its last change comes after
	equal(t, "the rollouts", must(s.Rollouts(t.Context(), "blog", 10))(t), []rollout.Changed{third, second, first})
	equal(t, "the newest two", must(s.Rollouts(t.Context(), "blog", 2))(t), []rollout.Changed{third, second})
	equal(t, "with no limit given", len(must(s.Rollouts(t.Context(), "blog", 0))(t)), 3)
	equal(t, "the rollouts of an app that has none", len(must(s.Rollouts(t.Context(), "wiki", 0))(t)), 0)
	equal(t, "blog-1", must(s.Rollout(t.Context(), "blog-1"))(t), first)
	if _, err := s.Rollout(t.Context(), "blog-4"); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "blog-4") {
		t.Errorf("Rollout(blog-4): %v; expected ErrNotFound with its name", err)
	}
}

func testTimeline(t *testing.T, s store.Store) {
	a, b := noted("blog-1", noon, "a"), noted("blog-1", noon, "b")
	c := noted("blog-1", noon.Add(-time.Hour), "c") // order is that of storing
	other, app := noted("blog-2", noon, "other"), noted("", noon, "of the app")
	mustCommit(t, s, commitOf("web", 0, a, other, b))
	mustCommit(t, s, commitOf("web", 1, app, c))

	lines := must(s.Timeline(t.Context(), "blog-1", 0, 0))(t)
	if len(lines) != 3 {
		t.Fatalf("%d lines, expected 3: %v", len(lines), lines)
	}
	for i, want := range []rollout.Noted{a, b, c} {
		equal(t, "a line", lines[i].Noted, want)
		if i > 0 && lines[i].Number <= lines[i-1].Number {
			t.Errorf("line %d has number %d after %d", i, lines[i].Number, lines[i-1].Number)
		}
	}
	equal(t, "one line", must(s.Timeline(t.Context(), "blog-1", 0, 1))(t), lines[:1])
	equal(t, "what follows it", must(s.Timeline(t.Context(), "blog-1", lines[0].Number, 0))(t), lines[1:])
	equal(t, "what follows the last", len(must(s.Timeline(t.Context(), "blog-1", lines[2].Number, 0))(t)), 0)
	if of := must(s.Timeline(t.Context(), "blog-2", 0, 0))(t); len(of) != 1 || of[0].Number == lines[0].Number {
		t.Errorf("numbers do not rise over all rollouts: %v beside %v", of, lines)
	}
}
