package gitremote_test

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

func TestWhereASubmoduleIs(t *testing.T) {
	// The first ones are of git's own tests (t0060-path-utils).
	for _, c := range []struct{ parent, raw, want string }{
		{"/foo/bar", "../submodule", "/foo/submodule"},
		{"/foo/bar/submodule", "../submodule", "/foo/bar/submodule"},
		{"/foo", "../submodule", "/submodule"},
		{"/foo", "./submodule", "/foo/submodule"},
		{"/foo/bar/", "./submodule/", "/foo/bar/submodule"},
		{"//somewhere else/repo", "../../subrepo", "/subrepo"},
		{"file:///tmp/repo", "../subrepo", "file:///tmp/subrepo"},
		{"ssh://hostname/repo", "../../subrepo", "above"},
		{"ssh://hostname:22/repo", "../subrepo", "ssh://hostname:22/subrepo"},
		{"user@host:path/to/repo", "../subrepo", "user@host:path/to/subrepo"},
		{"user@host:repo", "../subrepo", "user@host:subrepo"},
		{"user@host:path/to/repo", "../../../subrepo", "user@host:subrepo"},
		{"https://host/acme/app.git", "../lib.git/", "https://host/acme/lib.git"},
		{"https://user:secret@host/acme/app", "../../other/lib", "https://user:secret@host/other/lib"},
		{"https://host/acme/app", "https://other/lib", "https://other/lib"},
		{"https://host/acme/app", "git@other:lib", "git@other:lib"},
		{"https://host/acme/app", "ssh://git@[::1]:22/lib", "ssh://git@[::1]:22/lib"},
		{"/srv/app", "/srv/lib", "/srv/lib"},
		{"/srv/app", "lib", "no URL"},
		{"https://host/app", "lib", "this machine"},
		{"https://host/app", "/srv/lib", "this machine"},
		{"git@host:app", "file:///srv/lib", "this machine"},
		{"https://host/app", "..", "this machine"},
		{"https://host/app", "../", "names no repository"},
		{"https://host/app", "ext::sh -c x", "program"},
		{"https://host/app", "-x", "dash"},
		{"https://host/app", "ssh://-oProxyCommand=x/y", "dash"},
		{"https://host/app", "-oProxyCommand=x:y", "dash"},
		{"https://host/app", "git@host:-x", "dash"},
		{"https://host/app", "https://host/a\nb", "control"},
		{"https://host/app", "https://u:secret@host:x/", "URL"},
	} {
		got, err := gitremote.Submodule(c.parent, c.raw)
		if err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Submodule(%q, %q) = %q, %v; want %q", c.parent, c.raw, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

// FuzzSubmodule: whatever is in .gitmodules of a remote repository, what is asked
// for is at a remote too, and without ./ and ../ the host is the one written.
func FuzzSubmodule(f *testing.F) {
	f.Add("[submodule \"a\"]\n\tpath = a\n\turl = ../x\n")
	f.Add("[submodule \"a\"] path=\"a b\" ; c\n url = \"https://h/\\\"x\"\n[core]\nx\n")
	f.Add("[submodule \"a\"]\npath = ../../a\nurl = ./../../..\n")
	f.Fuzz(func(t *testing.T, text string) {
		urls, err := gitremote.ParseModules([]byte(text))
		if err != nil {
			return
		}
		for path, raw := range urls {
			if strings.HasPrefix(path, "/") || path == ".." || strings.HasPrefix(path, "../") {
				t.Fatalf("path %q", path)
			}
			const parent = "https://host/acme/app"
			url, err := gitremote.Submodule(parent, raw)
			if err != nil {
				continue
			}
			if strings.HasPrefix(raw, ".") && !strings.HasPrefix(url, "https://host/") {
				t.Fatalf("%q leads to %q", raw, url)
			}
			if strings.HasPrefix(url, "/") || strings.HasPrefix(url, "file:") {
				t.Fatalf("%q is on this machine: %q", raw, url)
			}
		}
	})
}
