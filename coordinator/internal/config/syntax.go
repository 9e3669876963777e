package config

import (
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// isName tells whether s can name an app, a node, or a balancer.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// isHostPort tells whether s is host:port. Only an address to listen on may
// leave out the host, or have port 0 for any free one.
func isHostPort(s string, listen bool) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsFunc(host, notInHost) || (host == "" && !listen) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && (n > 0 || listen)
}

func notInHost(r rune) bool {
	return r <= ' ' || r == '/' || r == '@' || r == '#' || r == '?' || !unicode.IsPrint(r)
}

// filePath is an absolute path; a relative one starts at the fleet file.
func (o object) filePath(key, otherwise string) string {
	v, ok := o.get(key)
	if !ok {
		return otherwise
	}
	s, ok := v.text(otherwise)
	if !ok {
		return otherwise
	}
	if strings.Contains(s, "://") || strings.ContainsFunc(s, unicode.IsControl) {
		v.fail("expected the path of a file, got %s; write %s", quoted(s), otherwise)
		return otherwise
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(o.r.dir, s)
	}
	return filepath.Clean(s)
}

const writeRepo = "https://github.com/owner/name.git"

// badRepo says what is wrong with the URL of a repository, "" when nothing is.
// It does not repeat the URL: there may be a password in it.
func badRepo(s string) string {
	const form = "expected the URL of a git repository; write " + writeRepo
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || !unicode.IsPrint(r) }) || strings.HasPrefix(s, "-") {
		return form
	}
	if strings.HasPrefix(s, "/") {
		return ""
	}
	if !strings.Contains(s, "://") {
		// The short form of ssh: [user@]host:path.
		host, path, ok := strings.Cut(s, ":")
		if !ok || path == "" || host == "" || strings.Contains(host, "/") {
			return form
		}
		return ""
	}
	u, err := url.Parse(s)
	if err != nil {
		return form
	}
	if _, has := u.User.Password(); has {
		return "a password is never written here; write " + writeRepo + " or an ssh URL with a deploy key"
	}
	switch u.Scheme {
	case "https", "http":
		if u.User != nil {
			return "a token is never written here; write " + writeRepo + " or an ssh URL with a deploy key"
		}
	case "ssh", "git":
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return "expected file:// and an absolute path; write file:///srv/git/name.git"
		}
		return ""
	default:
		return form
	}
	if u.Hostname() == "" || strings.Trim(u.Path, "/") == "" || u.RawQuery != "" || u.Fragment != "" {
		return form
	}
	return ""
}

// badBranch says what is wrong with the name of a branch, "" when nothing is.
func badBranch(s string) string {
	const form = "expected the name of a branch; write main"
	if short, ok := strings.CutPrefix(s, "refs/heads/"); ok {
		return "expected the branch's short name; write " + quoted(short)
	}
	if strings.HasPrefix(s, "refs/") || s == "HEAD" || s == "@" || len(s) > 250 || strings.Contains(s, "..") || strings.Contains(s, "@{") ||
		strings.HasPrefix(s, "-") || strings.HasSuffix(s, ".") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || !unicode.IsPrint(r) || strings.ContainsRune(`~^:?*[\`, r) }) {
		return form
	}
	for _, part := range strings.Split(s, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return form
		}
	}
	return ""
}

// isUnit tells whether s is the full name of a service that can be started.
func isUnit(s string) bool {
	stem, ok := strings.CutSuffix(s, ".service")
	if !ok || stem == "" || len(s) > 255 || strings.HasPrefix(stem, "@") || strings.HasSuffix(stem, "@") || strings.HasPrefix(stem, "-") {
		return false
	}
	return !strings.ContainsFunc(stem, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(`:-_.\@`, r)
	})
}

// isWord tells whether s can name a backend or a server in HAProxy: a longer
// alphabet would let a name say more than itself on the admin socket.
func isWord(s string) bool {
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(":-_.", r)
	})
}

// isEndpoint tells whether s is an admin socket: unix:///path or tcp://host:port.
func isEndpoint(s string) bool {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		return filepath.IsAbs(path) && !strings.ContainsFunc(path, unicode.IsControl)
	}
	address, ok := strings.CutPrefix(s, "tcp://")
	return ok && isHostPort(address, false)
}
