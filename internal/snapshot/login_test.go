package snapshot_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// TestMain has the certificate of test servers trusted, and keeps git and ssh
// from reading this machine's settings.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "snapshot-test-home-")
	if err == nil {
		srv := httptest.NewTLSServer(nil)
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
		srv.Close()
		err = errors.Join(os.WriteFile(filepath.Join(home, "ca.pem"), cert, 0o600),
			os.Setenv("SSL_CERT_FILE", filepath.Join(home, "ca.pem")), os.Setenv("HOME", home),
			os.Setenv("GIT_CONFIG_NOSYSTEM", "1"), os.Unsetenv("SSH_AUTH_SOCK"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// upstream makes a repository with one commit.
func upstream(t *testing.T) (dir, sha string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed; it makes the repositories that these tests fetch")
	}
	dir = filepath.Join(t.TempDir(), "acme", "app.git")
	must(t, os.MkdirAll(dir, 0o755))
	run(t, dir, "git", "init", "-q", "-b", "main")
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o644))
	run(t, dir, "git", "add", "a")
	run(t, dir, "git", "commit", "-q", "-m", "change")
	run(t, dir, "git", "config", "uploadpack.allowAnySHA1InWant", "true")
	return dir, run(t, dir, "git", "rev-parse", "HEAD")
}

func fetch(t *testing.T, url, sha string, l gitremote.Login) (said string, err error) {
	t.Helper()
	origin, err := snapshot.Git(url, func(string) gitremote.Login { return l })
	must(t, err)
	r, err := snapshot.Open(filepath.Join(t.TempDir(), "store.git"), origin)
	must(t, err)
	var out bytes.Buffer
	err = r.Fetch(t.Context(), sha, &out)
	if err == nil && !r.Has(sha) {
		t.Error("the commit is not there after a fetch")
	}
	return out.String(), err
}

// expect checks an error's kind and text, and that it tells no secret.
func expect(t *testing.T, said string, err, kind error, texts []string, secrets ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%v is not %q", err, kind)
	}
	if err == nil {
		return
	}
	for _, w := range texts {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q: %v", w, err)
		}
	}
	all := said + err.Error() + fmt.Sprintf("%+v %#v", err, err)
	for e := err; e != nil; e = errors.Unwrap(e) {
		all += e.Error()
	}
	for _, s := range secrets {
		if strings.Contains(all, s) {
			t.Errorf("%q leaks: %s", s, all)
		}
	}
}

func TestATokenOverHTTPS(t *testing.T) {
	dir, sha := upstream(t)
	const token = "ghs_12345_a.b/c+d e"
	backend := &cgi.Handler{
		Path: filepath.Join(run(t, dir, "git", "--exec-path"), "git-http-backend"), Dir: dir, Stderr: io.Discard,
		Env: append(os.Environ(), "GIT_PROJECT_ROOT="+filepath.Dir(filepath.Dir(dir)), "GIT_HTTP_EXPORT_ALL=1"),
	}
	gone := false
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent to where the remote pointed")
		}
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	defer elsewhere.Close()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved/"):
			http.Redirect(w, r, elsewhere.URL+"/x"+r.URL.RequestURI(), http.StatusFound)
		case password != token:
			http.Error(w, "bad credentials: "+password, http.StatusUnauthorized)
		case gone:
			http.Error(w, "not found", http.StatusNotFound)
		default:
			backend.ServeHTTP(w, r)
		}
	}))
	defer srv.Close()
	url := srv.URL + "/acme/app.git/.git"
	login := func(p string) gitremote.Login {
		return gitremote.Login{From: "file /etc/lockstep/token", User: gitremote.TokenUser, Password: func() (string, error) { return p, nil }}
	}

	said, err := fetch(t, url, sha, login(token))
	expect(t, said, err, nil, nil)
	said, err = fetch(t, url, sha, gitremote.Login{})
	expect(t, said, err, gitremote.ErrDenied, []string{"give credentials"})
	said, err = fetch(t, url, sha, login("ghs_old_SECRET"))
	expect(t, said, err, gitremote.ErrDenied, []string{"file /etc/lockstep/token", "wrong or expired"}, "SECRET")
	said, err = fetch(t, srv.URL+"/moved/app.git", sha, login("ghs_SECRET"))
	expect(t, said, err, gitremote.ErrDenied, nil, "SECRET")
	unread := gitremote.Login{From: "file /x", User: "u", Password: func() (string, error) { return "", os.ErrNotExist }}
	said, err = fetch(t, url, sha, unread)
	expect(t, said, err, gitremote.ErrDenied, []string{"cannot get its credentials"})
	said, err = fetch(t, url, strings.Repeat("1", 40), login(token))
	expect(t, said, err, gitremote.ErrUnknownCommit, []string{"forced push"}, token)
	gone = true
	said, err = fetch(t, url, sha, login(token))
	expect(t, said, err, gitremote.ErrNoRepository, []string{"may not read"}, token)
}

