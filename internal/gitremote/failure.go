package gitremote

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing/transport"
)

// Kinds of [Failure], for errors.Is.
var (
	ErrUnreachable  = errors.New("the remote cannot be reached")
	ErrDenied       = errors.New("access denied")
	ErrNoRepository = errors.New("there is no such repository")
	// ErrHostKey tells that an ssh host is not the one that it was.
	ErrHostKey = errors.New("the host shows another key than is known of it")
	// ErrUnknownCommit tells that the remote does not have the commit.
	ErrUnknownCommit = errors.New("the remote does not have the commit")
)

// Failure is an error of a conversation with a remote and what it means. Its
// text may hold credentials: see [Remote.Clean].
type Failure struct {
	Kind   error  // one of the kinds above, or nil for what is none of them
	Remedy string // what to do about it, or ""
	Err    error
}

func (f *Failure) Error() string {
	if f.Kind == nil {
		return f.Err.Error()
	}
	return f.Kind.Error() + ": " + f.Err.Error()
}

// Unwrap returns the error and its kind.
func (f *Failure) Unwrap() []error { return []error{f.Kind, f.Err} }

// HungUp tells whether the remote ended while it was being asked for a pack: it may
// have refused, and gone before it had read the whole request. go-git keeps only
// the text of that, a pipe's or an ssh channel's.
func HungUp(err error) bool {
	text := err.Error()
	return strings.Contains(text, "broken pipe") || strings.Contains(text, "sending ") && strings.HasSuffix(text, ": EOF")
}

// Diagnose is [Diagnose] for a conversation with r: it knows which credentials
// were used.
func (r Remote) Diagnose(err error) *Failure {
	f := Diagnose(err)
	refused := errors.Is(err, transport.ErrAuthenticationRequired) || errors.Is(err, transport.ErrAuthorizationFailed) ||
		errors.Is(err, transport.ErrRepositoryNotFound) || strings.Contains(err.Error(), "unable to authenticate")
	if remedy := r.login.refused(); refused && remedy != "" {
		if errors.Is(f.Kind, ErrNoRepository) {
			remedy = f.Remedy + "; where it does exist, " + remedy
		}
		f.Remedy = remedy
	}
	if errors.Is(f.Kind, ErrHostKey) && r.login.KnownHosts != "" {
		f.Remedy = strings.Replace(f.Remedy, "in known_hosts", "in "+r.login.KnownHosts, 1)
	}
	return f
}

// Diagnose tells what an error of a conversation with a remote means. It knows
// nothing of other errors: an unexpected end of a local file looks to it like
// one of the conversation.
func Diagnose(err error) *Failure {
	f := &Failure{Err: err}
	text := err.Error()
	contains := func(phrases ...string) bool {
		return slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(text, p) })
	}
	var network net.Error
	var op *net.OpError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		f.Remedy = "install git: a repository on this machine is read through it"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		f.Remedy = "free some disk space"
	// Only text tells these: of git itself, of x/crypto/ssh, and of knownhosts.
	case contains("dubious ownership"):
		f.Kind = ErrDenied
		f.Remedy = "let the user of this process own it, or trust it: git config --system --add safe.directory <path>"
	case contains("knownhosts: key mismatch"):
		f.Kind = ErrHostKey
		f.Remedy = "somebody may be in between: compare the key with what the host publishes (ssh-keyscan shows it), and only then replace the line in known_hosts"
	case errors.Is(err, errCredentials):
		f.Kind = ErrDenied
		f.Remedy = "put it there, and let this process's user read it"
	case contains("knownhosts:", "known hosts", "known_hosts"):
		f.Kind = ErrDenied
		f.Remedy = "put the host's key into the known_hosts file of this process's user"
	case errors.Is(err, errKey), contains("unable to authenticate", "SSH agent"):
		f.Kind = ErrDenied
		f.Remedy = "give this process's user a key that may read the repository (~/.ssh/id_ed25519)"
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		f.Kind = ErrDenied
		f.Remedy = "check the URL in fleet.yaml, and give credentials (a token or deploy key) that may read it; " +
			"hosts answer the same for a private repository and for none"
	case errors.Is(err, transport.ErrRepositoryNotFound), contains("access denied or repository not exported"):
		f.Kind = ErrNoRepository
		f.Remedy = "check the URL in fleet.yaml, and that this machine may read it"
	case errors.As(err, &network), errors.As(err, &op), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		contains("connection refused", "connection reset", "broken pipe", "EOF", "status code: 5"):
		f.Kind = ErrUnreachable
		f.Remedy = "check the address, the network, and that the remote is up"
	}
	return f
}
