package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestReasonOf(t *testing.T) {
	plain := errors.New("it broke")
	built := fault.Errorf(api.ReasonBuildFailed, "cannot build: %w", plain)
	cases := []struct {
		name string
		err  error
		want api.Reason
	}{
		{"nil", nil, ""},
		{"nil stays nil", fault.New(api.ReasonSystemd, nil), ""},
		{"direct", built, api.ReasonBuildFailed},
		{"wrapped", fmt.Errorf("app blog: %w", built), api.ReasonBuildFailed},
		{"joined", errors.Join(plain, built), api.ReasonBuildFailed},
		{"outermost wins", fault.New(api.ReasonRevoked, built), api.ReasonRevoked},
		{"no space", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, api.ReasonDiskFull},
		{"quota", fmt.Errorf("cannot write: %w", syscall.EDQUOT), api.ReasonDiskFull},
		{"said reason beats the errno", fault.New(api.ReasonFetchFailed, syscall.ENOSPC), api.ReasonFetchFailed},
		{"anything else", plain, api.ReasonInternal},
	}
	for _, c := range cases {
		if got := fault.ReasonOf(c.err); got != c.want {
			t.Errorf("%s: ReasonOf = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTheSentenceIsUntouched(t *testing.T) {
	cause := errors.New("exit status 2")
	err := fault.Errorf(api.ReasonBuildFailed, "cannot run %q: %w", "make", cause)
	if got, want := err.Error(), `cannot run "make": exit status 2`; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}
