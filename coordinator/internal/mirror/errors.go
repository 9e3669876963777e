package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// Errors that callers branch on.
var (
	ErrUnknownRef    = errors.New("no such branch, tag, or commit")
	ErrAmbiguous     = errors.New("the name is ambiguous")
	ErrUnknownCommit = errors.New("unknown commit")
)

// Kinds of [RemoteError], for errors.Is.
var (
	ErrUnreachable  = errors.New("the remote cannot be reached")
	ErrDenied       = errors.New("access denied")
	ErrNoRepository = errors.New("there is no such repository")
	ErrNoBranch     = fmt.Errorf("there is no such branch: %w", ErrUnknownRef)
)

// RemoteError tells why a remote could not be read. It names the remote without
// its credentials, the cause, and the remedy.
type RemoteError struct {
	Remote string
	// Kind is one of the kinds above, the context's error when that ended, or
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
func (r remote) explain(ctx context.Context, err error) error {
	var done *RemoteError
	var d *damage
	if errors.As(err, &done) || errors.As(err, &d) {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return &RemoteError{Remote: r.String(), Kind: context.Canceled, text: fmt.Sprintf("cannot read %s: %s", r, clean(context.Cause(ctx).Error()))}
	}
	if ctx.Err() != nil {
		// The library says what was cut short, the context why.
		err = context.Cause(ctx)
	}
	remedy, kind := r.classify(err)
	text := fmt.Sprintf("cannot read %s: ", r)
	cause := r.hide(err.Error())
	if kind != nil {
		text += kind.Error() + ": "
	}
	text += cause
	if remedy != "" {
		text += "; " + remedy
	}
	return &RemoteError{Remote: r.String(), Kind: kind, text: text}
}

// classify tells what an error of a transport means and what to do about it.
func (r remote) classify(err error) (remedy string, kind error) {
	text := err.Error()
	contains := func(phrases ...string) bool {
		return slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(text, p) })
	}
	var network net.Error
	var op *net.OpError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "install git: a repository on this machine is read through it", nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free some disk space", nil
	// Only text tells these: of git itself, of x/crypto/ssh, and of knownhosts.
	case contains("dubious ownership"):
		return "let the coordinator's user own it, or trust it: git config --system --add safe.directory <path>", ErrDenied
	case contains("knownhosts:", "known hosts"):
		return "put the host's key into the known_hosts file of the coordinator's user", ErrDenied
	case contains("unable to authenticate", "no ssh key", "cannot use the ssh key", "SSH agent"):
		return "give the coordinator's user a key that may read the repository (~/.ssh/id_ed25519)", ErrDenied
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return "check the URL in fleet.yaml, and give credentials that may read it or an ssh URL with a deploy key; " +
			"hosts answer the same for a private repository and for none", ErrDenied
	case errors.Is(err, transport.ErrRepositoryNotFound), contains("access denied or repository not exported"):
		return "check the URL in fleet.yaml, and that the coordinator may read it", ErrNoRepository
	case errors.As(err, &network), errors.As(err, &op), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		contains("connection refused", "connection reset", "broken pipe", "EOF", "status code: 5"):
		return "check the address, the network, and that the remote is up", ErrUnreachable
	}
	return "", nil
}

// noBranch names the branches that there are.
func (r remote) noBranch(branch string, refs map[string]plumbing.Hash) error {
	const most = 10
	var names []string
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if b, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			names = append(names, clean(b))
		}
	}
	there := "it has no branches: push one"
	if n := len(names); n > most {
		there = fmt.Sprintf("its %d branches begin with %s", n, strings.Join(names[:most], ", "))
	} else if n > 0 {
		there = "its branches are " + strings.Join(names, ", ")
	}
	return &RemoteError{Remote: r.String(), Kind: ErrNoBranch, text: fmt.Sprintf(
		"cannot find the branch %q in %s: %s; push it, or correct the branch in fleet.yaml", clean(branch), r, there)}
}

// damage is an error of the local copy that fetching it anew mends.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }
