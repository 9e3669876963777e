package config

import "testing"

func TestSyntax(t *testing.T) {
	for name, c := range map[string]struct {
		fits       func(string) bool
		good, evil []string
	}{
		"name":   {isName, []string{"a", "web1", "web-1", "1a"}, []string{"", "-a", "Web", "a_b", "a.b", "é", "a b", "../a", string(make([]byte, 64))}},
		"branch": {func(s string) bool { return badBranch(s) == "" }, []string{"main", "a/b", "release-1.0", "ünï", "a@b"}, []string{"", "-d", "refs/heads/main", "refs/tags/a", "a..b", "a//b", "/a", "a/", ".a", "a/.b", "a.lock", "a b", "a\nb", "a~1", "a^", "a:b", "HEAD", "@", "a@{1}", "*"}},
		"repository": {func(s string) bool { return badRepo(s) == "" },
			[]string{"https://github.com/a/b.git", "ssh://git@h:22/a/b", "git@h:a/b", "h:a", "/srv/a.git", "file:///srv/a.git", "http://127.0.0.1:3000/a/b"},
			[]string{"", "a/b", "-u", "--upload-pack=x", "https://", "https://h", "https://h/", "https://u:p@h/a", "https://token@h/a", "ssh://u:p@h/a", "file://h/a", "ftp://h/a", "ext::sh -c x", "https://h/a?b", "https://h/a#b", "https://h/a b", ":a"}},
		"unit":     {isUnit, []string{"a.service", "a@b.service", "a-b_c.d.service", `a\x2db.service`}, []string{"", ".service", "a", "a.timer", "a@.service", "@a.service", "a/b.service", "a b.service", "-a.service", "a*.service"}},
		"word":     {isWord, []string{"web", "web_1", "a.b:c"}, []string{"", "a b", "a;b", "a/b", "a\nb", "é"}},
		"endpoint": {isEndpoint, []string{"unix:///a", "tcp://h:1", "tcp://[::1]:9999"}, []string{"", "/a", "unix://a", "unix://", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:99999", "http://h:1", "unix:///a\nb"}},
		"web URL":  {isWebURL, []string{"http://127.0.0.1:8080/h?x=1", "https://h"}, []string{"", "h:80", "http://", "http:///h", "http://u@h/", "http://h/#a", "ftp://h", "http://h:0/", "http://h:99999/"}},
	} {
		for _, s := range c.good {
			if !c.fits(s) {
				t.Errorf("%s: %q is refused", name, s)
			}
		}
		for _, s := range c.evil {
			if c.fits(s) {
				t.Errorf("%s: %q is taken", name, s)
			}
		}
	}
}
