package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

// each runs a test with a process group, and with a systemd.
func each(t *testing.T, test func(*testing.T, *sandbox.Sandbox)) {
	t.Run("process group", func(t *testing.T) { test(t, sandbox.New(sandbox.Config{})) })
	t.Run("systemd", func(t *testing.T) { test(t, newService(t)) })
	if os.Getenv(ofMachine) != "" {
		t.Run("systemd of the machine", func(t *testing.T) {
			units := unit.New(unit.System)
			t.Cleanup(units.Close)
			test(t, sandbox.New(sandbox.Config{Units: units, System: true, Dir: t.TempDir()}))
		})
	}
}

// ofMachine in the environment lets tests run jobs in the machine's own systemd,
// as root.
const ofMachine = "LOCKSTEP_TEST_SYSTEMD"

// newService returns a sandbox with a systemd of its own.
func newService(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	units := unit.NewUser(systemdtest.New(t).RuntimeDir)
	t.Cleanup(units.Close)
	return sandbox.New(sandbox.Config{Units: units, Dir: t.TempDir()})
}

// run runs a job that says no more than what its test is about.
func run(s *sandbox.Sandbox, ctx context.Context, j sandbox.Job, out io.Writer) error {
	j.Name, j.What, j.Reason = "test-"+rand.Text(), "build", api.ReasonBuildFailed
	j.Writable = []string{j.Dir}
	if with := s.Check(ctx, sandbox.Dynamic).With; with == "systemd" {
		j.User = sandbox.Dynamic
	}
	return s.Run(ctx, j, out)
}

func TestCommandsRunInOrderInTheDirectory(t *testing.T) {
	each(t, testCommandsRunInOrderInTheDirectory)
}

