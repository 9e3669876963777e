// Package gitremote is what the coordinator and the agents have in common where
// they read a remote repository: its URL without the credentials in it, how to
// log in, and what an error of the conversation means.
package gitremote

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing/transport"
)

// Remote is where a repository is read from. The zero value is not usable; see
// [Parse].
type Remote struct {
	endpoint *transport.Endpoint
	public   string
	secrets  []string // of the URL, in each spelling that an error may use
	login    Login

	lfs      string // where files in Git LFS are, "" for beside it
	lfsLogin Login
}

// Parse takes a URL of https, http, ssh (also as user@host:path), git, or file,
// or the path of a repository on this machine. Its error shows no credentials.
func Parse(raw string) (Remote, error) {
	var r Remote
	r.public, r.secrets = redact(raw)
	ep, err := transport.NewEndpoint(raw)
	if err == nil {
		switch ep.Protocol {
		case "https", "http", "ssh", "git", "file":
			r.endpoint = ep
			return r, nil
		}
		err = fmt.Errorf("the scheme %q is not supported", ep.Protocol)
	}
	shown := r.public
	if parse := (*url.Error)(nil); errors.As(err, &parse) {
		// Where credentials end in it is anybody's guess, and the error quotes it.
		scheme, _, _ := strings.Cut(raw, "://")
		shown, err = strconv.Quote(scheme+"://..."), errors.New("it is not a valid URL (a password in it needs percent-encoding)")
	}
	return Remote{}, fmt.Errorf("cannot use the repository %s: %s; expected a URL like https://host/owner/name or git@host:owner/name, or a path",
		shown, r.Clean(err.Error()))
}

// String returns the URL without credentials.
func (r Remote) String() string { return r.public }

// Clean is [Clean] of a text that may hold the credentials of the URL or of
// [Remote.With], without those.
func (r Remote) Clean(text string) string {
	for _, password := range []func() (string, error){r.login.Password, r.lfsLogin.Password} {
		if password == nil {
			continue
		}
		if p, err := password(); err == nil && p != "" {
			for _, form := range spellings(p) {
				text = strings.ReplaceAll(text, form, "redacted")
			}
		}
	}
	for _, s := range r.secrets {
		text = strings.ReplaceAll(text, s, "redacted")
	}
	return Clean(text)
}

// Clean returns a text on one printable line, shortened when it is very long:
// much of what is said about a repository was written by others.
func Clean(text string) string {
	const most = 400
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// redact returns the URL without what may be secret, and the secrets. The user
// of an ssh URL is not one; that of any other may be a token.
func redact(raw string) (public string, secrets []string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return Clean(raw), nil // a path, or user@host:path
	}
	authority, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	var found []string
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		found = append(found, path[i+1:])
		path = path[:i]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, _ := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		if scheme == "ssh" {
			authority = user + "@" + authority
		} else {
			found = append(found, user)
		}
		found = append(found, password)
	}
	for _, s := range found {
		plain := s
		if u, err := url.PathUnescape(s); err == nil {
			plain = u
		}
		for _, form := range append(spellings(plain), s) {
			if form != "" && !slices.Contains(secrets, form) {
				secrets = append(secrets, form)
			}
		}
	}
	return Clean(scheme + "://" + authority + path), secrets
}

// spellings returns a secret in each form in which it may turn up.
func spellings(s string) []string {
	return []string{s, url.PathEscape(s), url.QueryEscape(s), url.User(s).String()}
}
