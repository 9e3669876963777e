package source

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// ErrUnknownCommit tells that the remote does not have the commit.
var ErrUnknownCommit = errors.New("the remote does not have the commit")

// classify adds to an error of a conversation what it means, unless it is this
// machine's.
func classify(err error) error {
	if localFault(err) {
		return err
	}
	return gitremote.Diagnose(err)
}

// explain renders why a fetch failed and what to do about it.
func (r *Repo) explain(ctx context.Context, sha string, err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	what := fmt.Sprintf("cannot fetch commit %s from %s: ", short(sha), r.remote)
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			return fault.Errorf(api.ReasonFetchFailed, "%sit took too long: %w", what, cause)
		}
		return fmt.Errorf("%scancelled: %w", what, cause)
	}
	e := &remoteError{text: what + r.remote.Clean(err.Error())}
	var failure *gitremote.Failure
	switch {
	case errors.Is(err, ErrUnknownCommit):
		e.is = ErrUnknownCommit
		e.text += "; push it, or deploy a commit that is on the remote; a forced push may have removed it"
	case localFault(err):
		e.is = errno(err)
		return e
	case errors.As(err, &failure):
		e.is = failure.Kind
		if failure.Remedy != "" {
			e.text += "; " + failure.Remedy
		}
	}
	return fault.New(api.ReasonFetchFailed, e)
}

// remoteError does not wrap what it renders, which may hold credentials.
type remoteError struct {
	text string
	is   error // may be nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
