package trigger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

	mu sync.Mutex // held while the engine is asked, so that each request sees the one before

	known string // head that was last asked for; only for look

	queued sync.Mutex
	queue  []hint
}

// hint is a delivery to take up.
type hint struct {
	delivery string // id
	sha      string // that it told of
}

func (w *watcher) add(h hint) {
	w.queued.Lock()
	w.queue = append(w.queue, h)
	w.queued.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) hints() []hint {
	w.queued.Lock()
	defer w.queued.Unlock()
	return slices.Clone(w.queue)
}

// drop takes the first n hints off the queue; only look does.
func (w *watcher) drop(n int) {
	w.queued.Lock()
	defer w.queued.Unlock()
	w.queue = slices.Delete(w.queue, 0, n)
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
	hints := w.hints()
	cause := "push"
	if len(hints) == 0 {
		cause = "found by polling"
		sha, err := w.app.Mirror.RemoteHead(ctx, w.app.Branch)
		if err != nil {
			return err
		}
		if w.known == "" && t.remembered(w.app, sha) {
			// It was asked for before this start; whatever became of it since,
			// such as a person's deploy of another commit, is to stay.
			w.known = sha
		}
		if sha == w.known {
			return nil
		}
	}
	head, err := w.head(ctx, hints)
	if err != nil {
		return err
	}
	a, err := t.ask(ctx, w, head, cause)
	if err != nil {
		return err
	}
	w.known = head.SHA
	for _, h := range hints {
		if err := t.resolve(ctx, h.delivery, w.app.Name, a); err != nil {
			return err
		}
		w.drop(1)
	}
	return nil
}

// remembered tells whether the commit was asked for before.
func (t *Trigger) remembered(a App, sha string) bool {
	s, ok := t.cfg.Engine.View(a.Name)
	return ok && s.App(a.Name).Release(rollout.ReleaseID(a.ReleaseID(sha))) != nil
}

// answer is what the engine said to a push.
type answer struct {
	rollout rollout.RolloutID // that deploys it, or
	refused string
}

// ask asks the engine to deploy the head.
func (t *Trigger) ask(ctx context.Context, w *watcher, head mirror.Commit, cause string) (answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, err := t.request(ctx, w.app, head, Automation, cause, true)
	var refused *rollout.Refused
	switch {
	case err == nil:
		return answer{rollout: r}, nil
	case !errors.As(err, &refused):
		return answer{}, err
	}
	if refused.Code == rollout.RefusedSame {
		// The push before it, the regular look, or a person was faster.
		if r := t.deploying(w.app, head.SHA); r != "" {
			return answer{rollout: r}, nil
		}
	}
	t.cfg.Log.Info("Not deployed", "app", w.app.Name, "commit", head.SHA, "reason", refused.Code, "text", refused.Text)
	return answer{refused: fmt.Sprintf("%s: %s", refused.Code, refused.Text)}, nil
}

// deploying returns the rollout under way that deploys the commit, if any.
func (t *Trigger) deploying(a App, sha string) rollout.RolloutID {
	s, ok := t.cfg.Engine.View(a.Name)
	if !ok {
		return ""
	}
	app, id := s.App(a.Name), rollout.ReleaseID(a.ReleaseID(sha))
	for _, r := range []*rollout.Rollout{app.Live, app.Waiting} {
		if r != nil && r.Release == id {
			return r.ID
		}
	}
	return ""
}

// head returns the branch's head, giving it time to contain the hinted commits.
func (w *watcher) head(ctx context.Context, hints []hint) (mirror.Commit, error) {
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

func (w *watcher) contains(ctx context.Context, head string, hints []hint) bool {
	for _, h := range hints {
		if h.sha == head {
			continue
		}
		if in, err := w.app.Mirror.IsAncestor(ctx, h.sha, head); err != nil || !in {
			return false
		}
	}
	return true
}

// progress is what became of a delivery so far.
type progress struct {
	mu       sync.Mutex
	open     map[string]bool // apps that have not answered
	rollouts []rollout.RolloutID
	reasons  []string
}

// follow queues a recorded delivery with the watchers of its apps, once. A
// repeated one may have been resolved before.
func (t *Trigger) follow(ctx context.Context, d store.Delivery, repeated bool) error {
	p := &progress{open: map[string]bool{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !t.begin(d.ID, p) {
		return nil
	}
	if repeated {
		// From here on nobody else resolves it, so what is recorded stays.
		now, _, err := t.cfg.Store.Receive(ctx, d)
		if err != nil || now.Decision != store.Accepted {
			t.end(d.ID)
			return err
		}
	}
	for _, name := range d.Apps {
		if t.watchers[name] != nil {
			p.open[name] = true
		}
	}
	if len(p.open) == 0 {
		t.end(d.ID)
		return t.cfg.Store.Resolve(ctx, d.ID, store.Ignored, "its apps are no longer configured", nil)
	}
	for name := range p.open {
		t.watchers[name].add(hint{delivery: d.ID, sha: d.After})
	}
	return nil
}

// begin claims a delivery, unless it is followed already.
func (t *Trigger) begin(id string, p *progress) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.progress[id] != nil {
		return false
	}
	t.progress[id] = p
	return true
}

func (t *Trigger) end(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.progress, id)
}

// resolve records an app's answer to a delivery, and the delivery's end once
// every app has answered. After an error it is to be called again; the answer
// is then the first one.
func (t *Trigger) resolve(ctx context.Context, id, app string, a answer) error {
	t.mu.Lock()
	p := t.progress[id]
	t.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[app] {
		delete(p.open, app)
		if a.rollout != "" {
			p.rollouts = append(p.rollouts, a.rollout)
		} else {
			p.reasons = append(p.reasons, a.refused)
		}
	}
	if len(p.open) > 0 {
		return nil
	}
	decision := store.Deployed
	if len(p.rollouts) == 0 {
		decision = store.Refused
	}
	if err := t.cfg.Store.Resolve(ctx, id, decision, strings.Join(p.reasons, "; "), p.rollouts); err != nil {
		return err
	}
	t.end(id)
	return nil
}
