package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// leastSHA is how many digits of a SHA tell one commit from the others; git says
// no fewer either. A release's id begins with idSHA of them.
const (
	leastSHA   = 7
	idSHA      = 12
	maxVersion = 80
)

// Names tells whether what an answer gives as its version is a release: the full
// SHA of its commit, seven digits or more of it, or the release's id.
func Names(version, release string) bool {
	version = strings.ToLower(version)
	if version == release {
		return true
	}
	sha, _, ok := strings.Cut(release, "-")
	if !ok || len(sha) != idSHA || len(version) < leastSHA || len(version) > 40 || strings.Trim(version, "0123456789abcdef") != "" {
		return false
	}
	n := min(len(version), idSHA)
	return version[:n] == sha[:n]
}

// place names where the version stands in an answer.
func place(v *api.Version) string {
	if v.Header != "" {
		return "header " + v.Header
	}
	return "JSON field " + v.JSON
}

// versionOf finds the version in an answer, "" when it is not there.
func versionOf(v *api.Version, h http.Header, body []byte) string {
	if v.Header != "" {
		return shown(h.Get(v.Header))
	}
	var found any
	if err := json.Unmarshal(body, &found); err != nil {
		return ""
	}
	for name := range strings.SplitSeq(v.JSON, ".") {
		object, ok := found.(map[string]any)
		if !ok {
			return ""
		}
		found = object[name]
	}
	s, ok := found.(string)
	if !ok {
		return ""
	}
	return shown(s)
}

// shown is a version without what a terminal or a report should not get.
func shown(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
	if r := []rune(s); len(r) > maxVersion {
		s = string(r[:maxVersion]) + "…"
	}
	return s
}

// Answered says what a probe that passed gave as its version.
func (c Check) Answered(p Probe) string {
	switch {
	case c.Version == nil:
		return ""
	case p.Version == "":
		return fmt.Sprintf("the answer of %s has no %s", c.http(), place(c.Version))
	}
	return fmt.Sprintf("%s answers as version %s (%s)", c.http(), strconv.Quote(p.Version), place(c.Version))
}
