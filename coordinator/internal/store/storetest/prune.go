package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

func testPrune(t *testing.T, s store.Store) {
	day := 24 * time.Hour
	old := noon.Add(-100 * day)
	paused := changed("blog-2", "blog", old, rollout.Rolling)
	mustCommit(t, s, commitOf("web", 0,
		changed("blog-1", "blog", old, rollout.Succeeded), noted("blog-1", old, "gone"),
		paused, noted("blog-2", old, "of a live rollout"),
		changed("blog-3", "blog", noon, rollout.Succeeded), noted("blog-3", old, "of a recent rollout"),
		changed("shop-1", "shop", old, rollout.Succeeded), noted("shop-1", old, "of the app's newest"),
		noted("blog-0", old, "of a rollout long gone"), noted("blog-0", noon, "recent")))
	if err := s.PutRelease(t.Context(), "blog", store.Release{ID: "a", SHA: "aa", Recorded: old}); err != nil {
		t.Fatal(err)
	}
	for id, at := range map[string]time.Time{"old": old, "pending": old, "recent": noon} {
		if _, _, err := s.Receive(t.Context(), delivery(id, at)); err != nil {
			t.Fatal(err)
		}
		if id == "pending" {
			continue
		}
		if err := s.Resolve(t.Context(), id, store.Deployed, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []string{"blog-1", "blog-2", "blog-3", "shop-1"} {
		c := chunk("blog", api.StepBuild, 0, "out\n")
		c.Rollout = r
		if err := s.AppendLogs(t.Context(), "web1", []api.LogChunk{c}); err != nil {
			t.Fatal(err)
		}
	}

	if err := s.Prune(t.Context(), noon.Add(-90*day)); err != nil {
		t.Fatal(err)
	}
	for id, kept := range map[rollout.RolloutID]bool{"blog-1": false, "blog-2": true, "blog-3": true, "shop-1": true} {
		if _, err := s.Rollout(t.Context(), id); (err == nil) != kept {
			t.Errorf("rollout %s: %v; expected kept %v", id, err, kept)
		}
		want := 0
		if kept {
			want = 1
		}
		if n := len(must(s.Timeline(t.Context(), id, 0, 0))(t)); n != want {
			t.Errorf("the timeline of %s has %d lines, expected %d", id, n, want)
		}
	}
	if lines := must(s.Timeline(t.Context(), "blog-0", 0, 0))(t); len(lines) != 1 || lines[0].Text != "recent" {
		t.Errorf("the timeline without a rollout: %v, expected the recent line", lines)
	}
	equal(t, "the releases", len(must(s.Releases(t.Context(), "blog"))(t)), 1)
	equal(t, "the deliveries", ids(must(s.Deliveries(t.Context(), 0))(t)), []string{"recent", "pending"})
	if _, v, err := s.Load(t.Context(), "web"); err != nil || v != 1 {
		t.Errorf("the pool: version %d, %v", v, err)
	}
	mustCommit(t, s, commitOf("web", 1, noted("blog-3", noon, "goes on")))
	if lines := must(s.Timeline(t.Context(), "blog-3", 0, 0))(t); len(lines) != 2 {
		t.Errorf("the timeline does not go on after pruning: %v", lines)
	}
}

// A number that was given to a line must not be given again, or a reader who
// asks for what came after it misses the new line.
func testPruneLogs(t *testing.T, s store.Store) {
	put := func(rollout string, number uint64) {
		t.Helper()
		c := chunk("blog", api.StepBuild, number, "out\n")
		c.Rollout = rollout
		c.At = noon.Add(-1000 * time.Hour) // what the node's clock says
		if err := s.AppendLogs(t.Context(), "web1", []api.LogChunk{c}); err != nil {
			t.Fatal(err)
		}
	}
	put("gone-1", 0)
	first := must(s.Logs(t.Context(), store.LogQuery{Rollout: "gone-1"}))(t)
	if len(first) != 1 {
		t.Fatalf("%d chunks, expected 1", len(first))
	}
	if err := s.Prune(t.Context(), noon.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := must(s.Logs(t.Context(), store.LogQuery{Rollout: "gone-1"}))(t); len(got) != 1 {
		t.Errorf("what just arrived was pruned by the node's clock")
	}
	if err := s.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := must(s.Logs(t.Context(), store.LogQuery{Rollout: "gone-1"}))(t); len(got) != 0 {
		t.Errorf("old output was kept: %v", got)
	}
	put("gone-1", 1)
	if got := must(s.Logs(t.Context(), store.LogQuery{Rollout: "gone-1", After: first[0].Position}))(t); len(got) != 1 {
		t.Errorf("a position was given twice: %v", got)
	}
}

func ids(ds []store.Delivery) (ids []string) {
	for _, d := range ds {
		ids = append(ids, d.ID)
	}
	return ids
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range calls(ctx, s) {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", what, err)
		}
	}
	if n := len(must(s.Deliveries(t.Context(), 0))(t)); n != 0 {
		t.Errorf("%d deliveries were recorded by a call that was over", n)
	}
}

func testClosed(t *testing.T, s store.Store) {
	mustCommit(t, s, commitOf("web", 0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for what, call := range calls(background(), s) {
		if err := call(); !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s of a closed store: %v, expected ErrClosed", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// calls is one call of each method.
func calls(ctx context.Context, s store.Store) map[string]func() error {
	return map[string]func() error{
		"Load":     func() error { _, _, err := s.Load(ctx, "web"); return err },
		"Commit":   func() error { _, err := s.Commit(ctx, commitOf("web", 1)); return err },
		"Rollouts": func() error { _, err := s.Rollouts(ctx, "blog", 1); return err },
		"Rollout":  func() error { _, err := s.Rollout(ctx, "blog-1"); return err },
		"Timeline": func() error { _, err := s.Timeline(ctx, "blog-1", 0, 1); return err },
		"PutRelease": func() error {
			return s.PutRelease(ctx, "blog", store.Release{ID: "a", SHA: "aa", Recorded: noon})
		},
		"Releases":   func() error { _, err := s.Releases(ctx, "blog"); return err },
		"Receive":    func() error { _, _, err := s.Receive(ctx, delivery("1", noon)); return err },
		"Resolve":    func() error { return s.Resolve(ctx, "1", store.Ignored, "", nil) },
		"Pending":    func() error { _, err := s.Pending(ctx); return err },
		"Deliveries": func() error { _, err := s.Deliveries(ctx, 1); return err },
		"AppendLogs": func() error {
			return s.AppendLogs(ctx, "web1", []api.LogChunk{chunk("blog", api.StepBuild, 0, "x")})
		},
		"Logs":  func() error { _, err := s.Logs(ctx, store.LogQuery{Rollout: "blog-1"}); return err },
		"Prune": func() error { return s.Prune(ctx, noon) },
		"Ping":  func() error { return s.Ping(ctx) },
	}
}

func testPing(t *testing.T, s store.Store) {
	for range 2 {
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
