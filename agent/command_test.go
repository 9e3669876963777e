package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// offer prepares a release with a release command, and offers the command.
func (s small) offer(t *testing.T, number uint64, command ...string) api.Release {
	t.Helper()
	r := s.repo.release(map[string]string{"f": "1"})
	r.Recipe.ReleaseCommand, r.Recipe.ReleaseTimeout = command, api.Duration(time.Minute)
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	if number > 0 {
		s.command(r, number, false)
	}
	return r
}

func (s small) command(r api.Release, number uint64, begin bool) {
	s.c.set(hello, func(a *api.Assignment) { a.Command = &api.Command{Release: r.ID, Number: number, Go: begin} })
}

func (s small) awaitCommand(t *testing.T, what string, so func(api.CommandReport) bool) api.CommandReport {
	t.Helper()
	return *s.c.awaitApp(t, hello, what, func(a api.AppReport) bool { return a.Command != nil && so(*a.Command) }).Command
}

func over(c api.CommandReport) bool { return c.OK || c.Reason != "" }

func TestAReleaseCommandRunsOnceForEachNumber(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	count := filepath.Join(t.TempDir(), "count")
	s.deps.Environment = func(context.Context, string) (unit.Environment, error) {
		return unit.Environment{
			// What is Lockstep's own to say, nobody else does.
			Set:    map[string]string{"PORT": "8000", "LOCKSTEP_APP": "other", "LOCKSTEP_MODE": "x"},
			Files:  map[string]string{"DATABASE": "postgres://top-secret", "LOCKSTEP_RELEASE": "other"},
			Unread: []string{"open /etc/other.env: permission denied"},
		}, nil
	}
	s.start(t)
	r := s.offer(t, 7, `echo "$LOCKSTEP_APP $LOCKSTEP_RELEASE $LOCKSTEP_MODE $PORT $DATABASE" | tee -a `+count+`; test "$(cat f)" = 1`)
	claimed := s.awaitCommand(t, "the number is claimed", func(c api.CommandReport) bool { return c.Number == 7 })
	if claimed.Running || over(claimed) {
		t.Fatalf("begun without leave: %+v", claimed)
	}
	if _, err := os.Stat(count); err == nil {
		t.Fatal("it ran before it had leave to")
	}
	s.command(r, 7, true)
	c := s.awaitCommand(t, "the command ends", over)
	if !c.OK || !strings.HasPrefix(c.Text, "in ") {
		t.Fatalf("%+v", c)
	}
	// Neither a repeated assignment nor another agent runs it again.
	s.command(r, 7, true)
	s.stop()
	s.start(t)
	s.command(r, 7, true)
	s.command(r, 8, false)
	s.awaitCommand(t, "a later one is claimed", func(c api.CommandReport) bool { return c.Number == 8 })
	want := hello + " " + r.ID + "  8000 postgres://top-secret\n"
	if b, err := os.ReadFile(count); err != nil || string(b) != want {
		t.Errorf("%q, %v; want %q", b, err, want)
	}
	s.c.await(t, "the log arrives", func() bool { return strings.Contains(s.c.logs["release_command"], "8000 ***") })
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if log := s.c.logs["release_command"]; strings.Contains(log, "top-secret\n") || !strings.Contains(log, "/etc/other.env: permission denied") {
		t.Errorf("the log:\n%s", log)
	}
}

func TestAReleaseCommandThatFailsCondemnsTheRelease(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.offer(t, 1, "true", "echo no such column; exit 3")
	s.awaitCommand(t, "it is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	c := s.awaitCommand(t, "the command ends", over)
	if c.OK || !c.Reason.CondemnsRelease() || !strings.Contains(c.Text, "no such column") || !strings.Contains(c.Text, "exit status 3") {
		t.Errorf("%+v", c)
	}
}

// An agent without its journal cannot know whether the command ran.
func TestAReleaseCommandThatWasNotClaimedIsNotBegun(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	ran := filepath.Join(t.TempDir(), "ran")
	s.start(t)
	r := s.offer(t, 0, "touch "+ran)
	s.command(r, 4, true)
	if c := s.awaitCommand(t, "it is refused", over); c.Reason != api.ReasonInterrupted || c.Number != 4 {
		t.Errorf("%+v", c)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it ran")
	}
}

func TestAReleaseCommandThatIsTakenBackEnds(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.offer(t, 1, "echo up; sleep 600")
	s.awaitCommand(t, "it is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	s.c.await(t, "it prints", func() bool { return strings.Contains(s.c.logs["release_command"], "up\n") })
	s.c.set(hello, func(a *api.Assignment) { a.Command = nil })
	if c := s.awaitCommand(t, "it is over", over); c.Reason != api.ReasonRevoked {
		t.Errorf("%+v", c)
	}
}

// Without systemd, a command ends with its agent, and nobody knows how far it came.
func TestAReleaseCommandThatIsInterruptedIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	count := filepath.Join(t.TempDir(), "count")
	s.start(t)
	r := s.offer(t, 1, "echo ran >> "+count+"; echo up; sleep 600")
	s.awaitCommand(t, "it is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	s.c.await(t, "it prints", func() bool { return strings.Contains(s.c.logs["release_command"], "up\n") })
	s.stop()
	s.start(t)
	if c := s.awaitCommand(t, "it is over", over); c.Reason != api.ReasonInterrupted {
		t.Errorf("%+v", c)
	}
	if b, err := os.ReadFile(count); err != nil || string(b) != "ran\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A systemd keeps the command while its agent is away.
func TestAReleaseCommandOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	s, _ := sandboxed(t)
	// The system is read-only to it, save for the cache.
	cache := filepath.Join(s.cfg.State, "cache", hello+".commands")
	count, end := filepath.Join(cache, "count"), filepath.Join(cache, "end")
	s.start(t)
	r := s.offer(t, 1, "cd $LOCKSTEP_CACHE && echo ran >> count; echo up; while ! test -e end; do sleep 0.1; done")
	s.awaitCommand(t, "it is claimed", func(c api.CommandReport) bool { return c.Number == 1 })
	s.command(r, 1, true)
	s.c.await(t, "it prints", func() bool { return strings.Contains(s.c.logs["release_command"], "up\n") })
	s.stop()
	s.start(t)
	s.awaitCommand(t, "the next agent waits for it", func(c api.CommandReport) bool { return c.Running })
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := s.awaitCommand(t, "it is over", over); !c.OK {
		t.Errorf("%+v", c)
	}
	if b, err := os.ReadFile(count); err != nil || string(b) != "ran\n" {
		t.Errorf("%q, %v", b, err)
	}
}
