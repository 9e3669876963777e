package gitremote

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing/format/config"
)

// ParseLFSConfig reads a .lfsconfig file: it returns where the repository keeps its
// files in Git LFS, "" for where git-lfs looks by itself. What else such a file may
// say is for people at work, and ignored.
func ParseLFSConfig(content []byte) (string, error) {
	c := config.New()
	if err := config.NewDecoder(bytes.NewReader(content)).Decode(c); err != nil {
		return "", fmt.Errorf(".lfsconfig cannot be read: %s", Clean(err.Error()))
	}
	return c.Section("lfs").Option("url"), nil
}

// WithLFS returns the remote with its files in Git LFS at raw, as .lfsconfig has
// it, to which login says how to log in.
//
// Those who write .lfsconfig need not be those who say which credentials are for
// whom: another host than the repository's is refused, unless login has credentials
// for just that URL, and so is all that is not https. Errors show no credentials.
func (r Remote) WithLFS(raw string, login func(url string) Login) (Remote, error) {
	shown, _ := redact(raw)
	bad := func(why string) (Remote, error) {
		return r, fmt.Errorf("lfs.url in .lfsconfig is %q, which %s", shown, why)
	}
	if strings.ContainsFunc(raw, unicode.IsControl) {
		return bad("has control characters in it")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return bad("is no URL; write one such as https://" + r.endpoint.Host + "/…, or remove it")
	}
	same := SameHost(raw, r.public) || (u.Scheme == "https" && r.endpoint.Protocol == "ssh" && u.Port() == "" && strings.EqualFold(u.Hostname(), r.endpoint.Host))
	switch {
	case u.User != nil:
		return bad("has a user in it; leave it out, for credentials are not kept in a repository")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("has more after its path; write it without")
	case u.Scheme != "https" && !same:
		return bad("is not of https; write an https URL at the repository's host, or remove it")
	}
	l := Login{}
	if login != nil {
		l = login(raw)
	}
	switch {
	case l.Password == nil && same:
		l = r.login // credentials for the host, which it is also asked with otherwise
	case l.Password == nil:
		return bad(fmt.Sprintf("is at another host than the repository (%s), and there are no credentials for it; "+
			"point it at the repository's host, remove it, or, where nodes fetch by themselves, write credentials for that URL into agent.yaml", r.endpoint.Host))
	}
	r.lfs, r.lfsLogin = raw, l
	return r, nil
}

// LFS names where files in Git LFS come from, without credentials.
func (r Remote) LFS() string {
	if r.lfs != "" {
		return r.lfs
	}
	return r.public
}

// LFSRefused says what to do when the host of the files does not accept the
// credentials that it was shown.
func (r Remote) LFSRefused() string {
	l := r.login
	if r.lfs != "" {
		l = r.lfsLogin
	}
	if remedy := l.refused(); l.Password != nil && remedy != "" {
		return remedy
	}
	return "give credentials that may read it; those of the repository's URL are wrong or expired"
}

// lfsCredentials returns what a git program is to log in with over http, and to
// which host; the host is "" when there is nothing to log in with.
func (r Remote) lfsCredentials() (host, user, password string, err error) {
	where, l := r.public, r.login
	if r.lfs != "" {
		where, l = r.lfs, r.lfsLogin
	}
	at := spelled(where)
	if at == nil || (at.Scheme != "http" && at.Scheme != "https") {
		return "", "", "", nil
	}
	switch {
	case l.Password != nil:
		if password, err = l.Password(); err != nil {
			return "", "", "", r.failure(fmt.Errorf("%w: %w", errCredentials, err))
		}
		user = l.User
	case SameHost(where, r.public):
		user, password = r.endpoint.User, r.endpoint.Password
	}
	if user == "" && password == "" {
		return "", "", "", nil
	}
	return at.Scheme + "://" + at.Host, user, password, nil
}
