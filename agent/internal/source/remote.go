package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Causes of a failed fetch that callers may tell apart.
var (
	ErrUnreachable   = errors.New("the remote cannot be reached")
	ErrDenied        = errors.New("the remote denies access or has no such repository")
	ErrUnknownCommit = errors.New("the remote does not have the commit")
)

// remote is where a repository is fetched from.
type remote struct {
	endpoint *transport.Endpoint
	public   string   // the URL without credentials
	secrets  []string // of the URL, in every spelling
}

// String is the URL without credentials.
func (rem remote) String() string { return rem.public }

func parseRemote(raw string) (remote, error) {
	var rem remote
	public, secrets := redact(raw)
	rem.public, rem.secrets = public, secrets
	ep, err := transport.NewEndpoint(raw)
	if err == nil {
		switch ep.Protocol {
		case "https", "http", "ssh", "git", "file":
		default:
			err = fmt.Errorf("the scheme %q is not supported", ep.Protocol)
		}
	}
	if parse := (*url.Error)(nil); errors.As(err, &parse) {
		// Where credentials end in it is anybody's guess, and the error quotes it.
		scheme, _, _ := strings.Cut(raw, "://")
		public, err = strconv.Quote(scheme+"://..."), errors.New("it is not a valid URL (a password in it needs percent-encoding)")
	}
	if err != nil {
		return rem, fault.Errorf(api.ReasonFetchFailed,
			"cannot use the repository URL %s: %s; expected one like https://host/owner/name or git@host:owner/name",
			public, rem.clean(err))
	}
	rem.endpoint = ep
	return rem, nil
}

// redact returns the URL without what could be a credential, and those. The user
// of ssh is a plain name ("git"), but the user of http may be a token.
func redact(raw string) (public string, secrets []string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw, nil // a path or user@host:path, which hold no password
	}
	host, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	var query string
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path, query = path[:i], path[i+1:]
	}
	var userinfo string
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		userinfo, host = host[:i], host[i+1:]
	}
	user, password, hasPassword := strings.Cut(userinfo, ":")
	add := func(s string) {
		plain := s
		if u, err := url.PathUnescape(s); err == nil {
			plain = u
		}
		for _, form := range []string{s, plain, url.PathEscape(plain), url.QueryEscape(plain)} {
			if form != "" {
				secrets = append(secrets, form)
			}
		}
	}
	if userinfo != "" && (hasPassword || scheme != "ssh") {
		secrets = append(secrets, userinfo+"@")
	}
	add(password)
	add(query)
	if scheme == "ssh" && user != "" {
		host = user + "@" + host
	} else if !hasPassword {
		add(user)
	}
	return scheme + "://" + host + path, secrets
}

var userinfo = regexp.MustCompile(`://[^/@\s"]*@`)

// clean is the text of err on one line, bounded, without credentials or anything
// that garbles a terminal: part of it was written by the remote.
func (rem remote) clean(err error) string {
	// Libraries hide a password but not a user, and spell both as they like.
	text := userinfo.ReplaceAllString(err.Error(), "://")
	for _, s := range rem.secrets {
		text = strings.ReplaceAll(text, s, "")
	}
	text = strings.Join(strings.Fields(plain(text)), " ")
	const most = 400
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// auth is how to log in. Credentials of the URL are used by the transports
// themselves; for ssh without an agent it is the first of the usual keys.
func (rem remote) auth() (transport.AuthMethod, error) {
	if rem.endpoint.Protocol != "ssh" || rem.endpoint.Password != "" || os.Getenv("SSH_AUTH_SOCK") != "" {
		return nil, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("%w: no ssh key: %w", ErrDenied, err)
	}
	user := rem.endpoint.User
	if user == "" {
		user = "git"
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		keys, err := ssh.NewPublicKeysFromFile(user, path, "")
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use the ssh key %s: %w", ErrDenied, path, err)
		}
		return keys, nil
	}
	return nil, fmt.Errorf("%w: there is neither an ssh agent nor a key like %s",
		ErrDenied, filepath.Join(home, ".ssh", "id_ed25519"))
}

// classify adds to an error of a transport what it means.
func classify(err error) error {
	var network net.Error
	var op *net.OpError
	var dns *net.DNSError
	text := err.Error()
	contains := func(phrases ...string) bool {
		for _, p := range phrases {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fmt.Errorf("%w: %w", ErrUnknownCommit, err)
	case errors.Is(err, transport.ErrRepositoryNotFound),
		errors.Is(err, transport.ErrAuthenticationRequired),
		errors.Is(err, transport.ErrAuthorizationFailed),
		// Only text tells these: of x/crypto/ssh, of knownhosts, of git itself.
		contains("unable to authenticate", "knownhosts:", "dubious ownership", "access denied or repository not exported"):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case localFault(err):
		return err
	case errors.As(err, &network), errors.As(err, &op), errors.As(err, &dns),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		contains("connection refused", "connection reset", "broken pipe", "unexpected EOF", "status code: 5"):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// explain renders why a fetch failed and what to do about it.
func (rem remote) explain(ctx context.Context, sha string, err error) error {
	var failed *fault.Error
	if errors.As(err, &failed) {
		return err
	}
	what := fmt.Sprintf("cannot fetch commit %s from %s: ", short(sha), rem)
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			return fault.Errorf(api.ReasonFetchFailed, "%sit took too long: %w", what, cause)
		}
		return fmt.Errorf("%scancelled: %w", what, cause)
	}
	if localFault(err) {
		return &remoteError{text: what + rem.clean(err), is: []error{errno(err)}}
	}
	e := &remoteError{text: what + rem.clean(err)}
	for kind, remedy := range map[error]string{
		ErrUnreachable:   "check the address, the network and that the remote is up",
		ErrDenied:        "check the URL in fleet.yaml and that this node's token or deploy key may read the repository",
		ErrUnknownCommit: "push it, or deploy a commit that is on the remote; a forced push may have removed it",
	} {
		if errors.Is(err, kind) {
			e.is = append(e.is, kind)
			e.text += "; " + remedy
		}
	}
	if strings.Contains(e.text, "dubious ownership") {
		e.text += " (git config --system --add safe.directory <path>)"
	}
	return fault.New(api.ReasonFetchFailed, e)
}

// remoteError does not wrap what it renders, which may hold credentials.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }
