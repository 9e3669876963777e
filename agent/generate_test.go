package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// generated is a site whose app has no unit of its own.
func generated(t *testing.T) (s *site, file string, run func(greeting string) *api.Run) {
	t.Helper()
	s = newSite(t)
	s.cfg.Systemd, s.cfg.GenerateUnits = "user", true
	s.deps.UnitFiles = s.deps.Units.(*unit.Manager)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.c.set(hello, func(a *api.Assignment) { a.Spec.Unit, a.Spec.Generated = unitfile.Name(hello, false), true })
	dir, err := s.deps.Units.(*unit.Manager).Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, filepath.Join(dir, unitfile.Name(hello, false)), func(greeting string) *api.Run {
		return &api.Run{Command: "exec " + self, Env: map[string]string{serveAt: s.addr, "GORACE": "atexit_sleep_ms=0", "GREETING": greeting}}
	}
}

// prepareRun is prepare of a release that is run in the given way.
func (s *site) prepareRun(t *testing.T, files map[string]string, run *api.Run) api.Release {
	t.Helper()
	r := s.prepare(t, files)
	r.Recipe.Run = run
	s.describe(r)
	return r
}

// The unit comes with the release that it is of, and goes with it.
func TestAGeneratedUnitChangesWithItsTurn(t *testing.T) {
	t.Parallel()
	s, file, run := generated(t)
	s.start(t)
	text := func() string {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(b)
	}
	one := s.prepareRun(t, map[string]string{"version": "one"}, run("hello"))
	r := s.c.awaitApp(t, hello, "the unit is told of", func(r api.AppReport) bool { return r.Unit != nil })
	if u := r.Unit; u.Installed != "" || u.Refused != "" || u.Host.Apps != s.cfg.Apps || u.Host.Scope != "user" || text() != "" {
		t.Errorf("before the first turn: %+v, file %q", u, text())
	}
	if o, target := s.c.awaitTurn(t, hello, s.activate(one.ID, "")); !o.OK || target.Release != one.ID {
		t.Fatalf("first deployment: %+v, %+v", o, target)
	}
	first := text()
	if !strings.Contains(first, "GREETING=hello") {
		t.Errorf("the unit is %s", first)
	}
	s.c.awaitApp(t, hello, "the unit is told of as it is", func(r api.AppReport) bool {
		return r.Unit != nil && r.Unit.Installed == unitfile.Digest(first)
	})

	two := s.prepareRun(t, map[string]string{"version": "two", "slow": "1s", "sick": "yes"}, run("goodbye"))
	if text() != first {
		t.Error("the unit changed without a turn")
	}
	turn := s.activate(two.ID, one.ID)
	s.c.awaitApp(t, hello, "the release is being verified", func(r api.AppReport) bool { return r.Targets[0].Step == api.StepVerify })
	if !strings.Contains(text(), "GREETING=goodbye") {
		t.Errorf("the unit is %s", text())
	}
	s.stop() // what goes back must not depend on who began
	s.start(t)
	if o, target := s.c.awaitTurn(t, hello, turn); !o.Reverted || o.Reason != api.ReasonUnhealthy || target.Release != one.ID {
		t.Fatalf("a bad release: %+v, %+v", o, target)
	}
	if text() != first {
		t.Errorf("the unit of the release before was not put back: %s", text())
	}

	s.c.do(func() { delete(s.c.want, hello) })
	s.c.await(t, "the app is let go", func() bool { _, there := s.c.reports[hello]; return !there })
	if st, err := s.deps.Units.Status(t.Context(), unitfile.Name(hello, false)); err != nil || !st.Up() || text() != first {
		t.Errorf("an app that leaves is not left alone: %+v, %v", st, err)
	}
}

// Units are written only where the node allows it, and never over another's.
func TestAUnitThatMustNotBeWritten(t *testing.T) {
	t.Parallel()
	s, file, run := generated(t)
	s.cfg.GenerateUnits = false
	s.start(t)
	one := s.prepareRun(t, map[string]string{"version": "one"}, run("hello"))
	refused := func(words ...string) {
		t.Helper()
		o, _ := s.c.awaitTurn(t, hello, s.activate(one.ID, ""))
		r := s.c.awaitApp(t, hello, "the unit is told of", func(r api.AppReport) bool { return r.Unit != nil && r.Unit.Refused != "" })
		for _, text := range []string{o.Text, r.Unit.Refused} {
			for _, word := range words {
				if !strings.Contains(text, word) {
					t.Errorf("%q lacks %q", text, word)
				}
			}
		}
		if o.OK || o.Reason != api.ReasonUnitNotAllowed || o.Out > 0 {
			t.Errorf("outcome %+v", o)
		}
	}
	refused("generate_units: true", unitfile.Name(hello, false))
	s.stop()

	s.cfg.GenerateUnits = true
	const theirs = "[Service]\nExecStart=/bin/true\n"
	if err := os.WriteFile(file, []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	refused("Lockstep did not write")
	if b, err := os.ReadFile(file); err != nil || string(b) != theirs {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// No two apps of a node may share a unit: each would restart the other.
func TestAUnitOfAnotherApp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	s.c.set("bye", func(a *api.Assignment) {
		a.Spec = api.Spec{Repo: s.repo.dir, Unit: "hello.service", RestartTimeout: api.Duration(time.Second)}
		a.Targets = []api.Goal{{Target: "bye@web1"}}
	})
	s.c.awaitApp(t, "bye", "the other app is known", func(api.AppReport) bool { return true })
	r := s.prepare(t, map[string]string{"version": "one"})
	o, _ := s.c.awaitTurn(t, hello, s.activate(r.ID, ""))
	if o.OK || o.Reason != api.ReasonUnitNotAllowed || !strings.Contains(o.Text, "also the unit of the app bye") {
		t.Errorf("outcome %+v", o)
	}
}

// A release command of an app whose unit is generated is given what the unit will
// be, before there is one.
func TestAReleaseCommandBeforeTheUnitIsWritten(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	said := filepath.Join(t.TempDir(), "said")
	shared := filepath.Join(s.cfg.Apps, hello, "shared")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shared, ".env"), []byte("DATABASE=postgres://db\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	r := s.offer(t, 0, `echo "$MODE $PORT $DATABASE" >`+said)
	s.c.set(hello, func(a *api.Assignment) {
		r.Recipe.Run = &api.Run{Command: "bin/server", Env: map[string]string{"MODE": "production", "PORT": "{instance}"}}
		a.Releases = []api.Release{r}
		a.Targets[0].Instance, a.Targets[0].Unit = "8000", "lockstep-hello@8000.service"
	})
	s.command(r, 1, false)
	s.awaitCommand(t, "the number is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	if c := s.awaitCommand(t, "the command ends", over); !c.OK {
		t.Fatalf("%+v", c)
	}
	if b, err := os.ReadFile(said); err != nil || string(b) != "production 8000 postgres://db\n" {
		t.Errorf("it was given %q, %v", b, err)
	}
}
