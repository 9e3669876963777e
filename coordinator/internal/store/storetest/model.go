package storetest

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// testModel compares the store with maps over any sequence of calls. All
// checks share one store, each with names of its own: opening one is slow.
func testModel(t *testing.T, s store.Store) {
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{s: s, prefix: name("run", run), versions: map[string]int64{}, rollouts: map[string]rollout.Changed{}, deliveries: map[string]store.Delivery{}}
		t.Repeat(map[string]func(*rapid.T){
			"commit":  m.commit,
			"receive": m.receive,
			"resolve": m.resolve,
			"check":   m.check,
		})
		m.check(t)
		for id := range m.deliveries { // so that later runs do not read them again and again
			if err := s.Resolve(background(), id, store.Ignored, "", nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

type model struct {
	s          store.Store
	prefix     string
	versions   map[string]int64
	rollouts   map[string]rollout.Changed
	lines      map[rollout.RolloutID][]string
	deliveries map[string]store.Delivery
}

func (m *model) pick(t *rapid.T, kind string) string {
	return m.prefix + "-" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, kind)
}

func (m *model) commit(t *rapid.T) {
	pool := m.pick(t, "pool")
	version := rapid.Int64Range(0, m.versions[pool]+1).Draw(t, "version")
	id := m.pick(t, "rollout")
	status := rapid.SampledFrom([]rollout.Status{rollout.Rolling, rollout.Succeeded}).Draw(t, "status")
	c := changed(rollout.RolloutID(id), m.prefix, noon, status)
	text := rapid.StringN(0, 8, -1).Draw(t, "text")
	_, err := m.s.Commit(background(), commitOf(pool, version, c, noted(c.Rollout.ID, noon, text)))
	if version != m.versions[pool] {
		if !errors.Is(err, store.ErrConflict) {
			t.Fatalf("commit from version %d of %d: %v", version, m.versions[pool], err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.versions[pool]++
	m.rollouts[id] = c
	if m.lines == nil {
		m.lines = map[rollout.RolloutID][]string{}
	}
	m.lines[c.Rollout.ID] = append(m.lines[c.Rollout.ID], text)
}

func (m *model) receive(t *rapid.T) {
	d := delivery(m.pick(t, "delivery"), noon.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "received"))*time.Second))
	d.Reason = rapid.StringN(0, 8, -1).Draw(t, "reason")
	got, duplicate, err := m.s.Receive(background(), d)
	if err != nil {
		t.Fatal(err)
	}
	before, known := m.deliveries[d.ID]
	if duplicate != known {
		t.Fatalf("%s: duplicate %v, expected %v", d.ID, duplicate, known)
	}
	if !known {
		before = d
	}
	equal(t, "the delivery", got, before)
	m.deliveries[d.ID] = before
}

func (m *model) resolve(t *rapid.T) {
	id := m.pick(t, "delivery")
	decision := rapid.SampledFrom([]store.Decision{store.Deployed, store.Refused, store.Ignored}).Draw(t, "decision")
	err := m.s.Resolve(background(), id, decision, "because", []rollout.RolloutID{"x-1"})
	d, known := m.deliveries[id]
	if !known {
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("resolve of an unknown delivery: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Decision, d.Reason, d.Rollouts = decision, "because", []rollout.RolloutID{"x-1"}
	m.deliveries[id] = d
}

func (m *model) check(t *rapid.T) {
	for pool, version := range m.versions {
		if version == 0 {
			continue
		}
		got, v, err := m.s.Load(background(), pool)
		if err != nil || v != version {
			t.Fatalf("%s is at version %d, %v; expected %d", pool, v, err, version)
		}
		equal(t, "the state", got, poolState(pool, version))
	}
	for id, want := range m.rollouts {
		equal(t, "the rollout", must(m.s.Rollout(background(), rollout.RolloutID(id)))(t), want)
	}
	for id, want := range m.lines {
		var texts []string
		for _, l := range must(m.s.Timeline(background(), id, 0, 0))(t) {
			texts = append(texts, l.Text)
		}
		equal(t, "the timeline", texts, want)
	}
	pending := map[string]bool{}
	for _, d := range must(m.s.Pending(background()))(t) {
		pending[d.ID] = true
	}
	for id, d := range m.deliveries {
		if pending[id] != (d.Decision == store.Accepted) {
			t.Fatalf("%s is %s, but pending is %v", id, d.Decision, pending[id])
		}
	}
}
