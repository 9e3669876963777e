package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	backoffMin = 200 * time.Millisecond
	backoffMax = 5 * time.Second
	// pushTimeout bounds a sync that the coordinator answers at once, and what a
	// held one may take beyond [api.LongPoll].
	pushTimeout = 10 * time.Second
)

// sync reports and takes assignments until the agent is stopping. A report that
// has news is sent at once and not held; only without news does the agent wait
// at the coordinator.
func (a *Agent) sync() {
	var seq uint64
	backoff := backoffMin
	lastError := ""
	push := true // the first report says what the agent found
	for a.stop.Err() == nil {
		select {
		case <-a.news:
			push = true
		default:
		}
		seq++
		begun := time.Now()
		resp, err, interrupted := a.call(api.SyncRequest{
			Node: a.cfg.Name, Version: a.deps.Version,
			Instance: a.identity.Instance, Epoch: a.identity.Epoch, Seq: seq,
			Wait: !push, Apps: a.report(), Sandbox: a.sandboxReport(),
		})
		if interrupted {
			push = true
			continue
		}
		brought := false
		if err == nil {
			brought, err = a.accept(resp)
		}
		if a.stop.Err() != nil {
			return
		}
		if err != nil {
			// Said once, not every five seconds.
			if text := err.Error(); text != lastError {
				a.deps.Log.Warn("cannot sync with the coordinator; work goes on without it", "error", err)
				lastError = text
			}
			rest(a.stop, jitter(backoff))
			backoff = min(backoff*2, backoffMax)
			push = true
			continue
		}
		if lastError != "" {
			a.deps.Log.Info("in sync with the coordinator again")
			lastError = ""
		}
		backoff = backoffMin
		// One that answers at once, with nothing new, does not hold or repeats
		// what is not accepted: then not more often than this.
		if !push && !brought && time.Since(begun) < backoffMin {
			rest(a.stop, backoffMin-time.Since(begun))
		}
		push = false
	}
}

// call does one sync. A held one is interrupted by news.
func (a *Agent) call(rq api.SyncRequest) (resp api.SyncResponse, err error, interrupted bool) {
	timeout := pushTimeout
	if rq.Wait {
		timeout += api.LongPoll
	}
	ctx, cancel := context.WithTimeout(a.stop, timeout)
	defer cancel()
	if !rq.Wait {
		resp, err = a.deps.Coordinator.Sync(ctx, rq)
		return resp, err, false
	}
	answered, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-a.news:
			interrupted = true
			cancel()
		case <-answered:
		}
	}()
	resp, err = a.deps.Coordinator.Sync(ctx, rq)
	close(answered)
	<-watched
	if interrupted && err == nil {
		// It was answered all the same.
		wake(a.news)
		interrupted = false
	}
	return resp, err, interrupted
}

// rest waits for d, or until ctx is done.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// accept takes the node's assignments, the complete set, and tells whether they
// brought anything new.
func (a *Agent) accept(resp api.SyncResponse) (brought bool, err error) {
	var errs []error
	named := map[string]bool{}
	for _, as := range resp.Assignments {
		named[as.App] = true
		p, err := a.app(as.App)
		if err == nil {
			var news bool
			news, err = p.accept(as)
			brought = brought || news
		}
		errs = append(errs, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, p := range a.apps {
		if !named[name] {
			errs = append(errs, p.absent())
		}
	}
	return brought, errors.Join(errs...)
}

// report is every app that the coordinator may have something to say about.
func (a *Agent) report() []api.AppReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []api.AppReport{}
	for _, p := range a.apps {
		if r, ok := p.report(); ok {
			out = append(out, r)
		}
	}
	return out
}

// app returns the app by that name, beginning to work on it if it is new.
func (a *Agent) app(name string) (*app, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.apps[name]; p != nil {
		return p, nil
	}
	p, err := a.openApp(name)
	if err != nil {
		return nil, err
	}
	a.apps[name] = p
	p.start()
	return p, nil
}
