package source_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const unknown = "1111111111111111111111111111111111111111"

func answer(status int, text string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) })
	}
}

// withUser adds credentials to a URL.
func withUser(t *testing.T, raw string, user *url.Userinfo) string {
	t.Helper()
	u, err := url.Parse(raw)
	must(t, err)
	u.User = user
	return u.String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestAFailedFetchSaysWhyAndHidesCredentials(t *testing.T) {
	u := newUpstream(t)
	u.commit(map[string]string{"a": "1"})
	empty := newUpstream(t)
	serve := func(w func(http.Handler) http.Handler) string { return u.serveHTTP(w).URL + "/" + u.name() }
	// Cut in the middle of the pack.
	cut := serve(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				h.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			_, _ = w.Write([]byte("0034shallow " + u.git("rev-parse", "HEAD") + "00000008NAK\n0015\x01PACK\x00\x00\x00\x02"))
		})
	})
	open := serve(nil)
	u.git("config", "uploadpack.allowReachableSHA1InWant", "true")
	dead := closedPort(t)
	cases := []struct {
		name, url string
		want      error
		text      []string
	}{
		{"nobody listens", "http://" + dead + "/a.git", gitremote.ErrUnreachable, []string{dead, "refused"}},
		{"nobody listens to git", "git://" + dead + "/a.git", gitremote.ErrUnreachable, []string{dead, "refused"}},
		{"no such host", "http://no-such-host.invalid/a.git", gitremote.ErrUnreachable, []string{"no-such-host.invalid"}},
		{"login needed", serve(answer(401, "log in")), gitremote.ErrDenied, []string{"token or deploy key"}},
		{"forbidden", serve(answer(403, "no")), gitremote.ErrDenied, nil},
		{"no such repository", serve(answer(404, "no")), gitremote.ErrNoRepository, nil},
		{"out of order", serve(answer(502, "bad gateway")), gitremote.ErrUnreachable, []string{"502"}},
		{"no such path", filepath.Join(t.TempDir(), "none"), gitremote.ErrNoRepository, nil},
		{"no such path of the daemon", u.serveDaemon() + "-none", gitremote.ErrNoRepository, nil},
		{"no such commit", open, gitremote.ErrUnknownCommit, []string{unknown[:12], "push it"}},
		{"no such commit in a directory", u.dir, gitremote.ErrUnknownCommit, []string{unknown[:12], "push it"}},
		{"empty repository", empty.dir, gitremote.ErrUnknownCommit, []string{"empty"}},
		{"cut off", cut, nil, nil},
		{"not git at all", serve(answer(200, "<html>\x1b[31mhello")), nil, nil},
	}
	for _, c := range cases {
		users := []*url.Userinfo{nil}
		if strings.HasPrefix(c.url, "http") {
			users = append(users, url.User("ghp_Secret1"), url.UserPassword("x-access-token", "s3cret/+ p%40ss"))
		}
		for _, user := range users {
			t.Run(c.name, func(t *testing.T) {
				raw := c.url
				if user != nil {
					raw = withUser(t, raw, user)
				}
				var said bytes.Buffer
				r := openRepo(t, filepath.Join(t.TempDir(), "store"), raw)
				err := r.Fetch(t.Context(), unknown, &said)
				if fault.ReasonOf(err) != api.ReasonFetchFailed {
					t.Fatalf("error %v has reason %q, want fetch_failed", err, fault.ReasonOf(err))
				}
				if c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("error %v is not %q", err, c.want)
				}
				for _, w := range c.text {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("error lacks %q: %v", w, err)
					}
				}
				all := err.Error() + said.String()
				for e := err; e != nil; e = errors.Unwrap(e) {
					all += e.Error()
				}
				for _, secret := range []string{"Secret1", "s3cret", "p%40ss", "p@ss", "p%2540ss", "x-access-token"} {
					if user != nil && strings.Contains(all, secret) {
						t.Errorf("%q leaks: %s", secret, all)
					}
				}
				if strings.ContainsAny(err.Error(), "\x1b\n") {
					t.Errorf("the remote's text garbles the error: %q", err)
				}
			})
		}
	}
}

func TestCredentialsOfTheURLAreUsed(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(map[string]string{"a": "1"})
	srv := u.serveHTTP(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "x-access-token" || password != "a b/c" {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	raw := withUser(t, srv.URL+"/"+u.name(), url.UserPassword("x-access-token", "a b/c"))
	checkout(t, u, openRepo(t, filepath.Join(t.TempDir(), "store"), raw), sha)
}

func TestURLsThatCannotBeUsedAreRefusedAtOnce(t *testing.T) {
	for _, raw := range []string{"ftp://user:s3cret@host/x", "https://user:s3cret@host:port/x", "https://user:s3cret/x@host/y", "https://user:s3cret?x@host/y", "https://user:s3cret%zz@host/y", "https://h/%zz?token=s3cret"} {
		_, err := source.Git(raw, nil)
		if err == nil {
			t.Errorf("%s was accepted", raw)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error leaks: %v", err)
		}
	}
}

func TestAFetchCanBeCancelled(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(map[string]string{"a": "1"})
	arrived, over := make(chan struct{}, 8), make(chan struct{})
	srv := u.serveHTTP(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				arrived <- struct{}{}
				<-over
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	t.Cleanup(func() { close(over) }) // before the server waits for its handlers
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), srv.URL+"/"+u.name())

	revoked := fault.Errorf(api.ReasonRevoked, "taken back")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- r.Fetch(ctx, sha, nil) }()
	<-arrived
	cancel(revoked)
	if err := <-done; !errors.Is(err, revoked) {
		t.Errorf("cancelled: %v", err)
	}

	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	err := r.Fetch(ctx, sha, nil)
	if fault.ReasonOf(err) != api.ReasonFetchFailed || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v (%s)", err, fault.ReasonOf(err))
	}
}

func TestAFullDiskIsNamed(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(files())
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=600k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	for name, url := range map[string]string{"path": u.dir, "http": u.serveHTTP(nil).URL + "/" + u.name(), "git": u.serveDaemon()} {
		r := openRepo(t, filepath.Join(small, "store"), url)
		err := r.Fetch(t.Context(), sha, nil)
		if fault.ReasonOf(err) != api.ReasonDiskFull {
			t.Errorf("Fetch by %s: %v (%s), want disk_full", name, err, fault.ReasonOf(err))
		}
		must(t, os.RemoveAll(filepath.Join(small, "store")))
	}
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	must(t, r.Fetch(t.Context(), sha, nil))
	if err := r.Write(t.Context(), sha, filepath.Join(small, "release")); fault.ReasonOf(err) != api.ReasonDiskFull {
		t.Errorf("Write: %v (%s), want disk_full", err, fault.ReasonOf(err))
	}
}
