package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// lostLimit is how long a coordinator may be silent before following gives up,
// so that an unattended job ends.
const lostLimit = 10 * time.Minute

// view shows a rollout as it goes on. One goroutine calls it.
type view interface {
	// refresh is how long a call for news may be held.
	refresh() time.Duration
	news(api.EventPage) error
	// lost tells that the coordinator does not answer, and nil that it does again.
	lost(error)
	tick()
}

// followFlags are the flags of every command that may wait for a rollout.
type followFlags struct {
	noWait  bool
	timeout time.Duration
}

func (f *followFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "return once the request is accepted")
	f.addTimeout(cmd)
}

func (f *followFlags) addTimeout(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "stop watching after `DURATION` such as 30m; the rollout goes on (0: never)")
}

// follow shows the rollout in v until it is over, and returns it as it ended.
func (c *cli) follow(ctx context.Context, cl *api.Client, id string, timeout time.Duration, v view) (api.Rollout, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	pollCtx, stop := context.WithCancel(ctx)
	reports := make(chan report)
	go func() {
		defer close(reports)
		c.poll(pollCtx, cl, id, v.refresh(), reports)
	}()
	defer func() {
		stop()
		for range reports { // until the poller has ended
		}
	}()
	ticker := time.NewTicker(c.tick)
	defer ticker.Stop()

	var last api.Rollout
	for {
		select {
		case <-ctx.Done():
			return last, detached(ctx, id, timeout, "deployctl show --follow "+id)
		case <-ticker.C:
			v.tick()
		case r, open := <-reports:
			switch {
			case !open:
				if ctx.Err() != nil {
					return last, detached(ctx, id, timeout, "deployctl show --follow "+id)
				}
				return last, nil
			case r.page != nil:
				last = r.page.Rollout
				if err := v.news(*r.page); err != nil {
					return last, err
				}
			case r.final:
				return last, r.err
			default:
				v.lost(r.err)
			}
		}
	}
}

// report is what the poller found: a page, or an error that ends it (final),
// or the loss of the coordinator (err) or its return (nothing).
type report struct {
	page  *api.EventPage
	err   error
	final bool
}

// poll asks for news until the rollout is over or ctx ends.
func (c *cli) poll(ctx context.Context, cl *api.Client, id string, wait time.Duration, out chan<- report) {
	send := func(r report) bool {
		select {
		case out <- r:
			return true
		case <-ctx.Done():
			return false
		}
	}
	after, state := int64(0), ""
	first := true
	over := false
	for {
		// The first page and what may still come after the end are not waited for.
		held := wait
		if first || over {
			held = 0
		}
		var page api.EventPage
		asked := c.now()
		err := c.persist(ctx, func(err error) { send(report{err: err}) }, func() (err error) {
			page, err = cl.News(ctx, id, after, state, held)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			send(report{err: err, final: true})
			return
		}
		if !send(report{page: &page}) {
			return
		}
		for _, e := range page.Events {
			after = max(after, e.Number)
		}
		same := page.State == state
		over, state = page.Rollout.Done, page.State
		if over && len(page.Events) == 0 {
			return
		}
		// One that does not hold calls must not be asked without a pause.
		if !first && !over && same && len(page.Events) == 0 && c.now().Sub(asked) < held/2 {
			if !sleep(ctx, c.retryPause) {
				return
			}
		}
		first = false
	}
}

// persist repeats call while the coordinator is away, telling lost about it
// once, and lost(nil) when it is back.
func (c *cli) persist(ctx context.Context, lost func(error), call func() error) error {
	var since time.Time
	pause := c.retryPause
	for {
		err := call()
		switch {
		case err == nil:
			if !since.IsZero() {
				lost(nil)
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !passing(err):
			return err
		case since.IsZero():
			since = c.now()
			lost(err)
		case c.now().Sub(since) > lostLimit:
			return fmt.Errorf("gave up after %s without an answer: %w", lostLimit, err)
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, 10*c.retryPause)
	}
}

// passing tells whether err looks like a coordinator that is being restarted.
func passing(err error) bool {
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return false
	}
	var unreachable *api.UnreachableError
	if errors.As(err, &unreachable) {
		return true
	}
	var refused *api.Error
	if errors.As(err, &refused) {
		return refused.Kind == api.ErrorUnavailable || refused.Kind == api.ErrorInternal
	}
	var odd *api.AnswerError // of a proxy before it
	return errors.As(err, &odd) && (odd.Status >= 500 || odd.Status == http.StatusTooManyRequests)
}

// sleep waits for d and tells whether ctx is still live.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// detached is the error for a rollout that is no longer watched.
func detached(ctx context.Context, id string, timeout time.Duration, again string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &codeError{exitNotThere, fmt.Sprintf("%s is not over after %s; it goes on. Follow it with: %s", id, timeout, again)}
	}
	return &codeError{exitDetached, "detached; the rollout goes on. Follow it with: " + again}
}
