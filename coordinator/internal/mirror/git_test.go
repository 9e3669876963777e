package mirror

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// origin is a real repository that a test plays the remote with.
type origin struct {
	t    testing.TB
	dir  string // bare
	tick int    // of the clock of its commits
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed; it plays the remote here")
	}
	o := &origin{t: t, dir: filepath.Join(t.TempDir(), "blog.git")}
	o.run("", "init", "-q", "--bare", "-b", "main", o.dir)
	o.git("config", "uploadpack.allowFilter", "true")
	return o
}

// git runs git in the repository and returns what it printed.
func (o *origin) git(args ...string) string {
	o.t.Helper()
	return o.run("", append([]string{"--git-dir", o.dir}, args...)...)
}

func (o *origin) run(stdin string, args ...string) string {
	o.t.Helper()
	cmd := exec.Command("git", args...)
	at := strconv.Itoa(1_700_000_000+o.tick) + " +0000"
	cmd.Env = append(gitEnv(),
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_AUTHOR_DATE="+at,
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com", "GIT_COMMITTER_DATE="+at)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// gitEnv keeps the configuration of whoever runs the test out of it.
func gitEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"}
}

// commit makes a commit with the parents and returns its SHA.
func (o *origin) commit(message string, parents ...string) string {
	o.t.Helper()
	o.tick++
	blob := o.run(message+strconv.Itoa(o.tick), "--git-dir", o.dir, "hash-object", "-w", "--stdin")
	tree := o.run("100644 blob "+blob+"\tfile\n", "--git-dir", o.dir, "mktree")
	args := []string{"--git-dir", o.dir, "commit-tree", tree, "-F", "-"}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	return o.run(message, args...)
}

func (o *origin) point(ref, sha string) {
	o.t.Helper()
	o.git("update-ref", ref, sha)
}

// chain makes n commits on top of the parent, fast, and points the ref at the last.
func (o *origin) chain(ref, parent string, n int) string {
	o.t.Helper()
	var b strings.Builder
	for i := range n {
		o.tick++
		b.WriteString("commit " + ref + "\ncommitter Ann <ann@example.com> " + strconv.Itoa(1_700_000_000+o.tick) + " +0000\ndata <<EOT\nchange " + strconv.Itoa(o.tick) + "\nEOT\n")
		if i == 0 && parent != "" {
			b.WriteString("from " + parent + "\n")
		}
		b.WriteString("M 100644 inline file" + strconv.Itoa(i%50) + "\ndata <<EOT\n" + strings.Repeat(strconv.Itoa(o.tick*7919), 20) + "\nEOT\n\n")
	}
	o.run(b.String(), "--git-dir", o.dir, "fast-import", "--quiet", "--force")
	return o.git("rev-parse", ref)
}

// server is the repository behind http, as git itself serves it.
type server struct {
	*httptest.Server
	sent  atomic.Int64                 // bytes of answers
	limit atomic.Int64                 // of one answer, after which the connection breaks; 0 for none
	serve atomic.Pointer[http.Handler] // answers in git's place, when set
}

func (o *origin) http() *server {
	o.t.Helper()
	path := strings.TrimSpace(o.run("", "--exec-path"))
	backend := filepath.Join(path, "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		o.t.Skip("git-http-backend is not installed; it plays the remote here")
	}
	git := &cgi.Handler{Path: backend, Env: append(gitEnv(), "GIT_PROJECT_ROOT="+filepath.Dir(o.dir), "GIT_HTTP_EXPORT_ALL=1"), Stderr: io.Discard}
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cw := &countingWriter{ResponseWriter: w, s: s}
		if h := s.serve.Load(); h != nil {
			(*h).ServeHTTP(cw, r)
			return
		}
		git.ServeHTTP(cw, r)
	}))
	o.t.Cleanup(s.Close)
	return s
}

func (s *server) repo() string { return s.URL + "/blog.git" }

type countingWriter struct {
	http.ResponseWriter
	s *server
	n int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if limit := w.s.limit.Load(); limit > 0 && w.n+int64(len(p)) > limit {
		_, _ = w.ResponseWriter.Write(p[:limit-w.n])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	w.s.sent.Add(int64(n))
	return n, err
}

// daemon serves the repository over git:// and returns its URL.
func (o *origin) daemon() string {
	o.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		o.t.Fatal(err)
	}
	path := strings.TrimSpace(o.run("", "--exec-path"))
	cmd := exec.Command(filepath.Join(path, "git-daemon"), "--export-all", "--listen=127.0.0.1", "--port="+port,
		"--reuseaddr", "--base-path="+filepath.Dir(o.dir), filepath.Dir(o.dir))
	cmd.Env = gitEnv()
	if err := cmd.Start(); err != nil {
		o.t.Skipf("git daemon does not run: %v; it plays the remote here", err)
	}
	o.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			return "git://127.0.0.1:" + port + "/blog.git"
		}
		if time.Now().After(end) {
			o.t.Fatalf("git daemon does not listen: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openTest(t testing.TB, url string) *Mirror {
	t.Helper()
	m, err := Open(filepath.Join(t.TempDir(), "mirror.git"), url, gitremote.Login{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// head is Head of main, which must succeed.
func head(t testing.TB, m *Mirror) string {
	t.Helper()
	c, err := m.Head(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return c.SHA
}

func wantAncestor(t testing.TB, m *Mirror, old, new string, want bool) {
	t.Helper()
	got, err := m.IsAncestor(t.Context(), old, new)
	if err != nil || got != want {
		t.Errorf("IsAncestor(%.7s, %.7s) = %v, %v; expected %v", old, new, got, err, want)
	}
}
