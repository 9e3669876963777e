package activate

import (
	"context"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

const (
	// callTimeout bounds one call to the balancer or the service manager.
	callTimeout = 10 * time.Second
	// retryTimeout bounds how long a call is repeated that fails in passing.
	retryTimeout = 60 * time.Second
	// busyTimeout is that bound where the balancer itself asks for patience: a
	// cloud's lock has lasted for minutes.
	busyTimeout = 5 * time.Minute
	// forceWait is how long work that was ended by force may take to be gone, and
	// forces how often it is ended.
	forceWait = 5 * time.Second
	forces    = 2
)

// patience is how long calls are repeated that fail like err.
func patience(err error) time.Duration {
	switch lbclient.ClassOf(err) {
	case lbclient.ClassBusy, lbclient.ClassRateLimited:
		return busyTimeout
	}
	return retryTimeout
}

// call returns the context for one call. It outlives the wish to stop, so that
// what was begun is brought to an end.
func (a *activation) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.Work, callTimeout)
}

// pause waits for d and returns an error when the turn should not go on: the
// agent is stopping, or, unless it is being undone already, it was revoked.
func (a *activation) pause(d time.Duration) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.Stop.Done():
		case <-a.revokedNow():
		}
	}
	if a.Stop.Err() != nil || a.Work.Err() != nil {
		return ErrStopped
	}
	select {
	case <-a.revokedNow():
		return errRevoked
	default:
		return nil
	}
}

// sleep waits for d or until the agent is stopping.
func (a *activation) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.Stop.Done():
	}
}

// revokedNow is nil, and so never ready, while the turn is being undone.
func (a *activation) revokedNow() <-chan struct{} {
	if a.t.Undo != nil {
		return nil
	}
	return a.Revoked
}

// poller spaces looks: quick at first, since every wait is time out of
// rotation, then slower.
type poller struct{ wait, longest time.Duration }

func (p *poller) next() time.Duration {
	d := p.wait
	p.wait = min(p.wait*3/2, p.longest)
	return d
}

func quick(longest time.Duration) *poller {
	return &poller{wait: min(20*time.Millisecond, longest), longest: longest}
}
