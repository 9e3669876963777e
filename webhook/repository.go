package webhook

import (
	"net"
	"net/url"
	"path"
	"strings"
)

// Repository names the repository of a delivery, as the sender gives it. The
// URLs are for comparing only; fetch from the configured one.
type Repository struct {
	FullName string // owner/name
	CloneURL string
	SSHURL   string
	HTMLURL  string
	// Canonical is host/owner/name in lower case, "" when the delivery names no
	// repository.
	Canonical string
}

// SameRepository tells whether configuredURL, however it is written, is a URL
// of d's repository. Scheme, user, default port, a ".git" suffix, and the case
// of host, owner and name make no difference; a local path compares exactly.
func SameRepository(configuredURL string, d Delivery) bool {
	want := canonical(configuredURL)
	if want == "" {
		return false
	}
	r := d.Repository
	if want == r.Canonical {
		return true
	}
	for _, u := range []string{r.CloneURL, r.SSHURL, r.HTMLURL} {
		if canonical(u) == want {
			return true
		}
	}
	return false
}

func (r Repository) canonical() string {
	for _, u := range []string{r.CloneURL, r.HTMLURL, r.SSHURL} {
		if c := canonical(u); c != "" {
			return c
		}
	}
	if r.FullName == "" {
		return ""
	}
	return "github.com/" + strings.ToLower(r.FullName)
}

var defaultPorts = map[string]string{"http": "80", "https": "443", "ssh": "22", "git": "9418"}

// canonical is the host and path of a repository URL in one spelling, "" for
// what is none.
func canonical(raw string) string {
	raw = strings.TrimSpace(raw)
	if strings.HasPrefix(raw, "/") {
		return local(raw)
	}
	if !strings.Contains(raw, "://") {
		// The short form of ssh: [user@]host:path.
		host, repo, ok := strings.Cut(raw, ":")
		if !ok || strings.Contains(host, "/") {
			return ""
		}
		if _, after, found := strings.Cut(host, "@"); found {
			host = after
		}
		return remote(host, repo)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	scheme := strings.ToLower(u.Scheme)
	if scheme == "file" {
		return local(u.Path)
	}
	usual, known := defaultPorts[scheme]
	if !known {
		return ""
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if host == "ssh.github.com" {
		// GitHub's ssh for networks that let only port 443 out.
		host, port = "github.com", ""
	}
	if port != "" && port != usual {
		host = net.JoinHostPort(host, port)
	}
	return remote(host, u.Path)
}

func remote(host, repo string) string {
	p := clean(repo)
	if host == "" || p == "" {
		return ""
	}
	return strings.ToLower(host + p)
}

func local(p string) string {
	if p = clean(p); p == "" {
		return ""
	}
	return "file:" + p
}

// clean roots p at "/" and takes off what does not matter: slashes at the end
// and one ".git". It is "" when nothing remains.
func clean(p string) string {
	p = path.Clean("/" + p)
	p = strings.TrimSuffix(p, "/.git") // the directory inside a work tree
	if ext := len(p) - len(".git"); ext > 0 && strings.EqualFold(p[ext:], ".git") {
		p = p[:ext]
	}
	if p == "/" {
		return ""
	}
	return p
}
