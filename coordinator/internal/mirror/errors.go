package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Errors that callers branch on.
var (
	ErrUnknownRef    = errors.New("no such branch, tag, or commit")
	ErrAmbiguous     = errors.New("the name is ambiguous")
	ErrUnknownCommit = errors.New("unknown commit")
	// ErrNoBranch is a kind of [RemoteError].
	ErrNoBranch = fmt.Errorf("there is no such branch: %w", ErrUnknownRef)
)

// RemoteError tells why a remote could not be read. It names the remote without
// its credentials, the cause, and the remedy.
type RemoteError struct {
	Remote string
	// Kind is [ErrNoBranch], one of package gitremote, the context's error, or
	// nil for what is none of them.
	Kind error
	text string
}

func (e *RemoteError) Error() string { return e.text }

// Unwrap returns the kind. The error of the library is not wrapped: its text may
// hold credentials.
func (e *RemoteError) Unwrap() error { return e.Kind }

func tooLong(d fmt.Stringer) error {
	return fmt.Errorf("no complete answer within %s: %w", d, context.DeadlineExceeded)
}

// explain renders an error of a transport.
func (m *Mirror) explain(ctx context.Context, err error) error {
	var done *RemoteError
	var d *damage
	if errors.As(err, &done) || errors.As(err, &d) {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return &RemoteError{Remote: m.remote.String(), Kind: context.Canceled, text: fmt.Sprintf("cannot read %s: %s", m.remote, m.remote.Clean(context.Cause(ctx).Error()))}
	}
	if ctx.Err() != nil {
		// The library says what was cut short, the context why.
		err = context.Cause(ctx)
	}
	f := m.remote.Diagnose(err)
	text := fmt.Sprintf("cannot read %s: %s", m.remote, m.remote.Clean(f.Error()))
	if f.Remedy != "" {
		text += "; " + f.Remedy
	}
	return &RemoteError{Remote: m.remote.String(), Kind: f.Kind, text: text}
}

// noBranch names the branches that there are.
func (m *Mirror) noBranch(branch string, refs map[string]plumbing.Hash) error {
	const most = 10
	var names []string
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if b, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			names = append(names, gitremote.Clean(b))
		}
	}
	there := "it has no branches: push one"
	if n := len(names); n > most {
		there = fmt.Sprintf("its %d branches begin with %s", n, strings.Join(names[:most], ", "))
	} else if n > 0 {
		there = "its branches are " + strings.Join(names, ", ")
	}
	return &RemoteError{Remote: m.remote.String(), Kind: ErrNoBranch, text: fmt.Sprintf(
		"cannot find the branch %q in %s: %s; push it, or correct the branch in fleet.yaml", gitremote.Clean(branch), m.remote, there)}
}

// damage is an error of the local copy that fetching it anew mends.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }
