package agent_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Whoever moves the current link by hand, or restarts the unit on it, is noticed
// by the next look.
func TestWhatAnotherHandChangedIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	one := s.first(t)
	two := s.prepare(t, map[string]string{"version": "two"})
	if o, _ := s.c.awaitTurn(t, hello, s.activate(two.ID, one.ID)); !o.OK {
		t.Fatalf("%+v", o)
	}
	link := filepath.Join(s.cfg.Apps, hello, "current")
	relink := func(target string) {
		t.Helper()
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if target == "" {
			return
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what, release, current string) {
		t.Helper()
		s.c.awaitApp(t, hello, what, func(r api.AppReport) bool {
			tr := r.Targets[0]
			return tr.Release == release && tr.Current == current && (tr.Rotation == api.RotationIn) == (release != "")
		})
	}
	await("all is as it should be", two.ID, "")
	relink("releases/" + one.ID)
	await("the link is seen to be moved", two.ID, one.ID)
	if _, err := s.deps.Units.Restart(t.Context(), "hello.service"); err != nil {
		t.Fatal(err)
	}
	await("another release is seen to run", one.ID, "")
	relink("")
	await("the link is seen to be gone", one.ID, "none")
	if err := os.Symlink("releases/"+one.ID, link); err != nil {
		t.Fatal(err)
	}
	if err := s.deps.Units.Stop(t.Context(), "hello.service"); err != nil {
		t.Fatal(err)
	}
	await("it is down, on another release than it was left on", "", one.ID)
	relink("releases/" + two.ID)
	await("it is merely down", "", "")
}
