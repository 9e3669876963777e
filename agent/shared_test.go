package agent_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
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

// What the app itself writes, its release command and its hooks can: a database
// with the files beside it, and its state. A build can not.
func TestTheAppsCommandsWriteWhatItShares(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skipf("there is no database to write to: %v", err)
	}
	s, _ := sandboxed(t)
	data, elsewhere := filepath.Join(s.cfg.Apps, hello, "shared", "data"), t.TempDir()
	uploads := filepath.Join(s.cfg.Apps, hello, "shared", "uploads")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, uploads); err != nil {
		t.Fatal(err)
	}
	s.deps.Environment = func(context.Context, string) (unit.Environment, error) {
		return unit.Environment{Account: unit.Account{State: []string{"hello"}, StateMode: 0o755}}, nil
	}
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"}, "! touch "+data+"/built")
	r.Recipe.Shared = []string{"data/", "uploads/"}
	r.Recipe.ReleaseCommand, r.Recipe.ReleaseTimeout = []string{
		`sqlite3 data/db.sqlite "pragma journal_mode = wal; create table t (x); insert into t values (7)"`,
		`! touch f`, `touch "$STATE_DIRECTORY/kept"`,
	}, api.Duration(time.Minute)
	r.Recipe.Hooks = &api.Hooks{AfterDrain: []string{"sqlite3 data/db.sqlite 'select 6 * x from t' > uploads/answer"}, Timeout: api.Duration(time.Minute)}
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.command(r, 1, false)
	s.awaitCommand(t, "it is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	if c := s.awaitCommand(t, "the command ends", over); !c.OK {
		t.Fatalf("%+v", c)
	}
	s.turn(1, r.ID, "")
	if o := s.outcome(t, 1); !o.OK {
		t.Fatalf("%+v", o)
	}
	if b, err := os.ReadFile(filepath.Join(elsewhere, "answer")); err != nil || string(b) != "42\n" {
		t.Errorf("the hook wrote %q, %v", b, err)
	}
}
