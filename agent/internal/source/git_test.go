package source_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/source"
)

// upstream is a repository made with git itself.
type upstream struct {
	t        *testing.T
	dir      string                       // work tree
	archives map[string]map[string]string // by SHA, as they do not change
}

// TestMain keeps the git that the file transport runs from reading this
// machine's settings.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "source-test-home-")
	if err == nil {
		err = errors.Join(os.Setenv("HOME", home), os.Setenv("GIT_CONFIG_NOSYSTEM", "1"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}

// gitEnv keeps git from reading anything of this machine's user.
func gitEnv(home string) []string {
	return append(os.Environ(), "HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed; it makes the repositories that these tests fetch")
	}
	u := &upstream{t: t, dir: t.TempDir(), archives: map[string]map[string]string{}}
	u.git("init", "-q", "-b", "main")
	return u
}

func (u *upstream) git(args ...string) string {
	u.t.Helper()
	return gitIn(u.t, u.dir, "", args...)
}

func gitIn(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv(dir), strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// commit writes files (a content of "->x" makes a symbolic link, "+x ..." an
// executable, "-" removes) and commits them; it returns the SHA.
func (u *upstream) commit(files map[string]string) string {
	u.t.Helper()
	for name, content := range files {
		path := filepath.Join(u.dir, name)
		must(u.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(u.t, os.RemoveAll(path))
		switch {
		case content == "-":
		case strings.HasPrefix(content, "->"):
			must(u.t, os.Symlink(content[2:], path))
		case strings.HasPrefix(content, "+x "):
			must(u.t, os.WriteFile(path, []byte(content[3:]), 0o755))
		default:
			must(u.t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
	u.git("add", "-A")
	u.git("commit", "-q", "--allow-empty", "-m", "change")
	return u.git("rev-parse", "HEAD")
}

// object makes a git object of content and returns its SHA.
func (u *upstream) object(kind, content string) string {
	u.t.Helper()
	return gitIn(u.t, u.dir, content, "hash-object", "-t", kind, "-w", "--stdin", "--literally")
}

// commitTree commits a tree made by hand on main.
func (u *upstream) commitTree(tree string) string {
	u.t.Helper()
	sha := u.git("commit-tree", "-m", "by hand", tree)
	u.git("update-ref", "refs/heads/main", sha)
	return sha
}

// rawTree is the content of a tree object.
func rawTree(t *testing.T, entries ...[3]string) string {
	t.Helper()
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e[0] + " " + e[1] + "\x00")
		for i := 0; i < 40; i += 2 {
			n, err := strconv.ParseUint(e[2][i:i+2], 16, 8)
			must(t, err)
			b.WriteByte(byte(n))
		}
	}
	return b.String()
}

// serveHTTP serves the repository as git's own CGI program does.
func (u *upstream) serveHTTP(wrap func(http.Handler) http.Handler) *httptest.Server {
	u.t.Helper()
	var h http.Handler = &cgi.Handler{
		Path: filepath.Join(u.git("--exec-path"), "git-http-backend"),
		Env:  append(gitEnv(u.dir), "GIT_PROJECT_ROOT="+filepath.Dir(u.dir), "GIT_HTTP_EXPORT_ALL=1"),
		Dir:  u.dir, Stderr: io.Discard,
	}
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	u.t.Cleanup(srv.Close)
	return srv
}

func (u *upstream) name() string { return filepath.Base(u.dir) }

// serveDaemon serves the repository over git's own protocol.
func (u *upstream) serveDaemon() (url string) {
	u.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(u.t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(u.t, l.Close())
	cmd := exec.Command(filepath.Join(u.git("--exec-path"), "git-daemon"), "--reuseaddr", "--listen=127.0.0.1",
		"--port="+strconv.Itoa(port), "--export-all", "--base-path="+filepath.Dir(u.dir), filepath.Dir(u.dir))
	cmd.Env = gitEnv(u.dir)
	must(u.t, cmd.Start())
	u.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("git daemon does not listen: %v", err)
		}
	}
	return "git://" + addr + "/" + u.name()
}

// archive returns what git itself would write for the commit.
func (u *upstream) archive(sha string) map[string]string {
	u.t.Helper()
	if known := u.archives[sha]; known != nil {
		return known
	}
	dir := u.t.TempDir()
	tar := filepath.Join(u.t.TempDir(), "a.tar")
	u.git("archive", "-o", tar, sha)
	if out, err := exec.Command("tar", "-xf", tar, "-C", dir).CombinedOutput(); err != nil {
		u.t.Fatalf("tar: %v\n%s", err, out)
	}
	u.archives[sha] = tree(u.t, dir)
	return u.archives[sha]
}

// tree describes every file below dir: kind, permission of the owner, content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			found[name] = "dir"
		case fi.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			found[name] = "-> " + target
		default:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[name] = strconv.FormatUint(uint64(fi.Mode().Perm()&0o700), 8) + " " + string(content)
		}
		return nil
	}))
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openRepo(t *testing.T, dir, url string) *source.Repo {
	t.Helper()
	origin, err := source.Git(url, nil)
	must(t, err)
	r, err := source.Open(dir, origin)
	must(t, err)
	return r
}

// checkout fetches and writes the commit and compares it with git's own idea.
func checkout(t *testing.T, u *upstream, r *source.Repo, sha string) {
	t.Helper()
	must(t, r.Fetch(t.Context(), sha, nil))
	if !r.Has(sha) {
		t.Errorf("Has(%s) is false after Fetch", sha)
	}
	dir := filepath.Join(t.TempDir(), "new")
	must(t, r.Write(t.Context(), sha, dir))
	same(t, tree(t, dir), u.archive(sha))
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%q is missing", name)
		} else if g != w {
			t.Errorf("%q is %.80q, want %.80q", name, g, w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q should not be there", name)
		}
	}
}
