package gitremote

import (
	"errors"
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{
		"https://host/x.git":                  "https://host/x.git",
		"https://token@host/x.git":            "https://host/x.git",
		"https://ann:p%40ss@host:8443/x.git":  "https://host:8443/x.git",
		"https://a:b@c@host/x":                "https://host/x",
		"https://host/x?token=y":              "https://host/x",
		"http://token@host":                   "http://host",
		"ssh://git@host/x.git":                "ssh://git@host/x.git",
		"ssh://git:pass@host:22/x.git":        "ssh://git@host:22/x.git",
		"git@host:owner/x.git":                "git@host:owner/x.git",
		"/srv/git/x.git":                      "/srv/git/x.git",
		"file:///srv/git/x.git":               "file:///srv/git/x.git",
		"https://host/a\x1b[2Jb":              "https://host/a [2Jb",
		"https://user@host/path@with:at/x.gi": "https://host/path@with:at/x.gi",
	} {
		if got, _ := redact(raw); got != want {
			t.Errorf("redact(%q) = %q, expected %q", raw, got, want)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("https", "ann", "p%40ss", "host/x?y#z")
	f.Add("ssh", "git", "secret", "host:22/x")
	f.Add("http", "", "a@b", "host")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		if len(password) < 4 || strings.ContainsAny(password, "/?#") || strings.ContainsAny(user, ":/?#@") || strings.ContainsAny(scheme, ":/?#") || strings.Contains(rest, "@") ||
			strings.Contains("redacted", password) || strings.Contains(scheme+"://"+user+"@"+Clean(rest), Clean(password)) || Clean(password) != password {
			return // it is no password, or shown elsewhere by right
		}
		raw := scheme + "://" + user + ":" + password + "@" + rest
		public, secrets := redact(raw)
		r := Remote{public: public, secrets: secrets}
		for _, text := range []string{public, r.Clean("cannot dial " + raw), r.Clean("bad password: " + password)} {
			if strings.Contains(text, password) {
				t.Errorf("%q shows the password %q of %q", text, password, raw)
			}
		}
	})
}

// Whatever a URL looks like, its password does not come out.
func FuzzParse(f *testing.F) {
	f.Add("https", "user", "example.com/a.git")
	f.Add("ssh", "", "host:22/x?y=z")
	f.Add("http", "a:b", "[::1]:80/@")
	f.Fuzz(func(t *testing.T, scheme, user, rest string) {
		const secret = "S3cr3t"
		if strings.ContainsAny(scheme+user, "/:@?#") || strings.Contains(scheme+user+rest, secret) {
			return
		}
		raw := scheme + "://" + user + ":" + secret + "@" + rest
		r, err := Parse(raw)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Fatalf("%q gave %v", raw, err)
		}
		if err == nil && strings.Contains(r.String(), secret) {
			t.Fatalf("%q became %q", raw, r)
		}
	})
}

// A remote that refuses may be gone before it was asked in full.
func TestHungUp(t *testing.T) {
	for text, want := range map[string]bool{
		"sending upload-req message: write |1: broken pipe": true,
		"sending done message: EOF":                         true,
		"sending upload-req message: encoding depth 1: EOF": true,
		"EOF": false,
		"decoding upload-pack response: unexpected EOF": false,
		"dial tcp 127.0.0.1:22: connection refused":     false,
	} {
		if got := HungUp(errors.New(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
