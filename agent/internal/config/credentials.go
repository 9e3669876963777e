package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Credential is how the agent logs in to the repositories below a URL.
type Credential struct {
	URL string
	// For https, one of them with the user that goes with it.
	User   string
	Secret string // the file that holds the token or password
	// For ssh.
	Key        string // the file of the private key
	KnownHosts string // the file of the host keys that are accepted
}

const writeCredential = `{url: https://github.com/acme/, token: {file: /etc/lockstep/github-token}} or ` +
	`{url: "ssh://git@github.com/", ssh_key: /etc/lockstep/deploy-key, known_hosts: /etc/lockstep/known-hosts}`

// Login returns how to log in to a repository: as the credential with the
// longest URL that covers it says. Files are read at each use.
func (c Config) Login(repo string) gitremote.Login {
	var best Credential
	for _, cred := range c.Credentials {
		if len(cred.URL) > len(best.URL) && gitremote.Covers(cred.URL, repo) {
			best = cred
		}
	}
	l := gitremote.Login{User: best.User, Key: best.Key, KnownHosts: best.KnownHosts}
	if best.Secret != "" {
		l.From = fmt.Sprintf("%s (file %s)", best.URL, best.Secret)
		l.Password = func() (string, error) { return readSecret(best.Secret) }
	}
	return l
}

func readSecret(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	if strings.ContainsAny(s, "\r\n\x00") {
		return "", fmt.Errorf("%s holds more than one line", file)
	}
	return s, nil
}

func (r *reader) credentials(n ast.Node) []Credential {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fail(n, "credentials", "expected a list; write [%s]", writeCredential)
		return nil
	}
	var all []Credential
	for _, v := range list.Values {
		c := r.credential(v)
		for _, other := range all {
			if c.URL != "" && c.URL == other.URL {
				r.fail(v, "credentials", "%s is given twice; remove one", c.URL)
			}
		}
		all = append(all, c)
	}
	return all
}

func (r *reader) credential(n ast.Node) (c Credential) {
	token, password := false, false
	before := len(r.problems)
	secret := func(key string) func(ast.Node) {
		return func(n ast.Node) {
			found := false
			if _, isText := n.(*ast.StringNode); isText {
				// It may be the secret itself, so it is not repeated.
				r.fail(n, key, "a secret is never written here; write {file: /etc/lockstep/github-token}")
				return
			}
			r.object(n, key, map[string]func(ast.Node){
				"file": func(n ast.Node) { found, c.Secret = true, r.path(n, key+".file") },
			})
			if !found {
				r.fail(n, key, "expected the file that holds it; write {file: /etc/lockstep/github-token}")
			}
		}
	}
	r.object(n, "credentials", map[string]func(ast.Node){
		"url":      func(n ast.Node) { c.URL = r.repositories(n) },
		"token":    func(n ast.Node) { token = true; secret("credentials.token")(n) },
		"username": func(n ast.Node) { c.User = r.text(n, "credentials.username") },
		"password": func(n ast.Node) { password = true; secret("credentials.password")(n) },
		"ssh_key":  func(n ast.Node) { c.Key = r.path(n, "credentials.ssh_key") },
		"known_hosts": func(n ast.Node) {
			c.KnownHosts = r.path(n, "credentials.known_hosts")
		},
	})
	if len(r.problems) > before {
		return c
	}
	web := strings.HasPrefix(c.URL, "http")
	switch {
	case c.URL == "":
		r.fail(n, "credentials", "url is missing; write %s", writeCredential)
	case web && (c.Key != "" || c.KnownHosts != ""):
		r.fail(n, "credentials", "ssh_key and known_hosts are for ssh; write a url such as ssh://git@github.com/, or token")
	case !web && (token || password || c.User != ""):
		r.fail(n, "credentials", "token, username and password are for https; write a url such as https://github.com/acme/, or ssh_key")
	case web && token && (password || c.User != ""):
		r.fail(n, "credentials", "expected either token, or username and password")
	case web && !token && (!password || c.User == ""):
		r.fail(n, "credentials", "expected token, or username and password; write token: {file: /etc/lockstep/github-token}")
	case !web && (c.Key == "" || c.KnownHosts == ""):
		r.fail(n, "credentials", "expected ssh_key and known_hosts; write the latter with: ssh-keyscan github.com, and compare it with what the host publishes")
	}
	if token {
		c.User = gitremote.TokenUser
	}
	return c
}

// repositories reads a URL that covers repositories. It is not repeated in a
// problem: there may be a password in it.
func (r *reader) repositories(n ast.Node) string {
	s := r.text(n, "credentials.url")
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err == nil && u.Scheme == "" {
		err = errors.New("no scheme")
	}
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		r.fail(n, "credentials.url", "expected a URL with scheme and host; write https://github.com/acme/ or ssh://git@github.com/")
		return ""
	}
	_, hasPassword := u.User.Password()
	switch {
	case hasPassword || u.Scheme == "https" && u.User != nil:
		r.fail(n, "credentials.url", "a secret is never written here; write https://github.com/acme/ and token: {file: …}")
	case u.Scheme == "http" && u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" && u.Hostname() != "::1":
		r.fail(n, "credentials.url", "over http anybody on the way could read the secret; write https://")
	case u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "ssh":
		r.fail(n, "credentials.url", "expected https or ssh; other ways know no credentials")
	default:
		return s
	}
	return ""
}
