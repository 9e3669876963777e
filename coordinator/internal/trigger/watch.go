package trigger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// How long to wait for a branch to show the commit that a delivery told of:
// GitHub's own replicas may lag behind its webhooks.
const (
	lagLooks = 5
	lagWait  = time.Second
)

// maxBackoff bounds the wait before an unreachable repository is tried again.
const maxBackoff = 5 * time.Minute

// watcher looks after the branch of one app.
type watcher struct {
	app  App
	wake chan struct{} // there are deliveries to take up

	mu    sync.Mutex // one request at a time, so that each sees the one before
	queue []string   // ids of deliveries to take up
	hints []string   // commits that they told of
	known string     // head that was last asked for, so that polling is cheap
}

// watch looks at the branch at start, at each delivery, and at each interval.
func (t *Trigger) watch(ctx context.Context, w *watcher) error {
	failures := 0
	for {
		err := t.look(ctx, w)
		wait := t.cfg.PollInterval
		if err != nil && ctx.Err() == nil {
			wait = min(time.Second<<min(failures, 10), maxBackoff)
			failures++
			t.cfg.Log.Error("Cannot read a branch", "app", w.app.Name, "branch", w.app.Branch, "error", err, "again_in", wait)
		} else {
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look reads the branch's head and asks the engine for it. Deliveries that
// wait for this are resolved with the answer; on an error they stay.
func (t *Trigger) look(ctx context.Context, w *watcher) error {
	w.mu.Lock()
	deliveries, hints := w.queue, w.hints
	w.mu.Unlock()
	if len(deliveries) == 0 {
		sha, err := w.app.Mirror.RemoteHead(ctx, w.app.Branch)
		if err != nil || sha == w.known {
			return err
		}
	}
	head, err := w.head(ctx, hints)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	cause := "push"
	if len(deliveries) == 0 {
		cause = "found by polling"
	}
	r, err := t.request(ctx, w.app, head, Automation, cause, true)
	var refused *rollout.Refused
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	w.known = head.SHA
	w.queue, w.hints = w.queue[len(deliveries):], w.hints[len(hints):]
	if refused != nil {
		t.cfg.Log.Info("Not deployed", "app", w.app.Name, "commit", head.SHA, "reason", refused.Code, "text", refused.Text)
	}
	for _, id := range deliveries {
		if err := t.resolve(ctx, id, w.app.Name, r.ID, refused); err != nil {
			return err
		}
	}
	return nil
}

// head returns the branch's head, giving it time to contain the hinted commits.
func (w *watcher) head(ctx context.Context, hints []string) (mirror.Commit, error) {
	for i := 0; ; i++ {
		c, err := w.app.Mirror.Head(ctx, w.app.Branch)
		if err != nil || i == lagLooks || w.contains(ctx, c.SHA, hints) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return c, context.Cause(ctx)
		case <-time.After(lagWait):
		}
	}
}

func (w *watcher) contains(ctx context.Context, head string, hints []string) bool {
	for _, sha := range hints {
		if sha == head {
			continue
		}
		if in, err := w.app.Mirror.IsAncestor(ctx, sha, head); err != nil || !in {
			return false
		}
	}
	return true
}

// progress is what became of a delivery so far.
type progress struct {
	open     map[string]bool // apps that have not answered
	rollouts []rollout.RolloutID
	reasons  []string
}

// follow queues a recorded delivery with the watchers of its apps.
func (t *Trigger) follow(ctx context.Context, d store.Delivery) error {
	p := &progress{open: map[string]bool{}}
	for _, name := range d.Apps {
		if t.watchers[name] != nil {
			p.open[name] = true
		}
	}
	if len(p.open) == 0 {
		return t.cfg.Store.Resolve(ctx, d.ID, store.Ignored, "its apps are no longer configured", nil)
	}
	concerned := slices.Sorted(maps.Keys(p.open))
	t.mu.Lock()
	t.progress[d.ID] = p
	t.mu.Unlock()
	for _, name := range concerned {
		w := t.watchers[name]
		w.mu.Lock()
		w.queue, w.hints = append(w.queue, d.ID), append(w.hints, d.After)
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// resolve records an app's answer to a delivery, and the delivery's end once
// every app has answered.
func (t *Trigger) resolve(ctx context.Context, id, app string, r rollout.RolloutID, refused *rollout.Refused) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.progress[id]
	if p == nil || !p.open[app] {
		return nil
	}
	delete(p.open, app)
	if refused != nil {
		p.reasons = append(p.reasons, fmt.Sprintf("%s: %s", refused.Code, refused.Text))
	} else {
		p.rollouts = append(p.rollouts, r)
	}
	if len(p.open) > 0 {
		return nil
	}
	delete(t.progress, id)
	decision, reason := store.Deployed, ""
	if len(p.rollouts) == 0 {
		decision = store.Refused
	}
	if len(p.reasons) > 0 {
		reason = p.reasons[0]
	}
	return t.cfg.Store.Resolve(ctx, id, decision, reason, p.rollouts)
}
