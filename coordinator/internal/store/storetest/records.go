package storetest

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

func testReleases(t *testing.T, s store.Store) {
	old := store.Release{
		ID: "a", SHA: "aa", Subject: "it's \"quoted\" é", Committed: noon.Add(-time.Hour), Recorded: noon,
		Recipe: api.Recipe{Build: []string{"make", "make install"}, Env: map[string]string{"A": "1"}, Timeout: api.Duration(time.Minute)},
	}
	undated := store.Release{ID: "b", SHA: "bb", Recorded: noon.Add(time.Second)}
	local := undated
	local.Recorded = undated.Recorded.In(zone)
	for _, r := range []store.Release{old, local} {
		if err := s.PutRelease(t.Context(), "blog", r); err != nil {
			t.Fatal(err)
		}
	}
	again := old
	again.Subject, again.Recorded = "another", noon.Add(time.Hour)
	if err := s.PutRelease(t.Context(), "blog", again); err != nil {
		t.Fatal(err)
	}
	if err := s.PutRelease(t.Context(), "shop", again); err != nil {
		t.Fatal(err)
	}
	equal(t, "all", must(s.Releases(t.Context(), "blog"))(t), []store.Release{undated, old})
	equal(t, "the named one", must(s.Releases(t.Context(), "blog", "a"))(t), []store.Release{old})
	equal(t, "a known and an unknown one", must(s.Releases(t.Context(), "blog", "zz", "b"))(t), []store.Release{undated})
	equal(t, "an unknown one", len(must(s.Releases(t.Context(), "blog", "zz"))(t)), 0)
	equal(t, "the other app's", must(s.Releases(t.Context(), "shop"))(t), []store.Release{again})

	// A commit's clock may say anything; the release must stay readable.
	odd := store.Release{ID: "c", SHA: "cc", Committed: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC), Recorded: noon.Add(time.Minute)}
	if err := s.PutRelease(t.Context(), "blog", odd); err != nil {
		t.Fatal(err)
	}
	if got := must(s.Releases(t.Context(), "blog"))(t); len(got) != 3 || got[0].ID != "c" {
		t.Errorf("releases with one of the year 12026: %v", got)
	}
}

func delivery(id string, at time.Time) store.Delivery {
	return store.Delivery{
		ID: id, Event: "push", Repository: "acme/blog", Ref: "refs/heads/main", After: "abc", Sender: "ann",
		Received: at, Apps: []string{"blog", "shop"}, Decision: store.Accepted,
	}
}

func testReceive(t *testing.T, s store.Store) {
	d := delivery("1", noon)
	local := d
	local.Received = noon.In(zone)
	got, duplicate, err := s.Receive(t.Context(), local)
	if err != nil || duplicate {
		t.Fatalf("Receive: duplicate %v, %v", duplicate, err)
	}
	equal(t, "what was received", got, d)

	if err := s.Resolve(t.Context(), "1", store.Deployed, "", []rollout.RolloutID{"blog-1"}); err != nil {
		t.Fatal(err)
	}
	d.Decision, d.Rollouts = store.Deployed, []rollout.RolloutID{"blog-1"}
	again := delivery("1", noon.Add(time.Hour))
	again.Ref = "refs/heads/other"
	got, duplicate, err = s.Receive(t.Context(), again)
	if err != nil || !duplicate {
		t.Fatalf("Receive of a redelivery: duplicate %v, %v", duplicate, err)
	}
	equal(t, "what was recorded before", got, d)

	ignored := store.Delivery{ID: "2", Event: "ping", Received: noon.Add(time.Minute), Decision: store.Ignored, Reason: "a ping"}
	if _, _, err := s.Receive(t.Context(), ignored); err != nil {
		t.Fatal(err)
	}
	equal(t, "the deliveries", must(s.Deliveries(t.Context(), 10))(t), []store.Delivery{ignored, d})
	equal(t, "the newest", must(s.Deliveries(t.Context(), 1))(t), []store.Delivery{ignored})
}

