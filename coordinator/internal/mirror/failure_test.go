package mirror

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

func answer(status int) *http.Handler {
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }))
	return &h
}

func TestErrorsOfTheRemote(t *testing.T) {
	t.Setenv("SSH_KNOWN_HOSTS", os.DevNull)
	o := newOrigin(t)
	o.point("refs/heads/main", o.commit("Begin"))
	s := o.http()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	withUser := strings.Replace(s.repo(), "http://", "http://to%2Fken:s3cret@", 1)
	for name, c := range map[string]struct {
		url    string
		status int
		kind   error
		want   []string
	}{
		"nobody listens":                 {"http://" + closed.Addr().String() + "/blog.git", 0, gitremote.ErrUnreachable, []string{"connection refused", "check the address"}},
		"nobody listens, with a user":    {"http://to%2Fken:s3cret@" + closed.Addr().String() + "/blog.git?key=s3cret", 0, gitremote.ErrUnreachable, []string{"connection refused"}},
		"nobody listens, over git":       {"git://" + closed.Addr().String() + "/blog.git", 0, gitremote.ErrUnreachable, []string{"connection refused"}},
		"nobody listens, over ssh":       {"ssh://git:s3cret@" + closed.Addr().String() + "/blog.git", 0, gitremote.ErrUnreachable, []string{"connection refused"}},
		"it asks who we are":             {withUser, http.StatusUnauthorized, gitremote.ErrDenied, []string{"authentication required", "deploy key"}},
		"it does not let us":             {withUser, http.StatusForbidden, gitremote.ErrDenied, []string{"authorization failed", "credentials"}},
		"it has no such repository":      {withUser, http.StatusNotFound, gitremote.ErrNoRepository, []string{"repository not found", "fleet.yaml"}},
		"it is out of order":             {withUser, http.StatusBadGateway, gitremote.ErrUnreachable, []string{"502", "remote is up"}},
		"it is no git host":              {withUser, http.StatusOK, nil, []string{"cannot read"}},
		"no such path":                   {o.dir + "/none", 0, gitremote.ErrNoRepository, []string{"repository not found"}},
		"a path of something else":       {t.TempDir(), 0, gitremote.ErrNoRepository, []string{"repository not found"}},
		"no such repository of a daemon": {strings.Replace(o.daemon(), "blog", "none", 1), 0, gitremote.ErrNoRepository, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s.serve.Store(nil)
			if c.status != 0 {
				s.serve.Store(answer(c.status))
			}
			m := openTest(t, c.url)
			for what, call := range map[string]func() error{
				"Head":       func() error { _, err := m.Head(t.Context(), "main"); return err },
				"RemoteHead": func() error { _, err := m.RemoteHead(t.Context(), "main"); return err },
				"Resolve":    func() error { _, err := m.Resolve(t.Context(), "main"); return err },
			} {
				err := call()
				var re *RemoteError
				if !errors.As(err, &re) || re.Kind != c.kind || (c.kind != nil && !errors.Is(err, c.kind)) {
					t.Fatalf("%s: %v; expected the kind %v", what, err, c.kind)
				}
				host := strings.TrimPrefix(s.URL, "http://")
				if strings.Contains(c.url, host) && !strings.Contains(err.Error(), host) {
					t.Errorf("%s: %v; expected the name of the remote", what, err)
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v; expected %q", what, err, want)
					}
				}
				for _, secret := range []string{"s3cret", "to/ken", "to%2Fken"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s shows the credential %s: %v", what, secret, err)
					}
				}
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct{ url, want string }{
		"an unknown scheme": {"ftp://ann:s3cret@host/x", "not supported"},
		"a broken URL":      {"https://ann:s3cret@ho st/%zz", "expected a URL"},
	} {
		if _, err := Open(filepath.Join(t.TempDir(), "m"), c.url, gitremote.Login{}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v; expected %q", name, err, c.want)
		}
	}
	dir := t.TempDir()
	precious := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "/srv/blog.git", gitremote.Login{}); err == nil || !strings.Contains(err.Error(), "is no mirror") {
		t.Errorf("a directory with other files: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("it was deleted: %v", err)
	}
}

// When an app moves to another repository, nothing of the first may be taken
// for its own.
func TestAnotherRemote(t *testing.T) {
	a, b := newOrigin(t), newOrigin(t)
	old := a.commit("Theirs")
	a.point("refs/heads/main", old)
	b.point("refs/heads/main", b.commit("Ours"))
	m := openTest(t, a.dir)
	head(t, m)
	m, err := Open(m.dir, b.dir, gitremote.Login{})
	if err != nil {
		t.Fatal(err)
	}
	head(t, m)
	if c, err := m.Resolve(t.Context(), old); !errors.Is(err, ErrUnknownRef) {
		t.Errorf("a commit of the remote before: %v, %v; expected ErrUnknownRef", c, err)
	}
}

func TestCredentials(t *testing.T) {
	o := newOrigin(t)
	sha := o.commit("Begin")
	o.point("refs/heads/main", sha)
	s := o.http()
	const token = "ghs_token"
	git := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "x-access-token" || password != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		git.ServeHTTP(w, r)
	})
	given, failed := "expired", error(nil)
	m, err := Open(filepath.Join(t.TempDir(), "mirror.git"), s.repo(),
		gitremote.Login{From: "a test", User: "x-access-token", Password: func() (string, error) { return given, failed }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Head(t.Context(), "main"); !errors.Is(err, gitremote.ErrDenied) || strings.Contains(err.Error(), "expired;") {
		t.Errorf("with a wrong password: %v, expected ErrDenied", err)
	}
	given = token // a new one is used without starting again
	if got := head(t, m); got != sha {
		t.Errorf("head %s, expected %s", got, sha)
	}
	failed = errors.New("the file is gone")
	if _, err := m.RemoteHead(t.Context(), "main"); err == nil || !strings.Contains(err.Error(), "the file is gone") {
		t.Errorf("without credentials: %v", err)
	}
}

// silent accepts connections and never answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestRemoteThatHangs(t *testing.T) {
	addr := silent(t)
	t.Setenv("SSH_KNOWN_HOSTS", os.DevNull)
	for name, url := range map[string]string{
		"http": "http://" + addr + "/blog.git", "git": "git://" + addr + "/blog.git", "ssh": "ssh://git:password@" + addr + "/blog.git",
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Open(filepath.Join(t.TempDir(), "mirror.git"), url, gitremote.Login{})
			if err != nil {
				t.Fatal(err)
			}
			m.timeout = 200 * time.Millisecond
			if _, err := m.Head(t.Context(), "main"); !errors.Is(err, gitremote.ErrUnreachable) || !strings.Contains(err.Error(), "200ms") {
				t.Errorf("Head: %v; expected ErrUnreachable and how long was waited", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, err := m.RemoteHead(ctx, "main"); !errors.Is(err, context.Canceled) {
				t.Errorf("RemoteHead when the caller gives up: %v", err)
			}
		})
	}
}

