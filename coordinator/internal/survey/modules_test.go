package survey

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Submodules of a private repository are tried with the token that they will be
// fetched with, and what is wrong with one is told of that one.
func TestSubmodulesAreTried(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	root := t.TempDir()
	env := append(os.Environ(), "HOME="+root, "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_SYSTEM=/dev/null")
	git := func(repo string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = filepath.Join(root, repo), env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, repo := range []string{"app", "lib"} {
		if err := os.Mkdir(filepath.Join(root, repo), 0o755); err != nil {
			t.Fatal(err)
		}
		git(repo, "init", "-q", "-b", "main")
		git(repo, "commit", "-q", "--allow-empty", "-m", "first")
	}
	backend := &cgi.Handler{
		Path: filepath.Join(git("app", "--exec-path"), "git-http-backend"), Env: append(env, "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"), Stderr: io.Discard,
	}
	const token = "ghs_0123456789abcdef"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, got, _ := r.BasicAuth(); got != token {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			t.Error("the token was shown to another host")
		}
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	for path, url := range map[string]string{"lib": "../lib", "gone": "../gone", "other": elsewhere.URL + "/x", "local": "/etc"} {
		git("app", "config", "-f", ".gitmodules", "submodule."+path+".path", path)
		git("app", "config", "-f", ".gitmodules", "submodule."+path+".url", url)
	}
	bare := git("app", "rev-parse", "HEAD")
	git("app", "add", ".gitmodules")
	git("app", "commit", "-q", "-m", "submodules")
	login := gitremote.Login{From: "the test", User: gitremote.TokenUser, Password: func() (string, error) { return token, nil }}
	m, err := mirror.Open(filepath.Join(t.TempDir(), "mirror"), srv.URL+"/app", login)
	if err != nil {
		t.Fatal(err)
	}
	repo := srv.URL + "/app"
	known := func(url string) gitremote.Login {
		if gitremote.SameHost(url, repo) {
			return login
		}
		return gitremote.Login{}
	}
	look := &Modules{Repo: repo, Login: known, File: m.File}

	found, err := look.Try(t.Context(), bare)
	if err != nil || len(found) > 0 {
		t.Errorf("a commit without submodules: %v, %v", found, err)
	}
	if found, err = look.Try(t.Context(), git("app", "rev-parse", "HEAD")); err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		kind error
		text string
	}{"lib": {}, "gone": {gitremote.ErrNoRepository, "check"}, "other": {gitremote.ErrDenied, "credentials"}, "local": {nil, "on this machine"}}
	if len(found) != len(want) {
		t.Fatalf("found %v", found)
	}
	for _, f := range found {
		w := want[f.Path]
		if w.text == "" && f.Err != nil || w.text != "" && f.Err == nil || w.kind != nil && !errors.Is(f.Err, w.kind) || !strings.Contains(fmt.Sprint(f.Err), w.text) {
			t.Errorf("%s at %s: %v", f.Path, f.URL, f.Err)
		}
		if strings.Contains(fmt.Sprint(f.Err, f.URL), token) {
			t.Errorf("the token is shown: %v", f)
		}
	}
}
