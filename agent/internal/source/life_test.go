package source_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// What happens to a repository after a node has fetched from it is told when the
// next commit is wanted, and takes nothing away from what the node has.
func TestARepositoryThatChangesItsWays(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowReachableSHA1InWant", "true")
	first := u.commit(map[string]string{"a": "1"})
	second := u.commit(map[string]string{"a": "2"})
	var accepted, shown atomic.Pointer[string]
	var gone atomic.Bool
	set := func(p *atomic.Pointer[string], s string) { p.Store(&s) }
	set(&accepted, "ghs_FIRST")
	set(&shown, "ghs_FIRST")
	srv := u.serveHTTP(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch _, password, _ := r.BasicAuth(); {
			case password != *accepted.Load():
				http.Error(w, "no: "+password, http.StatusUnauthorized)
			case gone.Load():
				http.Error(w, "no", http.StatusNotFound)
			default:
				h.ServeHTTP(w, r)
			}
		})
	})
	origin, err := source.Git(srv.URL+"/"+u.name(), func(string) gitremote.Login {
		return gitremote.Login{From: "file /etc/lockstep/token", User: "x", Password: func() (string, error) { return *shown.Load(), nil }}
	})
	must(t, err)
	r, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
	must(t, err)
	checkout(t, u, r, first)
	refused := func(sha string, kind error, want ...string) {
		t.Helper()
		err := r.Fetch(t.Context(), sha, nil)
		if !errors.Is(err, kind) || fault.ReasonOf(err) != api.ReasonFetchFailed {
			t.Errorf("%v (%s), want %v", err, fault.ReasonOf(err), kind)
		}
		for _, w := range want {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("the error lacks %q: %v", w, err)
			}
		}
		if strings.Contains(fmt.Sprint(err), "ghs_") {
			t.Errorf("the token is shown: %v", err)
		}
		checkout(t, u, r, first)
	}

	set(&accepted, "ghs_SECOND")
	refused(second, gitremote.ErrDenied, "file /etc/lockstep/token", "wrong or expired")
	set(&shown, "ghs_SECOND") // without a restart
	checkout(t, u, r, second)

	lost := u.commit(map[string]string{"a": "3"})
	u.git("reset", "-q", "--hard", first)
	third := u.commit(map[string]string{"a": "another 3"})
	refused(lost, gitremote.ErrUnknownCommit, "forced push")
	checkout(t, u, r, third)
	checkout(t, u, r, second) // which the remote would not give any more

	gone.Store(true)
	refused(lost, gitremote.ErrNoRepository, "may not read")
}

// A disk that fills up in the middle leaves nothing behind that stands in the way
// once there is room.
func TestAfterAFullDiskAllGoesOn(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(files())
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	ballast := filepath.Join(small, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1500<<10), 0o600))
	store := filepath.Join(small, "store")
	r := openRepo(t, store, u.dir)
	if err := r.Fetch(t.Context(), sha, nil); fault.ReasonOf(err) != api.ReasonDiskFull {
		t.Errorf("Fetch: %v (%s), want disk_full", err, fault.ReasonOf(err))
	}
	if r.Has(sha) {
		t.Error("a commit that did not arrive is there")
	}
	if left, _ := filepath.Glob(filepath.Join(store, "objects", "pack", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	must(t, os.Remove(ballast))
	checkout(t, u, r, sha)
}
