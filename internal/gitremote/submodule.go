package gitremote

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing/format/config"
)

// ParseModules reads a .gitmodules file: it returns the URL of each submodule, as
// it is written there, by its path.
func ParseModules(content []byte) (map[string]string, error) {
	c := config.New()
	if err := config.NewDecoder(bytes.NewReader(content)).Decode(c); err != nil {
		return nil, fmt.Errorf("it cannot be read: %s", Clean(err.Error()))
	}
	urls := map[string]string{}
	for _, s := range c.Section("submodule").Subsections {
		at, url := s.Option("path"), s.Option("url")
		if at == "" || url == "" {
			continue // as git has it: others of its files say such things too
		}
		if at = strings.TrimSuffix(at, "/"); path.IsAbs(at) || path.Clean(at) != at || slices.Contains(strings.Split(at, "/"), "..") {
			return nil, fmt.Errorf("the path %q of a submodule leads out of the repository", Clean(at))
		}
		urls[at] = url
	}
	return urls, nil
}

// helper begins a URL that git would hand to a program, such as ext::sh -c ...
var helper = regexp.MustCompile(`^[A-Za-z0-9+.-]+::`)

// Submodule returns the URL of a submodule of the repository at parent: raw, as
// it is in .gitmodules, or resolved as git does it when it begins with ./ or ../.
// Those who write .gitmodules need not be those who say which machine reads what:
// a remote repository has no submodules on this one, and a URL that git or ssh
// could take for something else is refused. Errors show no credentials.
func Submodule(parent, raw string) (string, error) {
	bad := func(why string) (string, error) {
		shown, _ := redact(raw)
		return "", fmt.Errorf("its URL %q %s", shown, why)
	}
	switch {
	case strings.ContainsFunc(raw, unicode.IsControl):
		return bad("has control characters in it")
	case strings.HasPrefix(raw, "-"):
		return bad("begins with a dash, and could be taken for an option")
	case helper.MatchString(raw):
		return bad("names a program to run; write one of https or ssh")
	}
	above, err := Parse(parent)
	if err != nil {
		return "", err
	}
	full := raw
	if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
		if full, err = relative(parent, raw); err != nil {
			return bad(err.Error())
		}
	}
	r, err := Parse(full)
	if err != nil {
		return "", err
	}
	at := r.endpoint
	switch {
	case at.Protocol == "file" && above.endpoint.Protocol != "file":
		return bad("is on this machine, and the repository that names it is not; write one of https or ssh")
	case at.Protocol == "file" && !strings.Contains(full, "://") && !path.IsAbs(full):
		return bad("is no URL; write it in full, or with ./ or ../ from where the repository is")
	case strings.HasPrefix(at.Host, "-"), strings.HasPrefix(at.User, "-"), strings.HasPrefix(at.Path, "-"):
		return bad("has a part that begins with a dash, and could be taken for an option")
	}
	return full, nil
}

// relative resolves a URL that begins with ./ or ../ from another, of which also
// the last part is taken for a directory.
func relative(from, raw string) (string, error) {
	head, tail := "", from
	if scheme, rest, ok := strings.Cut(from, "://"); ok {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			i = len(rest)
		}
		head, tail = scheme+"://"+rest[:i], rest[i:]
		if tail == "" {
			tail = "/"
		}
	} else if host, rest, ok := strings.Cut(from, ":"); ok && !strings.Contains(host, "/") {
		head, tail = host+":", rest
	}
	lead := ""
	if strings.HasPrefix(tail, "/") {
		lead = "/"
	}
	parts := slices.DeleteFunc(strings.Split(tail, "/"), func(p string) bool { return p == "" })
	for {
		if rest, ok := strings.CutPrefix(raw, "./"); ok {
			raw = rest
			continue
		}
		rest, ok := strings.CutPrefix(raw, "../")
		if !ok {
			break
		}
		if len(parts) == 0 {
			return "", errors.New("leads above the host that it is at")
		}
		raw, parts = rest, parts[:len(parts)-1]
	}
	if raw = strings.TrimSuffix(raw, "/"); raw == "" || raw == "." || raw == ".." {
		return "", errors.New("names no repository")
	}
	return head + lead + strings.Join(append(parts, raw), "/"), nil
}

// SameHost tells whether two repositories are at the same host, to which
// credentials for one may be shown when the other is asked for.
func SameHost(a, b string) bool {
	x, y := spelled(a), spelled(b)
	return x != nil && y != nil && x.Scheme == y.Scheme && strings.EqualFold(x.Host, y.Host)
}
