package gitremote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// Login returns a name and a password for http and https.
type Login func(context.Context) (user, password string, err error)

// Connect begins a conversation, which the caller closes, and reads which refs
// and abilities the remote has; adv is nil when the repository is empty.
//
// It logs in with what login returns; where login is nil, with what the URL
// says; and over ssh without a password with the user's agent or else the first
// of the usual keys. Errors are to be [Diagnose]d.
func (r Remote) Connect(ctx context.Context, login Login) (s transport.UploadPackSession, adv *packp.AdvRefs, err error) {
	auth, err := r.auth(ctx, login)
	if err != nil {
		return nil, nil, err
	}
	cl, err := client.NewClient(r.endpoint)
	if err != nil {
		return nil, nil, err
	}
	if s, err = newSession(ctx, cl, *r.endpoint, auth); err != nil {
		return nil, nil, err
	}
	adv, err = s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return s, nil, nil
	}
	if err != nil {
		_ = s.Close() // what went wrong is known
		return nil, nil, err
	}
	return s, adv, nil
}

// newSession gives up when ctx ends, which the library's connecting does not.
func newSession(ctx context.Context, cl transport.Transport, ep transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	type result struct {
		s   transport.UploadPackSession
		err error
	}
	done := make(chan result)
	go func() {
		s, err := cl.NewUploadPackSession(&ep, auth) // which may change ep when it is redirected
		select {
		case done <- result{s, err}:
		case <-ctx.Done():
			if err == nil {
				_ = s.Close() // nobody waits for it any more
			}
		}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// auth returns how to log in; nil leaves it to the transport, which uses the
// credentials of the URL, or for ssh the user's agent.
func (r Remote) auth(ctx context.Context, login Login) (transport.AuthMethod, error) {
	switch r.endpoint.Protocol {
	case "http", "https":
		if login == nil {
			return nil, nil
		}
		user, password, err := login(ctx)
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

var errKey = errors.New("no usable ssh key")

// sshKey returns the first of the user's usual keys: a daemon has no ssh agent.
func sshKey(user string) (transport.AuthMethod, error) {
	if user == "" {
		user = ssh.DefaultUsername
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		key, err := ssh.NewPublicKeysFromFile(user, path, "")
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use %s: %w", errKey, path, err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%w: none in %s, and no ssh agent", errKey, filepath.Join(home, ".ssh"))
}