// The connection breaks at any byte: nothing is taken for fetched that is not,
// and nothing is left behind.
func TestFetchThatIsCutShort(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.git("config", "uploadpack.allowFilter", "false")
	s := o.http()
	first := o.chain("refs/heads/main", "", 600) // some packets
	m := openTest(t, s.repo())
	for _, limit := range []int64{100, 300, 500, 1000, 5000, 70_000, 100_000} {
		s.limit.Store(limit)
		if _, err := m.Head(t.Context(), "main"); err == nil {
			t.Fatalf("Head succeeded with %d bytes", limit)
		} else if !errors.Is(err, gitremote.ErrUnreachable) {
			t.Errorf("cut after %d bytes: %v; expected ErrUnreachable", limit, err)
		}
		left, err := filepath.Glob(filepath.Join(m.dir, "objects/pack/*"))
		if err != nil || len(left) > 0 {
			t.Errorf("cut after %d bytes, these are left: %v, %v", limit, left, err)
		}
	}
	s.limit.Store(0)
	if sha := head(t, m); sha != first {
		t.Errorf("head %s, expected %s", sha, first)
	}
}

// What was fetched is not fetched again.
func TestBytesOnTheWire(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	s := o.http()
	o.git("config", "uploadpack.allowFilter", "false") // the bigger difference
	base := o.chain("refs/heads/main", "", 500)
	o.point("refs/tags/v1", base)
	m := openTest(t, s.repo())
	cost := func(what string, most int64, f func()) int64 {
		t.Helper()
		before := s.sent.Load()
		f()
		n := s.sent.Load() - before
		if n > most {
			t.Errorf("%s took %d bytes, expected %d at most", what, n, most)
		}
		return n
	}
	all := cost("everything", 1<<20, func() { head(t, m) })
	if all < 100_000 {
		t.Fatalf("everything took %d bytes: too few to show anything", all)
	}
	cost("nothing new", 2000, func() { head(t, m) })
	cost("one look", 2000, func() {
		if _, err := m.RemoteHead(t.Context(), "main"); err != nil {
			t.Error(err)
		}
	})
	next := o.chain("refs/heads/main", base, 1)
	cost("one commit", 10_000, func() { head(t, m) })
	o.git("update-ref", "-d", "refs/tags/v1") // nothing that both have a ref on
	o.chain("refs/heads/main", o.git("rev-parse", next+"~3"), 1)
	cost("a forced push", 15_000, func() { head(t, m) })
	cost("a commit that is known", 0, func() {
		if _, err := m.Resolve(t.Context(), base); err != nil {
			t.Error(err)
		}
	})
	o.git("config", "uploadpack.allowFilter", "true")
	fresh := openTest(t, s.repo())
	filtered := cost("the commits alone", all*3/4, func() { head(t, fresh) })
	t.Logf("everything took %d bytes, the commits alone %d", all, filtered)
}
