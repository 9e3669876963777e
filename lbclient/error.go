package lbclient

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Class says what a caller may do about an error.
type Class string

// Error classes.
const (
	ClassTransient   Class = "transient"    // no answer or a passing fault: try again
	ClassBusy        Class = "busy"         // another change is under way: try again later
	ClassRateLimited Class = "rate_limited" // slow down
	ClassConflict    Class = "conflict"     // changed by another hand meanwhile: look again
	ClassAmbiguous   Class = "ambiguous"    // a write whose answer was lost: observe before anything else
	ClassNotFound    Class = "not_found"    // no such balancer, backend, or member
	ClassDenied      Class = "denied"       // credentials or permissions
	ClassUnsupported Class = "unsupported"  // this product or set-up cannot do it
	ClassUnsafe      Class = "unsafe"       // would leave too few healthy, or is held out by another hand
	ClassInvalid     Class = "invalid"      // the configuration is wrong
)

// Error is the error of every [Provider] method.
type Error struct {
	Class Class
	Op    string // "drain web1 in backend web at unix:///run/haproxy/admin.sock"
	Text  string // what happened, with the balancer's own words, and what to do
	Err   error  // cause, may be nil
	// After is how long the balancer asks to be left alone, 0 when it does not say.
	After time.Duration
}

func (e *Error) Error() string {
	s := "cannot " + e.Op
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Noted adds to an error what became of what was begun before it; without a note
// it is the error itself. Its class stays.
func Noted(err error, notes ...string) error {
	if len(notes) == 0 {
		return err
	}
	note := strings.Join(notes, "; ")
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%w; %s", err, note)
	}
	told := *e
	if told.Err != nil {
		told.Err = fmt.Errorf("%w; %s", told.Err, note)
	} else {
		told.Text += "; " + note
	}
	return &told
}

// ClassOf returns the class of the first [*Error] in err's chain, and
// [ClassTransient] for any other error.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ClassTransient
}

// AfterOf returns how long the first [*Error] in err's chain asks to wait before
// the next try, 0 when it does not say.
func AfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return max(e.After, 0)
	}
	return 0
}

// Retryable tells whether the same operation may simply be tried again.
func (c Class) Retryable() bool {
	switch c {
	case ClassTransient, ClassBusy, ClassRateLimited, ClassConflict, ClassAmbiguous:
		return true
	}
	return false
}
