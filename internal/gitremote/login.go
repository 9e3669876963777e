package gitremote

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// Login is how to log in to a remote. The zero value does it as the URL says,
// and over ssh without a password with the user's agent or else the first of the
// usual keys.
type Login struct {
	// From says in errors where the credentials are written, such as
	// "file /etc/lockstep/github-token".
	From string
	// User and Password are for http and https. The password, or token, is asked
	// for at each use, so that it may be renewed while the program runs.
	User     string
	Password func() (string, error)
	// Key is the file of a private key for ssh, without a passphrase.
	Key string
	// KnownHosts is the file of the host keys that are accepted over ssh; "" is
	// those of the program's user and of the machine.
	KnownHosts string
}

// TokenUser is the user that goes with a token: hosts look only at the token.
const TokenUser = "x-access-token"

// With returns the remote as logged in to with l.
func (r Remote) With(l Login) Remote {
	r.login = l
	return r
}

// auth returns how to log in; nil leaves it to the transport, which uses the
// credentials of the URL, or for ssh the user's agent.
func (r Remote) auth() (transport.AuthMethod, error) {
	switch r.endpoint.Protocol {
	case "http", "https":
		if r.login.Password == nil {
			return nil, nil
		}
		password, err := r.login.Password()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errCredentials, err)
		}
		return &http.BasicAuth{Username: r.login.User, Password: password}, nil
	case "ssh":
		return r.sshAuth()
	}
	return nil, nil
}

var (
	errKey         = errors.New("no usable ssh key")
	errCredentials = errors.New("cannot get its credentials")
)

func (r Remote) sshAuth() (transport.AuthMethod, error) {
	hosts := ssh.HostKeyCallbackHelper{}
	if file := r.login.KnownHosts; file != "" {
		db, err := ssh.NewKnownHostsDb(file)
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use the known hosts in %s: %w", errCredentials, file, err)
		}
		port := r.endpoint.Port
		if port <= 0 {
			port = ssh.DefaultPort
		}
		hosts.HostKeyCallback = db.HostKeyCallback()
		hosts.HostKeyAlgorithms = db.HostKeyAlgorithms(net.JoinHostPort(r.endpoint.Host, fmt.Sprint(port)))
	}
	user := r.endpoint.User
	if user == "" {
		user = ssh.DefaultUsername
	}
	switch {
	case r.login.Key != "":
		key, err := ssh.NewPublicKeysFromFile(user, r.login.Key, "")
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use %s: %w", errKey, r.login.Key, err)
		}
		key.HostKeyCallbackHelper = hosts
		return key, nil
	case r.endpoint.Password != "":
		return &ssh.Password{User: user, Password: r.endpoint.Password, HostKeyCallbackHelper: hosts}, nil
	case os.Getenv("SSH_AUTH_SOCK") != "":
		agent, err := ssh.NewSSHAgentAuth(user)
		if err != nil {
			return nil, err
		}
		agent.HostKeyCallbackHelper = hosts
		return agent, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	// A daemon has no ssh agent.
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		key, err := ssh.NewPublicKeysFromFile(user, path, "")
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use %s: %w", errKey, path, err)
		}
		key.HostKeyCallbackHelper = hosts
		return key, nil
	}
	return nil, fmt.Errorf("%w: none in %s, and no ssh agent", errKey, filepath.Join(home, ".ssh"))
}

// refused says what to do when the remote does not accept how we log in.
func (l Login) refused() string {
	switch {
	case l.Key != "":
		return fmt.Sprintf("add the public half of %s to the repository as a deploy key", l.Key)
	case l.Password != nil:
		return fmt.Sprintf("the credentials of %s are wrong or expired, or may not read the repository; put new ones there", l.From)
	}
	return ""
}

// Covers tells whether the URL of a repository is, or is below, prefix: the same
// scheme, user, and host, and the same path up to a slash. Both may be of the
// form user@host:path, which is ssh.
func Covers(prefix, raw string) bool {
	p, u := spelled(prefix), spelled(raw)
	if p == nil || u == nil || p.Scheme != u.Scheme || !strings.EqualFold(p.Host, u.Host) {
		return false
	}
	if p.User != nil && p.User.Username() != u.User.Username() {
		return false
	}
	above, path := strings.Trim(p.Path, "/"), strings.Trim(u.Path, "/")
	return above == "" || path == above || strings.HasPrefix(path, above+"/")
}

func spelled(raw string) *url.URL {
	if !strings.Contains(raw, "://") {
		host, path, ok := strings.Cut(raw, ":")
		if !ok || strings.Contains(host, "/") {
			return nil
		}
		raw = "ssh://" + host + "/" + strings.TrimLeft(path, "/")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil
	}
	for _, segment := range strings.Split(u.Path, "/") {
		if segment == ".." || segment == "." {
			return nil // where that leads is up to the host
		}
	}
	return u
}