// sshd runs a real server on a port of its own; it ends with the test.
func sshd(t *testing.T, hostKey, authorized string) (port int) {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Skip("openssh-server is not installed")
	}
	if os.Getuid() == 0 {
		must(t, os.MkdirAll("/run/sshd", 0o755)) // where it locks itself up
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port = l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())
	config := filepath.Join(t.TempDir(), "sshd_config")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
`, port, hostKey, authorized), 0o600))
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	var log bytes.Buffer
	cmd.Stderr = &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", &log)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return port
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v", err)
		}
	}
}

func TestADeployKeyAndKnownHosts(t *testing.T) {
	dir, sha := upstream(t)
	me, err := user.Current()
	must(t, err)
	keys := t.TempDir()
	keygen := func(name string) string {
		path := filepath.Join(keys, name)
		run(t, keys, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
		return path
	}
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	host, deploy, stranger := keygen("host"), keygen("deploy"), keygen("stranger")
	port := sshd(t, host, deploy+".pub")
	known := func(key string) string {
		pub, err := os.ReadFile(key + ".pub")
		must(t, err)
		path := filepath.Join(t.TempDir(), "known_hosts")
		must(t, os.WriteFile(path, fmt.Appendf(nil, "[127.0.0.1]:%d %s", port, pub), 0o600))
		return path
	}
	url := fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", me.Username, port, dir)
	nobody := filepath.Join(t.TempDir(), "known_hosts")
	must(t, os.WriteFile(nobody, nil, 0o600))

	_, err = fetch(t, url, sha, gitremote.Login{Key: deploy, KnownHosts: known(host)})
	expect(t, "", err, nil, nil)
	_, err = fetch(t, url, sha, gitremote.Login{Key: stranger, KnownHosts: known(host)})
	expect(t, "", err, gitremote.ErrDenied, []string{"deploy key", stranger})
	changed := known(stranger)
	_, err = fetch(t, url, sha, gitremote.Login{Key: deploy, KnownHosts: changed})
	expect(t, "", err, gitremote.ErrHostKey, []string{"in between", changed})
	_, err = fetch(t, url, sha, gitremote.Login{Key: deploy, KnownHosts: nobody})
	expect(t, "", err, gitremote.ErrDenied, []string{"known_hosts"})
	_, err = fetch(t, url, sha, gitremote.Login{Key: filepath.Join(keys, "none"), KnownHosts: known(host)})
	expect(t, "", err, gitremote.ErrDenied, []string{"none"})
	_, err = fetch(t, url+"-none", sha, gitremote.Login{Key: deploy, KnownHosts: known(host)})
	expect(t, "", err, gitremote.ErrNoRepository, nil)
	_, err = fetch(t, url, strings.Repeat("1", 40), gitremote.Login{Key: deploy, KnownHosts: known(host)})
	expect(t, "", err, gitremote.ErrUnknownCommit, []string{"forced push"})
}

func TestWhichRepositoriesAPrefixCovers(t *testing.T) {
	for _, c := range []struct {
		prefix, url string
		want        bool
	}{
		{"https://github.com/acme/", "https://github.com/acme/app.git", true},
		{"https://github.com/acme", "https://github.com/acme/app.git", true},
		{"https://github.com", "https://github.com/acme/app.git", true},
		{"https://GitHub.com/acme/app.git", "https://github.com/acme/app.git", true},
		{"https://github.com/acme", "https://github.com/acme-evil/app.git", false},
		{"https://github.com/acme", "https://github.com.evil/acme/app.git", false},
		{"https://github.com/acme", "http://github.com/acme/app.git", false},
		{"https://github.com/acme", "https://github.com:8443/acme/app.git", false},
		{"https://github.com/acme", "https://github.com/acme/../evil/app.git", false},
		{"ssh://git@github.com/", "git@github.com:acme/app.git", true},
		{"git@github.com:acme", "ssh://git@github.com/acme/app.git", true},
		{"ssh://git@github.com/", "me@github.com:acme/app.git", false},
		{"https://github.com/acme", "/srv/git/app.git", false},
	} {
		if got := gitremote.Covers(c.prefix, c.url); got != c.want {
			t.Errorf("Covers(%q, %q) = %v", c.prefix, c.url, got)
		}
	}
}
