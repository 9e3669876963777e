package mirror

import (
	"maps"
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
			strings.Contains("redacted", password) || strings.Contains(scheme+"://"+user+"@"+clean(rest), clean(password)) || clean(password) != password {
			return // it is no password, or shown elsewhere by right
		}
		raw := scheme + "://" + user + ":" + password + "@" + rest
		public, secrets := redact(raw)
		r := remote{public: public, secrets: secrets}
		for _, text := range []string{public, r.hide("cannot dial " + raw), r.hide("bad password: " + password)} {
			if strings.Contains(text, password) {
				t.Errorf("%q shows the password %q of %q", text, password, raw)
			}
		}
	})
}

func FuzzParseRefs(f *testing.F) {
	f.Add(refsHeader)
	f.Add(refsHeader + strings.Repeat("a", 40) + " refs/heads/main\n")
	f.Add(refsHeader + strings.Repeat("a", 40) + " refs/heads/../../config\n")
	f.Add("garbage")
	f.Fuzz(func(t *testing.T, text string) {
		refs, err := parseRefs(text)
		if err != nil {
			return
		}
		l := &local{dir: t.TempDir()}
		if err := l.saveRefs(refs); err != nil {
			t.Fatal(err)
		}
		again := openLocal(l.dir)
		defer again.close()
		if err := again.loadRefs(); err != nil || !maps.Equal(again.refs, refs) {
			t.Errorf("%v was saved and read as %v, %v", refs, again.refs, err)
		}
	})
}

// Names come from the remote, and go into a file and onto terminals.
func TestMirrored(t *testing.T) {
	for name, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/feature/a-b_c.1": true, "refs/tags/v1.2.3": true, "refs/heads/日本": true,
		"refs/pull/1/head": false, "HEAD": false, "refs/heads/": false, "refs/heads/../../config": false,
		"refs/heads/a\nb": false, "refs/heads/a b": false, "refs/heads/a\x1b": false, "refs/heads/a..b": false, "refs/heads/x.lock": false,
		"refs/tags/v1^{}": false,
	} {
		if got := mirrored(name); got != want {
			t.Errorf("mirrored(%q) = %v, expected %v", name, got, want)
		}
	}
}
