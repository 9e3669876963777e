package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// TestWhoIsToBeLastIsKnownBeforeAnyTurn is of an app with last_if: as long as the
// command has not answered, its release counts as not prepared, so that no turn is
// given by what is not known.
func TestWhoIsToBeLastIsKnownBeforeAnyTurn(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	ask, answer := filepath.Join(t.TempDir(), "asked"), filepath.Join(t.TempDir(), "answer")
	s.c.set(hello, func(a *api.Assignment) {
		a.Spec.LastIf = "echo $LOCKSTEP_APP $LOCKSTEP_NODE > " + ask + "; while ! test -e " + answer + "; do sleep 0.02; done; grep -q primary " + answer
	})
	s.start(t)
	r := s.repo.release(nil)
	s.prepare(r, 1)
	s.c.awaitApp(t, hello, "it is asked, and the release is built", func(a api.AppReport) bool {
		_, err := os.Stat(ask)
		return err == nil && a.Prepare != nil && a.Prepare.Step == "" && !a.Prepare.Failed
	})
	// Reported meanwhile or not: it must not count as prepared.
	s.c.mu.Lock()
	for _, rq := range s.c.seen {
		for _, a := range rq.Apps {
			if slices.Contains(a.Present, r.ID) {
				t.Error("the release counts as prepared before the answer")
			}
		}
	}
	s.c.mu.Unlock()
	if err := os.WriteFile(answer, []byte("primary"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := s.c.awaitApp(t, hello, "the release is prepared", func(a api.AppReport) bool { return slices.Contains(a.Present, r.ID) })
	if !a.Targets[0].Last {
		t.Errorf("%+v, expected to be last", a.Targets[0])
	}
	if b, err := os.ReadFile(ask); err != nil || string(b) != "hello web1\n" {
		t.Errorf("the command was told %q (%v)", b, err)
	}
	// The primary moves: it is asked again while the rollout lives.
	if err := os.WriteFile(answer, []byte("standby"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.c.awaitApp(t, hello, "it is not to be last any more", func(a api.AppReport) bool { return !a.Targets[0].Last })
	if d := s.c.reports[hello].Targets[0].Detail; strings.Contains(d, "last_if") {
		t.Errorf("a plain no is told as a failure: %s", d)
	}
	s.c.set(hello, func(a *api.Assignment) { a.Spec.LastIf = "no-such-command-here" })
	s.c.awaitApp(t, hello, "a command that cannot be run is named", func(a api.AppReport) bool {
		return !a.Targets[0].Last && strings.Contains(a.Targets[0].Detail, "order.last_if")
	})
}
