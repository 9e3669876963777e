package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

// sandboxed is a small site whose builds run in units of a systemd of its own.
func sandboxed(t *testing.T) (small, *unit.Manager) {
	t.Helper()
	units := unit.NewUser(systemdtest.New(t).RuntimeDir)
	t.Cleanup(units.Close)
	s := newSmall(t)
	s.deps.Sandbox = sandbox.New(sandbox.Config{Units: units, Dir: filepath.Join(s.cfg.State, "jobs")})
	return s, units
}

func building(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Step == api.StepBuild }

func TestABuildOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	s, _ := sandboxed(t)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("hunter2hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cfg.Secrets = map[string]string{"NPM_TOKEN": token}
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"},
		`echo ran >> count; echo "with $NPM_TOKEN"; n=0; while [ $n -lt 40 ]; do sleep 0.1; n=$((n+1)); echo $n >&2; done`, "echo built > out")
	r.Recipe.Secrets = []string{"NPM_TOKEN"}
	s.prepare(r, 1)
	s.c.await(t, "the build prints", func() bool { return strings.Contains(s.c.logs["build"], "\n1\n") })
	s.stop()
	s.start(t)
	s.c.awaitPresent(t, hello, r.ID)
	for name, want := range map[string]string{"count": "ran\n", "out": "built\n"} {
		b, err := os.ReadFile(filepath.Join(s.cfg.Apps, hello, "releases", r.ID, name))
		if err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
	s.c.await(t, "the end of the log arrives", func() bool { return strings.Contains(s.c.logs["build"], "$ echo built") })
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	log := s.c.logs["build"]
	for _, line := range []string{"\nwith ***\n", "\n2\n", "\n39\n", "\n40\n", "$ echo built > out\n"} {
		if strings.Count(log, line) != 1 {
			t.Errorf("%q stands %d times in the log, want once:\n%s", line, strings.Count(log, line), log)
		}
	}
	if !strings.Contains(log, "restarted here") {
		t.Errorf("the log does not tell of the restart:\n%s", log)
	}
}

func TestABuildThatIsNotWantedAnyMoreEndsAsAWhole(t *testing.T) {
	t.Parallel()
	s, units := sandboxed(t)
	s.start(t)
	slow := s.repo.release(map[string]string{"f": "1"}, `setsid sleep 600 & echo up; sleep 600`)
	s.prepare(slow, 1)
	s.c.awaitApp(t, hello, "the build is under way", building)
	s.c.await(t, "the build prints", func() bool { return strings.Contains(s.c.logs["build"], "up\n") })
	s.c.set(hello, func(a *api.Assignment) { a.Prepare = nil })
	s.c.awaitApp(t, hello, "the build is over", func(a api.AppReport) bool { return !building(a) })
	left, err := units.Transients(t.Context(), "lockstep-"+hello+".*")
	if err != nil || len(left) != 0 {
		t.Errorf("units are left: %v, %v", left, err)
	}
}

// What is not wanted any more once the agent is back is ended then.
func TestABuildThatNobodyWaitsForIsEnded(t *testing.T) {
	t.Parallel()
	s, units := sandboxed(t)
	s.start(t)
	slow := s.repo.release(map[string]string{"f": "1"}, `echo up; sleep 600`)
	s.prepare(slow, 1)
	s.c.await(t, "the build prints", func() bool { return strings.Contains(s.c.logs["build"], "up\n") })
	s.stop()
	if left, err := units.Transients(t.Context(), "lockstep-"+hello+".*"); err != nil || len(left) != 1 {
		t.Fatalf("units that run without the agent: %v, %v", left, err)
	}
	next := s.repo.release(map[string]string{"f": "2"}, "true")
	s.prepare(next, 1)
	s.start(t)
	s.c.awaitPresent(t, hello, next.ID)
	if left, err := units.Transients(t.Context(), "lockstep-"+hello+".*"); err != nil || len(left) != 0 {
		t.Errorf("units are left: %v, %v", left, err)
	}
	staged, err := filepath.Glob(filepath.Join(s.cfg.Apps, hello, "releases", ".staging-*"))
	if err != nil || len(staged) != 0 {
		t.Errorf("staged is %v, %v", staged, err)
	}
}

func TestASecretThatTheNodeLacksIsNamed(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(nil, "true")
	r.Recipe.Secrets = []string{"NPM_TOKEN"}
	s.prepare(r, 1)
	a := s.c.awaitApp(t, hello, "the attempt fails", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Failed })
	if a.Prepare.Reason.CondemnsRelease() || !strings.Contains(a.Prepare.Text, "secrets: {NPM_TOKEN:") {
		t.Errorf("reason %s: %s", a.Prepare.Reason, a.Prepare.Text)
	}
}

func TestHowBuildsAreHeldInIsReported(t *testing.T) {
	t.Parallel()
	s, _ := sandboxed(t)
	s.start(t)
	s.c.await(t, "the sandbox was tried", func() bool {
		if len(s.c.seen) == 0 {
			return false
		}
		held := s.c.seen[len(s.c.seen)-1].Sandbox
		return held != nil && held.With == "systemd" && held.Problem == "" && held.User != ""
	})
}

// How much memory a build may have can be said for nodes of any size.
func TestMemoryInPercentIsOfTheNode(t *testing.T) {
	t.Parallel()
	m := systemdtest.New(t)
	units := unit.NewUser(m.RuntimeDir)
	t.Cleanup(units.Close)
	s := newSmall(t)
	s.deps.Sandbox = sandbox.New(sandbox.Config{Units: units, Dir: filepath.Join(s.cfg.State, "jobs")})
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"}, `echo up; while [ ! -e "$LOCKSTEP_CACHE/go" ]; do sleep 0.05; done`)
	r.Recipe.Limits = &api.BuildLimits{MemoryPercent: 50}
	s.prepare(r, 1)
	s.c.await(t, "the build prints", func() bool { return strings.Contains(s.c.logs["build"], "up\n") })
	var all, limit int64
	b, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		_, err = fmt.Sscanf(string(b), "MemTotal: %d kB", &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(m.RuntimeDir, "systemd", "transient", "lockstep-"+hello+".*.service"))
	if err != nil || len(files) != 1 {
		t.Fatalf("units of the build: %v, %v", files, err)
	}
	b, err = os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "MemoryMax=")
	if _, err := fmt.Sscan(text, &limit); err != nil || limit < all*1024*49/100 || limit > all*1024/2 {
		t.Errorf("the build may have %d bytes of %d kB: %v", limit, all, err)
	}
	if err := os.WriteFile(filepath.Join(s.cfg.State, "cache", hello, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.c.awaitPresent(t, hello, r.ID)
}

// A bundler puts into its files which commit they are of. What differs from node to
// node, or from rollout to rollout, no build is told: its files would differ, too.
func TestABuildIsToldItsRelease(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"f": "1"}, "env | grep ^LOCKSTEP_ | grep -v -e ^LOCKSTEP_JOB= -e ^LOCKSTEP_CACHE= | sort > told")
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	want := "LOCKSTEP_APP=hello\nLOCKSTEP_RELEASE=" + r.ID + "\nLOCKSTEP_SHA=" + r.SHA + "\n"
	if b, err := os.ReadFile(filepath.Join(s.cfg.Apps, hello, "releases", r.ID, "told")); err != nil || string(b) != want {
		t.Errorf("a build is told %q, %v; want %q", b, err, want)
	}
}
