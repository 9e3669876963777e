package lbclient

import (
	"errors"
	"fmt"
	"testing"
)

func TestWorst(t *testing.T) {
	// The order that the Phase constants promise.
	order := []Phase{PhaseUnknown, PhaseAbsent, PhaseForeignOut, PhaseUnhealthy, PhasePending, PhaseDraining, PhaseServing}
	for i, worse := range order {
		for _, better := range order[i:] {
			if got := Worst(worse, better); got != worse {
				t.Errorf("Worst(%s, %s) = %s", worse, better, got)
			}
			if got := Worst(better, worse); got != worse {
				t.Errorf("Worst(%s, %s) = %s", better, worse, got)
			}
		}
	}
	if got := Worst(PhaseServing, "splendid"); got != PhaseUnknown {
		t.Errorf("a word that is no phase stands as %s, want unknown", got)
	}
}

func TestErrorSaysWhatFailedAndWhy(t *testing.T) {
	cause := errors.New("connection refused")
	err := fmt.Errorf("step drain: %w", &Error{
		Class: ClassTransient, Op: "drain web1 at lb1", Text: "is it running?", Err: cause,
	})
	if want := "step drain: cannot drain web1 at lb1: is it running?: connection refused"; err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}

func TestClassOf(t *testing.T) {
	for _, c := range []struct {
		err   error
		want  Class
		retry bool
	}{
		{errors.New("reset by peer"), ClassTransient, true},
		{&Error{Class: ClassUnsafe}, ClassUnsafe, false},
		{fmt.Errorf("x: %w", &Error{Class: ClassDenied}), ClassDenied, false},
		{errors.Join(errors.New("a"), &Error{Class: ClassAmbiguous}), ClassAmbiguous, true},
		{&Error{Class: ClassInvalid}, ClassInvalid, false},
		{&Error{Class: ClassBusy}, ClassBusy, true},
	} {
		if got := ClassOf(c.err); got != c.want || got.Retryable() != c.retry {
			t.Errorf("ClassOf(%v) = %s, retryable %t; want %s, %t", c.err, got, got.Retryable(), c.want, c.retry)
		}
	}
}
