package config

import (
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Source is who fetches the commits of an app, and how the coordinator logs in to
// its repository.
type Source struct {
	// Via is [ViaCoordinator] when nodes get commits from the coordinator.
	Via Via
	// For https, the secret is a token when Username is "".
	Username string
	Secret   Secret
	// For ssh, absolute paths.
	SSHKey     string
	KnownHosts string
}

const writeSource = "{token: {file: /etc/lockstep/github-token}}"

// Held tells whether the coordinator has credentials for the repository.
func (s Source) Held() bool { return s.SSHKey != "" || s.Secret.Source() != (Secret{}).Source() }

// Key tells sources apart by which credentials they use.
func (s Source) Key() string {
	if !s.Held() {
		return ""
	}
	return strings.Join([]string{s.Username, s.Secret.Source(), s.SSHKey, s.KnownHosts}, "\n")
}

// Login is how the coordinator logs in.
func (s Source) Login() gitremote.Login {
	l := gitremote.Login{User: s.Username, Key: s.SSHKey, KnownHosts: s.KnownHosts}
	if b := s.Secret.Bytes(); b != nil {
		l.From = s.Secret.Source()
		l.Password = func() (string, error) { return string(b), nil }
		if l.User == "" {
			l.User = gitremote.TokenUser
		}
	}
	return l
}

// LoginTo is how the coordinator logs in to the app's repository, or to that of a
// submodule. What is for one host is never shown to another.
func (a *App) LoginTo(repo string) gitremote.Login {
	if repo != a.Repo && !gitremote.SameHost(repo, a.Repo) {
		return gitremote.Login{}
	}
	return a.Source.Login()
}

// written is the source as it stands in a fleet file.
func (s Source) written() string {
	b := "{via: " + string(s.Via)
	switch {
	case s.SSHKey != "":
		b += ", ssh_key: " + plain(s.SSHKey) + ", known_hosts: " + plain(s.KnownHosts)
	case s.Held() && s.Username != "":
		b += ", username: " + plain(s.Username) + ", password: " + s.Secret.written()
	case s.Held():
		b += ", token: " + s.Secret.written()
	}
	return b + "}"
}

func (a *App) readSource(v value) {
	o, ok := v.object(writeSource, "via", "token", "username", "password", "ssh_key", "known_hosts")
	if !ok {
		return
	}
	s := &a.Source
	token, hasToken := o.get("token")
	password, hasPassword := o.get("password")
	user, hasUser := o.get("username")
	web := strings.HasPrefix(a.Repo, "https://") || strings.HasPrefix(a.Repo, "http://")
	ssh := strings.HasPrefix(a.Repo, "ssh://") || !strings.Contains(a.Repo, "://") && !strings.HasPrefix(a.Repo, "/")
	switch {
	case (hasToken || hasPassword || hasUser) && !web:
		v.fail("token, username and password are for https, and the app's repo is none; write ssh_key and known_hosts for ssh")
	case (o.has("ssh_key") || o.has("known_hosts")) && !ssh:
		v.fail("ssh_key and known_hosts are for ssh, and the app's repo is none; write token for https")
	case hasToken && (hasPassword || hasUser):
		v.fail("expected either token, or username and password")
	case hasPassword != hasUser:
		v.fail("username and password go together; write both, or token")
	case o.has("ssh_key") != o.has("known_hosts"):
		v.fail("ssh_key and known_hosts go together; write the latter's file with: ssh-keyscan HOST, and compare it with what the host publishes")
	case hasToken:
		s.Secret, _ = token.secret()
	case hasPassword:
		s.Username, _ = user.text("the user")
		s.Secret, _ = password.secret()
	case o.has("ssh_key"):
		s.SSHKey, s.KnownHosts = o.filePath("ssh_key", "/etc/lockstep/deploy-key"), o.filePath("known_hosts", "/etc/lockstep/known-hosts")
	}
	if strings.HasPrefix(a.Repo, "http://") && (hasToken || hasPassword) {
		v.warn("anybody on the way can read the credentials; write https:// in repo")
	}
	words := []string{string(ViaAgent), string(ViaCoordinator)}
	if s.Held() {
		slices.Reverse(words) // what nodes need not have is not to lie there
	}
	s.Via = Via(o.word("via", words...))
}
