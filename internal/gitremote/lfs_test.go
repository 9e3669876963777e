package gitremote

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func password(p string) func() (string, error) { return func() (string, error) { return p, nil } }

func TestCredentialsGoToTheHostOfTheFilesInLFSAlone(t *testing.T) {
	known := func(at string) Login {
		if Covers("https://files.example.com", at) {
			return Login{User: "x", Password: password("FILES")}
		}
		return Login{}
	}
	own := Login{User: "x", Password: password("OWN")}
	for _, c := range []struct {
		repo, lfs    string
		login        Login
		helper, says string // which host is logged in to, and with what
		refused      string
	}{
		{repo: "https://git.example.com/a/b.git", login: own, helper: "https://git.example.com", says: "OWN"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://git.example.com/lfs", login: own, helper: "https://git.example.com", says: "OWN"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://files.example.com/lfs", login: own, helper: "https://files.example.com", says: "FILES"},
		{repo: "https://u:URL@git.example.com/a/b.git", lfs: "https://git.example.com/lfs", helper: "https://git.example.com", says: "URL"},
		{repo: "https://u:URL@git.example.com/a/b.git", lfs: "https://files.example.com/lfs", helper: "https://files.example.com", says: "FILES"},
		{repo: "git@files.example.com:a/b.git", lfs: "https://files.example.com/lfs", helper: "https://files.example.com", says: "FILES"},
		{repo: "git@git.example.com:a/b.git", lfs: "https://git.example.com/lfs"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://evil.example.com/lfs", login: own, refused: "another host"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://git.example.com:8443/lfs", login: own, refused: "another host"},
		{repo: "https://git.example.com/a/b.git", lfs: "http://git.example.com/lfs", login: own, refused: "https"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://git.example.com@evil.example.com/lfs", login: own, refused: "user"},
		{repo: "https://git.example.com/a/b.git", lfs: "https://evil.example.com/?https://git.example.com", login: own, refused: "path"},
		{repo: "git@git.example.com:a/b.git", lfs: "https://evil.example.com/lfs", login: own, refused: "another host"},
		{repo: "/srv/repo", lfs: "file:///etc", refused: "URL"},
	} {
		r, err := Parse(c.repo)
		if err != nil {
			t.Fatal(err)
		}
		r = r.With(c.login)
		if c.lfs != "" {
			if r, err = r.WithLFS(c.lfs, known); c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("%s of %s: %v, want %q", c.lfs, c.repo, err, c.refused)
				}
				continue
			}
		}
		if err != nil {
			t.Errorf("%s of %s: %v", c.lfs, c.repo, err)
			continue
		}
		env, err := r.Environ("refused")
		if err != nil {
			t.Fatal(err)
		}
		helper, says := "", ""
		for _, e := range env {
			if _, key, ok := strings.Cut(e, "=credential."); ok {
				helper = strings.TrimSuffix(key, ".helper")
			}
			if p, ok := strings.CutPrefix(e, "LOCKSTEP_GIT_PASSWORD="); ok {
				says = p
			}
		}
		if helper != c.helper || says != c.says {
			t.Errorf("%s of %s: %q is logged in to with %q, want %q with %q", c.lfs, c.repo, helper, says, c.helper, c.says)
		}
		if c.lfs != "" && !slices.ContainsFunc(env, func(e string) bool { return strings.HasSuffix(e, "="+c.lfs) }) {
			t.Errorf("%s of %s is not in %q", c.lfs, c.repo, env)
		}
	}
}

func FuzzLFSConfig(f *testing.F) {
	for _, s := range []string{
		"[lfs]\n\turl = https://git.example.com/x\n", "[lfs]\nurl=https://git.example.com@evil/x", "[LFS]\nURL=\"https://git.example.com\\n.evil/\"",
		"[lfs]\nurl = https://git.example.com\\@evil/\n", "[lfs]\nurl = //evil\n", "[include]\npath=/etc/passwd\n", "[lfs \"https://evil\"]\nurl=x\n", "",
	} {
		f.Add(s)
	}
	repo, err := Parse("https://git.example.com/a/b.git")
	if err != nil {
		f.Fatal(err)
	}
	repo = repo.With(Login{User: "x", Password: password("OWN")})
	f.Fuzz(func(t *testing.T, content string) {
		raw, err := ParseLFSConfig([]byte(content))
		if err != nil || raw == "" {
			return
		}
		r, err := repo.WithLFS(raw, nil)
		if err != nil {
			return
		}
		u, err := url.Parse(r.LFS())
		if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Host, "git.example.com") || u.User != nil {
			t.Errorf("credentials go to %q (%v)", r.LFS(), err)
		}
	})
}