func testCommandsRunInOrderInTheDirectory(t *testing.T, s *sandbox.Sandbox) {
	dir := t.TempDir()
	var out bytes.Buffer
	err := run(s, t.Context(), sandbox.Job{
		Dir:      dir,
		Commands: []string{"echo one > a", "cat a; echo two >&2", "pwd"},
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := "$ echo one > a\n$ cat a; echo two >&2\none\ntwo\n$ pwd\n" + real + "\n"
	if out.String() != want {
		t.Errorf("output is\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTheAgentsEnvironmentIsNotInherited(t *testing.T) {
	each(t, testTheAgentsEnvironmentIsNotInherited)
}

func testTheAgentsEnvironmentIsNotInherited(t *testing.T, s *sandbox.Sandbox) {
	t.Setenv("AGENT_SECRET", "hunter2")
	var out bytes.Buffer
	err := run(s, t.Context(), sandbox.Job{
		Dir:      t.TempDir(),
		Commands: []string{"env"},
		Env:      []string{"NODE_ENV=production", "HOME=/nowhere"},
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			got[k] = v
		}
	}
	for _, shell := range []string{"PWD", "OLDPWD", "SHLVL", "_", sandbox.Marker} {
		delete(got, shell)
	}
	if got["PATH"] == "" || !strings.Contains(got["PATH"], "/usr/bin") {
		t.Errorf("PATH = %q has no /usr/bin", got["PATH"])
	}
	delete(got, "PATH")
	if len(got) != 2 || got["NODE_ENV"] != "production" || got["HOME"] != "/nowhere" {
		t.Errorf("environment is %v, want only NODE_ENV and HOME", got)
	}
}

func TestAFailureNamesCommandStatusAndOutput(t *testing.T) {
	each(t, testAFailureNamesCommandStatusAndOutput)
}

func testAFailureNamesCommandStatusAndOutput(t *testing.T, s *sandbox.Sandbox) {
	cases := []struct {
		name, command string
		want          []string
		not           []string
	}{
		{"status", "echo wrong version; exit 3",
			[]string{`"echo wrong version; exit 3" failed with exit status 3`, "\n  wrong version"}, nil},
		{"of many lines", "echo wrong\nset -e\nfalse\n", []string{`command "echo wrong …" failed with exit status 1`, "\n  wrong"}, []string{"set -e"}},
		{"of a long line", "exit 1 # " + strings.Repeat("long ", 50), []string{` l …" failed`}, []string{strings.Repeat("long ", 30)}},
		{"silent", "exit 1", []string{"(it printed nothing)"}, nil},
		{"signal", "kill -ABRT $$", []string{"exit status 134, which stands for signal SIGABRT"}, []string{"memory"}},
		{"out of memory", "kill -KILL $$", []string{"signal SIGKILL", "memory"}, nil},
		{"says that it was killed", "exit 137", []string{"exit status 137", "signal SIGKILL", "memory"}, nil},
		{"only the last ten lines", "seq 1 100; exit 1",
			[]string{"\n  91\n  92\n", "\n  100"}, []string{"\n  90\n"}},
		{"one endless line", "head -c 100000 /dev/zero | tr '\\0' x; exit 1",
			[]string{"xxxx"}, []string{strings.Repeat("x", 2049)}},
		{"colours and progress bars", `printf '10%%\r99%%\r\033[31mE:\033[0m no\a\n'; exit 1`,
			[]string{"\n  E: no"}, []string{"\x1b", "\n  10%", "\a"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := run(s, t.Context(), sandbox.Job{
				Dir:      t.TempDir(),
				Commands: []string{c.command, "touch never"},
			}, io.Discard)
			if fault.ReasonOf(err) != api.ReasonBuildFailed {
				t.Fatalf("reason of %v is %q, want build_failed", err, fault.ReasonOf(err))
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %q:\n%v", w, err)
				}
			}
			for _, n := range c.not {
				if strings.Contains(err.Error(), n) {
					t.Errorf("error contains %q:\n%v", n, err)
				}
			}
			if strings.Contains(err.Error(), "touch never") {
				t.Error("the build went on after a failed command")
			}
		})
	}
}

func TestADirectoryThatIsGoneIsNotTheReleasesFault(t *testing.T) {
	each(t, testADirectoryThatIsGoneIsNotTheReleasesFault)
}

func testADirectoryThatIsGoneIsNotTheReleasesFault(t *testing.T, s *sandbox.Sandbox) {
	err := run(s, t.Context(), sandbox.Job{
		Dir: filepath.Join(t.TempDir(), "gone"), Commands: []string{"true"},
	}, io.Discard)
	if err == nil || fault.ReasonOf(err).CondemnsRelease() {
		t.Errorf("error %v has reason %q", err, fault.ReasonOf(err))
	}
}

func TestABuildOutOfTimeIsStopped(t *testing.T) { each(t, testABuildOutOfTimeIsStopped) }

func testABuildOutOfTimeIsStopped(t *testing.T, s *sandbox.Sandbox) {
	err := run(s, t.Context(), sandbox.Job{
		Dir:      t.TempDir(),
		Commands: []string{"echo started; sleep 600"},
		Limits:   sandbox.Limits{Timeout: 2 * time.Second},
		Grace:    5 * time.Second,
	}, io.Discard)
	if fault.ReasonOf(err) != api.ReasonBuildFailed {
		t.Fatalf("error %v has reason %q", err, fault.ReasonOf(err))
	}
	for _, w := range []string{"longer than 2s", "sleep 600", "started"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error lacks %q: %v", w, err)
		}
	}
}

func TestTheTimeoutIsOfTheWholeBuild(t *testing.T) { each(t, testTheTimeoutIsOfTheWholeBuild) }

func testTheTimeoutIsOfTheWholeBuild(t *testing.T, s *sandbox.Sandbox) {
	commands := make([]string, 50)
	for i := range commands {
		commands[i] = "sleep 0.1"
	}
	err := run(s, t.Context(), sandbox.Job{
		Dir: t.TempDir(), Commands: commands, Limits: sandbox.Limits{Timeout: 300 * time.Millisecond},
	}, io.Discard)
	if fault.ReasonOf(err) != api.ReasonBuildFailed {
		t.Fatalf("fifty short commands outlived the timeout: %v", err)
	}
}

// A build may clean up on SIGTERM; ending with status 0 then is no success.
func TestAStoppedBuildThatExitsCleanlyHasFailed(t *testing.T) {
	each(t, testAStoppedBuildThatExitsCleanlyHasFailed)
}

func testAStoppedBuildThatExitsCleanlyHasFailed(t *testing.T, s *sandbox.Sandbox) {
	var out bytes.Buffer
	err := run(s, t.Context(), sandbox.Job{
		Dir:      t.TempDir(),
		Commands: []string{"trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done"},
		Limits:   sandbox.Limits{Timeout: 2 * time.Second},
		Grace:    10 * time.Second,
	}, &out)
	if fault.ReasonOf(err) != api.ReasonBuildFailed {
		t.Errorf("error %v has reason %q", err, fault.ReasonOf(err))
	}
	if !strings.HasSuffix(out.String(), "cleaned\n") {
		t.Errorf("the build had no time to clean up; output %q", out.String())
	}
}

func TestABuildThatIgnoresSIGTERMIsKilledAfterTheGrace(t *testing.T) {
	each(t, testABuildThatIgnoresSIGTERMIsKilledAfterTheGrace)
}

func testABuildThatIgnoresSIGTERMIsKilledAfterTheGrace(t *testing.T, s *sandbox.Sandbox) {
	// Shell and child ignore the signal, so only a kill of the group ends both.
	pids, out := watch(t)
	err := run(s, t.Context(), sandbox.Job{
		Dir:      t.TempDir(),
		Commands: []string{`trap "" TERM; echo $$; sh -c 'echo $$; sleep 600; :'; :`},
		Limits:   sandbox.Limits{Timeout: 2 * time.Second},
		Grace:    200 * time.Millisecond,
	}, out)
	if fault.ReasonOf(err) != api.ReasonBuildFailed {
		t.Fatalf("error %v has reason %q", err, fault.ReasonOf(err))
	}
	gone(t, next(t, pids))
	gone(t, next(t, pids))
}

func TestACancelledBuildIsKilledAndNotCondemned(t *testing.T) {
	each(t, testACancelledBuildIsKilledAndNotCondemned)
}

func testACancelledBuildIsKilledAndNotCondemned(t *testing.T, s *sandbox.Sandbox) {
	revoked := fault.Errorf(api.ReasonRevoked, "the coordinator took it back")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	pids, out := watch(t)
	done := make(chan error, 1)
	go func() {
		done <- run(s, ctx, sandbox.Job{
			Dir:      t.TempDir(),
			Commands: []string{`echo $$; sleep 600 & echo $!; wait`, "touch never"},
			Grace:    5 * time.Second,
		}, out)
	}()
	shell, child := next(t, pids), next(t, pids)
	cancel(revoked)
	err := <-done
	if !errors.Is(err, revoked) || fault.ReasonOf(err) != api.ReasonRevoked {
		t.Errorf("error %v (reason %q) does not carry the cause of the cancellation", err, fault.ReasonOf(err))
	}
	gone(t, shell)
	gone(t, child)
}

func TestWhatABuildLeavesBehindIsKilled(t *testing.T) { each(t, testWhatABuildLeavesBehindIsKilled) }

func testWhatABuildLeavesBehindIsKilled(t *testing.T, s *sandbox.Sandbox) {
	const awaitUp = `while [ ! -e up ]; do sleep 0.02; done`
	cases := []struct{ name, command string }{
		{"in the background", `sleep 600 & echo $!`},
		{"detached in a session of its own",
			`setsid sh -c 'echo $$; touch up; exec sleep 600' & ` + awaitUp},
		{"daemonised twice",
			`setsid sh -c '(setsid sh -c "echo \$\$; touch up; exec sleep 600" &)'; ` + awaitUp},
		{"by a failing command", `sleep 600 & echo $!; exit 1`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			start := time.Now()
			err := run(s, t.Context(), sandbox.Job{Dir: t.TempDir(), Commands: []string{c.command}}, &out)
			if failed := strings.Contains(c.command, "exit 1"); (err != nil) != failed {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("the build waited %v for its daemon", took)
			}
			_, printed, _ := strings.Cut(out.String(), "\n")
			pid, err := strconv.Atoi(strings.TrimSpace(printed))
			if err != nil {
				t.Fatalf("no process number in %q", out.String())
			}
			gone(t, pid)
		})
	}
}

func TestALogThatCannotBeWrittenIsReported(t *testing.T) {
	each(t, testALogThatCannotBeWrittenIsReported)
}

func testALogThatCannotBeWrittenIsReported(t *testing.T, s *sandbox.Sandbox) {
	err := run(s, t.Context(), sandbox.Job{
		Dir: t.TempDir(), Commands: []string{"head -c 1000000 /dev/zero"},
	}, &fullAfter{n: 40})
	if fault.ReasonOf(err) != api.ReasonDiskFull {
		t.Errorf("error %v has reason %q, want disk_full", err, fault.ReasonOf(err))
	}
}

type fullAfter struct{ n int }

func (f *fullAfter) Write(p []byte) (int, error) {
	f.n -= len(p)
	if f.n < 0 {
		return 0, syscall.ENOSPC
	}
	return len(p), nil
}

// watch returns a writer for build output and the numbers that were written to
// it on lines of their own.
func watch(t *testing.T) (<-chan int, io.Writer) {
	t.Helper()
	r, w := io.Pipe()
	pids := make(chan int, 16)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if pid, err := strconv.Atoi(lines.Text()); err == nil {
				pids <- pid
			}
		}
	}()
	t.Cleanup(func() { w.Close(); <-finished })
	return pids, w
}

// next returns the next number that was written, waiting for it a while.
func next(t *testing.T, pids <-chan int) int {
	t.Helper()
	select {
	case pid := <-pids:
		return pid
	case <-time.After(30 * time.Second):
		t.Fatal("the build did not write its process number")
		return 0
	}
}

// gone fails the test unless process pid soon ends. A killed orphan stays a
// zombie until init gets to reap it.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return
		}
		if i := bytes.LastIndexByte(stat, ')'); i > 0 && bytes.HasPrefix(stat[i:], []byte(") Z")) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("process %d of the build is still there: %s", pid, stat)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
