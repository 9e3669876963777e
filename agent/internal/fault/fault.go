// Package fault carries the typed causes of what an agent could not do.
//
// Whoever knows the cause attaches an [api.Reason] where the error arises; the
// layers above wrap the error as usual and the reconcile loop reads the reason
// back with [ReasonOf]. The sentence is for people and is never parsed.
package fault

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Error is an error together with its typed reason.
type Error struct {
	Reason api.Reason
	Err    error
}

// Error returns the sentence of the wrapped error, without the reason.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// New attaches reason r to err. It returns nil when err is nil.
func New(r api.Reason, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Reason: r, Err: err}
}

// Errorf formats an error as [fmt.Errorf] does (%w included) and attaches r.
func Errorf(r api.Reason, format string, a ...any) error {
	return &Error{Reason: r, Err: fmt.Errorf(format, a...)}
}

// ReasonOf returns the reason of the outermost [Error] in err's chain. Without
// one, a full disk or an exhausted quota (ENOSPC, EDQUOT) is
// [api.ReasonDiskFull] and anything else [api.ReasonInternal]. The reason of a
// nil error is empty.
func ReasonOf(err error) api.Reason {
	if err == nil {
		return ""
	}
	var f *Error
	if errors.As(err, &f) {
		return f.Reason
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return api.ReasonDiskFull
	}
	return api.ReasonInternal
}