func testReceiveRace(t *testing.T, s store.Store) {
	const senders, ids = 8, 20
	var fresh atomic.Int64
	var wg sync.WaitGroup
	for sender := range senders {
		wg.Go(func() {
			for i := range ids {
				d := delivery(name("d", i), noon.Add(time.Duration(i)*time.Second))
				d.Sender = name("sender", sender)
				got, duplicate, err := s.Receive(t.Context(), d)
				switch {
				case err != nil:
					t.Error(err)
				case !duplicate && got.Sender != d.Sender:
					t.Errorf("%s: not a duplicate, but recorded from %s", d.ID, got.Sender)
				case !duplicate:
					fresh.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if fresh.Load() != ids {
		t.Errorf("%d deliveries were told that they are the first, expected %d", fresh.Load(), ids)
	}
	if n := len(must(s.Deliveries(t.Context(), 0))(t)); n != ids {
		t.Errorf("%d deliveries recorded, expected %d", n, ids)
	}
}

func testResolve(t *testing.T, s store.Store) {
	if err := s.Resolve(t.Context(), "1", store.Ignored, "", nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Resolve of an unknown delivery: %v, expected ErrNotFound", err)
	}
	newer, older := delivery("1", noon.Add(time.Hour)), delivery("2", noon)
	for _, d := range []store.Delivery{newer, older} {
		if _, _, err := s.Receive(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "pending, oldest first", must(s.Pending(t.Context()))(t), []store.Delivery{older, newer})
	if err := s.Resolve(t.Context(), "2", store.Refused, "on hold", nil); err != nil {
		t.Fatal(err)
	}
	equal(t, "pending after one was resolved", must(s.Pending(t.Context()))(t), []store.Delivery{newer})
	older.Decision, older.Reason = store.Refused, "on hold"
	equal(t, "the deliveries", must(s.Deliveries(t.Context(), 0))(t), []store.Delivery{newer, older})
}

func chunk(app string, step api.Step, number uint64, data string) api.LogChunk {
	return api.LogChunk{App: app, Rollout: "blog-1", Step: step, Number: number, At: noon, Data: data}
}

func testLogs(t *testing.T, s store.Store) {
	appendLogs := func(node string, chunks ...api.LogChunk) {
		t.Helper()
		if err := s.AppendLogs(t.Context(), node, chunks); err != nil {
			t.Fatal(err)
		}
	}
	local := chunk("blog", api.StepBuild, 1, "")
	local.At = noon.In(zone)
	appendLogs("web1", chunk("blog", api.StepFetch, 0, "fetch\n"), chunk("blog", api.StepBuild, 0, "nul\x00 é \xff\n"))
	appendLogs("web2", chunk("blog", api.StepBuild, 0, "web2\n"), chunk("blog", api.StepBuild, 0, "repeated in one call\n"))
	appendLogs("web1", chunk("blog", api.StepBuild, 0, "repeated\n"), local, chunk("blog", api.StepBuild, 1<<63, "last\n"))
	appendLogs("web1")
	other := chunk("shop", api.StepBuild, 0, "other rollout\n")
	other.Rollout = "shop-1"
	appendLogs("web1", other)

	read := func(q store.LogQuery) string {
		t.Helper()
		lines, err := s.Logs(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i, l := range lines {
			if i > 0 && l.Position <= lines[i-1].Position {
				t.Errorf("position %d after %d", l.Position, lines[i-1].Position)
			}
			b.WriteString(l.Node + "/" + l.App + "/" + string(l.Step) + ": " + l.Data + ";")
		}
		return b.String()
	}
	const fetch, build, web2, empty, last = "web1/blog/fetch: fetch\n;", "web1/blog/build: nul\x00 é \xff\n;", "web2/blog/build: web2\n;", "web1/blog/build: ;", "web1/blog/build: last\n;"
	for _, c := range []struct {
		what string
		q    store.LogQuery
		want string
	}{
		{"all", store.LogQuery{Rollout: "blog-1"}, fetch + build + web2 + empty + last},
		{"of a node", store.LogQuery{Rollout: "blog-1", Node: "web1"}, fetch + build + empty + last},
		{"of a step", store.LogQuery{Rollout: "blog-1", Step: api.StepFetch}, fetch},
		{"of a node's step", store.LogQuery{Rollout: "blog-1", Node: "web2", Step: api.StepBuild}, web2},
		{"limited", store.LogQuery{Rollout: "blog-1", Limit: 2}, fetch + build},
		{"of no rollout", store.LogQuery{Rollout: "blog-2"}, ""},
	} {
		equal(t, c.what, read(c.q), c.want)
	}
	lines := must(s.Logs(t.Context(), store.LogQuery{Rollout: "blog-1", Limit: 2}))(t)
	equal(t, "what follows", read(store.LogQuery{Rollout: "blog-1", After: lines[1].Position}), web2+empty+last)
	want := api.LogLine{Position: lines[0].Position, At: noon, Node: "web1", App: "blog", Rollout: "blog-1", Step: api.StepFetch, Data: "fetch\n"}
	equal(t, "a line", lines[0], want)

	first, second := chunk("multi", api.StepAfterDrain, 0, "one\n"), chunk("multi", api.StepAfterDrain, 1, "two\n")
	first.Rollout, second.Rollout, first.Instance, second.Instance = "multi-1", "multi-1", "8000", "8001"
	appendLogs("web1", first, second)
	var instances []string
	for _, l := range must(s.Logs(t.Context(), store.LogQuery{Rollout: "multi-1"}))(t) {
		instances = append(instances, l.Instance)
	}
	equal(t, "whose output it is", instances, []string{"8000", "8001"})
}
