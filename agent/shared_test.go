package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestWhatReleasesShareIsLinkedWhenTheyArePrepared(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1", ".env": "FROM=commit"}, "cat .env > built")
	r.Recipe.Shared = []string{".env", "public/uploads/"}
	s.prepare(r, 1)
	env := filepath.Join(s.cfg.Apps, hello, "shared", ".env")
	a := s.c.awaitApp(t, hello, "the attempt fails", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Failed })
	if a.Prepare.Reason != api.ReasonSharedMissing || a.Prepare.Reason.CondemnsRelease() || !strings.Contains(a.Prepare.Text, "create "+env) {
		t.Fatalf("%+v", a.Prepare)
	}
	if err := os.WriteFile(env, []byte("FROM=node"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.c.set(hello, func(a *api.Assignment) { a.Prepare = &api.Prepare{Release: r.ID, Attempt: 2} })
	s.c.awaitApp(t, hello, "the release is there", func(a api.AppReport) bool { return slices.Contains(a.Present, r.ID) })
	dir := filepath.Join(s.cfg.Apps, hello, "releases", r.ID)
	for path, want := range map[string]string{".env": "FROM=node", "built": "FROM=commit"} {
		if b, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", path, b, err, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "public/uploads")); err != nil || !fi.IsDir() {
		t.Errorf("the shared directory: %v, %v", fi, err)
	}
	s.c.await(t, "the log names what was replaced", func() bool { return strings.Contains(s.c.logs["build"], "[.env of the release gives way to "+env) })
}
