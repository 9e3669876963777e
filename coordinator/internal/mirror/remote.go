package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// remote is where a mirror fetches from.
type remote struct {
	endpoint    *transport.Endpoint
	public      string   // the URL without credentials
	secrets     []string // of the URL, in each spelling that an error may use
	credentials func(context.Context) (user, password string, err error)
}

// String returns the URL without credentials.
func (r remote) String() string { return r.public }

func parseRemote(raw string) (remote, error) {
	public, secrets := redact(raw)
	r := remote{public: public, secrets: secrets}
	ep, err := transport.NewEndpoint(raw)
	if err == nil {
		switch ep.Protocol {
		case "https", "http", "ssh", "git", "file":
			r.endpoint = ep
			return r, nil
		}
		err = fmt.Errorf("the scheme %q is not supported", ep.Protocol)
	}
	return remote{}, fmt.Errorf("cannot use the repository %s: %s; expected a URL like https://host/owner/name.git, git@host:owner/name.git, or a path", public, r.hide(err.Error()))
}

// redact returns the URL without what may be secret, and the secrets. The user
// of an ssh URL is not one; that of any other may be a token.
func redact(raw string) (public string, secrets []string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return clean(raw), nil // a path, or user@host:path
	}
	authority, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		secrets = append(secrets, path[i+1:])
		path = path[:i]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		info := authority[:i]
		authority = authority[i+1:]
		user, password, _ := strings.Cut(info, ":")
		if scheme == "ssh" {
			authority = user + "@" + authority
		} else {
			secrets = append(secrets, user)
		}
		secrets = append(secrets, password)
	}
	var spellings []string
	for _, s := range secrets {
		plain := s
		if u, err := url.PathUnescape(s); err == nil {
			plain = u
		}
		for _, form := range []string{s, plain, url.PathEscape(plain), url.QueryEscape(plain)} {
			if form != "" {
				spellings = append(spellings, form)
			}
		}
	}
	return clean(scheme + "://" + authority + path), spellings
}

// hide returns a text of a library or of the remote as it can be shown.
func (r remote) hide(text string) string {
	for _, s := range r.secrets {
		text = strings.ReplaceAll(text, s, "redacted")
	}
	return clean(text)
}

// session is one conversation with a remote.
type session struct {
	transport.UploadPackSession
	adv  *packp.AdvRefs // nil when the repository is empty
	refs map[string]plumbing.Hash
}

// dial connects and reads where the branches and tags are. The caller closes
// the session.
func (r remote) dial(ctx context.Context) (*session, error) {
	auth, err := r.auth(ctx)
	if err != nil {
		return nil, err
	}
	cl, err := client.NewClient(r.endpoint)
	if err != nil {
		return nil, err
	}
	s := &session{refs: map[string]plumbing.Hash{}}
	if s.UploadPackSession, err = connect(ctx, cl, *r.endpoint, auth); err != nil {
		return nil, err
	}
	s.adv, err = s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return s, nil
	}
	if err != nil {
		s.close()
		return nil, err
	}
	for name, h := range s.adv.References {
		if mirrored(name) {
			s.refs[name] = h
		}
	}
	return s, nil
}

// mirrored tells whether a ref is one of those that are kept. Hosts show many
// more, such as those of pull requests, which are not the owners' own.
func mirrored(name string) bool {
	return (strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/")) &&
		plumbing.ReferenceName(name).Validate() == nil
}

// connect gives up when ctx ends, which the library's connecting does not.
func connect(ctx context.Context, cl transport.Transport, ep transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	type result struct {
		s   transport.UploadPackSession
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := cl.NewUploadPackSession(&ep, auth) // which may change ep when it is redirected
		select {
		case <-ctx.Done():
			if err == nil {
				_ = s.Close() // nobody waits for it any more
			}
		default:
		}
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close ends the conversation. How the other side ends it tells nothing that
// was not told before.
func (s *session) close() { _ = s.Close() }

// auth returns how to log in; nil leaves it to the transport, which uses the
// credentials of the URL, or for ssh the user's agent.
func (r remote) auth(ctx context.Context) (transport.AuthMethod, error) {
	switch r.endpoint.Protocol {
	case "http", "https":
		if r.credentials == nil {
			return nil, nil
		}
		user, password, err := r.credentials(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot get its credentials: %w", err)
		}
		return &http.BasicAuth{Username: user, Password: password}, nil
	case "ssh":
		switch {
		case r.endpoint.Password != "":
			return &ssh.Password{User: r.endpoint.User, Password: r.endpoint.Password}, nil
		case os.Getenv("SSH_AUTH_SOCK") != "":
			return nil, nil
		}
		return sshKey(r.endpoint.User)
	}
	return nil, nil
}

// sshKey returns the first of the user's usual keys: a daemon has no ssh agent.
func sshKey(user string) (transport.AuthMethod, error) {
	if user == "" {
		user = ssh.DefaultUsername
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("no ssh key: %w", err)
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		key, err := ssh.NewPublicKeysFromFile(user, path, "")
		if err != nil {
			return nil, fmt.Errorf("cannot use the ssh key %s: %w", path, err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("no ssh key in %s, and no ssh agent", filepath.Join(home, ".ssh"))
}
