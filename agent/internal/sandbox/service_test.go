package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
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

// long is a job that says when it has begun, and ends when there is a file "go".
func long(dir string) sandbox.Job {
	return sandbox.Job{
		Name: "app.build.abc-1.1", What: "build", Reason: api.ReasonBuildFailed, Dir: dir, Writable: []string{dir}, Grace: time.Second,
		Commands: []string{
			`echo ran >> count; echo begun; while [ ! -e go ]; do sleep 0.05; done; echo first over`,
			`echo second; exit 3`,
		},
	}
}

// awaitLine reads until a line, and returns everything up to it.
func awaitLine(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	var all strings.Builder
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		if lines.Text() == want {
			return all.String()
		}
	}
	t.Fatalf("no line %q in %q: %v", want, all.String(), lines.Err())
	return ""
}

// An agent is killed in mid-build. The next one goes on with the build, from
// where the output was read to, and learns how it ended.
func TestAJobOutlivesAnAgentThatIsKilled(t *testing.T) {
	if dir := os.Getenv("SANDBOX_VICTIM"); dir != "" {
		units := unit.NewUser(os.Getenv("SANDBOX_SYSTEMD"))
		s := sandbox.New(sandbox.Config{Units: units, Dir: os.Getenv("SANDBOX_JOBS")})
		t.Fatal(s.Run(context.Background(), long(dir), os.Stdout))
	}
	m := systemdtest.New(t)
	dir, jobs := t.TempDir(), t.TempDir()
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAJobOutlivesAnAgentThatIsKilled$")
	victim.Env = append(os.Environ(), "SANDBOX_VICTIM="+dir, "SANDBOX_SYSTEMD="+m.RuntimeDir, "SANDBOX_JOBS="+jobs)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, out, "begun")
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // it was killed

	units := unit.NewUser(m.RuntimeDir)
	t.Cleanup(units.Close)
	s := sandbox.New(sandbox.Config{Units: units, Dir: jobs})
	j := long(dir)
	if has, err := s.Has(t.Context(), j.Name); err != nil || !has {
		t.Fatalf("the job is not there any more: %v", err)
	}
	// It ends while nobody waits for it, as likely as not.
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	err = s.Run(t.Context(), j, &rest)
	if fault.ReasonOf(err) != api.ReasonBuildFailed || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the next agent learned %v", err)
	}
	const second = "first over\n$ echo second; exit 3\nsecond\n"
	if rest.String() != second {
		t.Errorf("the next agent read %q, want %q", rest.String(), second)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "count")); string(b) != "ran\n" {
		t.Errorf("the build ran %d times", strings.Count(string(b), "ran"))
	}
	if has, err := s.Has(t.Context(), j.Name); err != nil || has {
		t.Errorf("it is still there after its end: %v", err)
	}
	if left, _ := os.ReadDir(jobs); len(left) != 0 {
		t.Errorf("%v is left of it", left)
	}
}

func TestAnAgentThatStopsLeavesItsJobToTheNext(t *testing.T) {
	s, dir := newService(t), t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	rd, wr := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.Run(ctx, long(dir), wr)
		done <- err
		wr.CloseWithError(err)
	}()
	awaitLine(t, rd, "begun")
	cancel(sandbox.ErrLeave)
	go func() { _, _ = io.Copy(io.Discard, rd) }()
	if err := <-done; !errors.Is(err, sandbox.ErrLeave) {
		t.Fatal(err)
	}
	if has, err := s.Has(t.Context(), long(dir).Name); err != nil || !has {
		t.Fatalf("it was not left running: %v", err)
	}
	// Another release is asked for meanwhile.
	if err := s.EndOthers(t.Context(), "app.build.", "app.build.def-1.1"); err != nil {
		t.Fatal(err)
	}
	if has, err := s.Has(t.Context(), long(dir).Name); err != nil || has {
		t.Errorf("a build that nobody waits for goes on: %v", err)
	}
}

func TestTheSystemIsReadOnlyAndSecretsStayHidden(t *testing.T) {
	m := systemdtest.New(t)
	units := unit.NewUser(m.RuntimeDir)
	t.Cleanup(units.Close)
	dir, outside := t.TempDir(), t.TempDir()
	token, shut := filepath.Join(dir, "token"), filepath.Join(dir, "shut")
	if err := os.Mkdir(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shut, "inside"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("of the agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := sandbox.New(sandbox.Config{Units: units, Dir: t.TempDir(), Hidden: []string{token, shut, "/nowhere/at/all"}})
	rd, wr := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.Run(t.Context(), sandbox.Job{
			Name: "app.build.abc-1.1", What: "build", Reason: api.ReasonBuildFailed, Dir: dir, Writable: []string{dir},
			Cache: filepath.Join(t.TempDir(), "cache", "app"), Env: []string{`ODD=a "b" $HOME %n \ c`},
			Secrets: map[string]string{"NPM_TOKEN": "hunter2 \"$HOME\" `x` \\", "KEY": "-----BEGIN\nline two\n-----END"},
			Commands: []string{
				`touch in-release "$LOCKSTEP_CACHE/in-cache" "$HOME/home" /tmp/scratch && echo wrote inside`,
				`for f in /usr/x /etc/x ` + outside + `/x; do ! touch $f || exit 4; done`,
				`test -z "$(cat token)$(ls shut)"`,
				`test "$NPM_TOKEN" = 'hunter2 "$HOME" ` + "`x`" + ` \'; echo "it is: $NPM_TOKEN"; echo "$KEY" | sed -n 2p`,
				`test "$ODD" = 'a "b" $HOME %n \ c'`,
				`env | grep -v -e '^PWD=' -e '^_=' | grep = | cut -d= -f1 | sort | tr '\n' ' '; echo`,
				`cat /proc/$PPID/cmdline /proc/$$/cmdline | tr '\0' ' ' > cmdline; echo all shown; while [ ! -e go ]; do sleep 0.05; done`,
			},
		}, wr)
		done <- err
		wr.CloseWithError(err)
	}()
	out := awaitLine(t, rd, "all shown")
	shown, err := filepath.Glob(filepath.Join(m.RuntimeDir, "systemd", "transient", "*"))
	if err != nil || len(shown) == 0 {
		// The manager writes its transient units there, for everybody to read.
		t.Errorf("no transient unit is to be seen: %v", err)
	}
	for _, name := range append(shown, filepath.Join(dir, "cmdline")) {
		b, err := os.ReadFile(name)
		if err != nil || len(b) == 0 || bytes.Contains(b, []byte("NPM_TOKEN=")) || bytes.Contains(b, []byte("-----BEGIN")) {
			t.Errorf("%s holds a secret, or nothing: %q, %v", name, b, err)
		}
	}
	// Nor does systemd show it to those who ask, nor what it keeps of the unit.
	ask := exec.CommandContext(t.Context(), "nsenter", "-m", "-t", strconv.Itoa(m.PID), "systemctl", "--user", "show", "--all", "lockstep-app.build.abc-1.1.service")
	ask.Env = append(os.Environ(), m.Env()...)
	b, err := ask.CombinedOutput()
	if err != nil || !bytes.Contains(b, []byte("ODD=")) || bytes.Contains(b, []byte("NPM_TOKEN=")) || bytes.Contains(b, []byte("-----BEGIN")) || bytes.Contains(b, []byte("line two")) {
		t.Errorf("systemctl show tells a secret, or nothing: %v\n%s", err, b)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"\nwrote inside\n", "\nit is: ***\n***\n", "\nHOME KEY LOCKSTEP_CACHE NPM_TOKEN ODD PATH XDG_CACHE_HOME \n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if _, err := os.Stat("/tmp/scratch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its /tmp is everybody's: %v", err)
	}
}

func TestAJobThatPrintsTwoGigabytesFillsNothing(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		const size = 2 << 30
		var n counter
		if err := run(s, t.Context(), sandbox.Job{Dir: t.TempDir(), Commands: []string{fmt.Sprintf("head -c %d /dev/zero", size)}}, &n); err != nil {
			t.Fatal(err)
		}
		if n < size || n > size+1000 {
			t.Errorf("%d bytes of output came, want %d and a line", n, size)
		}
	})
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func TestASilentJobIsStopped(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		err := run(s, t.Context(), sandbox.Job{
			Dir:      t.TempDir(),
			Commands: []string{"for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done; sleep 600"},
			Limits:   sandbox.Limits{Silence: time.Second, Timeout: time.Hour}, Grace: time.Second,
		}, io.Discard)
		if fault.ReasonOf(err) != api.ReasonBuildFailed || !strings.Contains(err.Error(), "printed nothing for 1s (build_limits.silence)") || !strings.Contains(err.Error(), "\n  6") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAFullDiskIsNotTheReleasesFault(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system to fill")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no small file system can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		err := run(s, t.Context(), sandbox.Job{Dir: dir, Commands: []string{"cat /dev/zero > big"}}, io.Discard)
		if fault.ReasonOf(err) != api.ReasonDiskFull || !strings.Contains(err.Error(), "No space left") || !strings.Contains(err.Error(), "keep_releases") {
			t.Errorf("error %v has reason %q, want disk_full", err, fault.ReasonOf(err))
		}
		if err := os.Remove(filepath.Join(dir, "big")); err != nil {
			t.Error(err)
		}
	})
}

// Whoever sees a build fail for a file that root can read is told why, and only if
// the build does run as somebody else.
func TestAFileOfAnotherIsOutOfReach(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		err := run(s, t.Context(), sandbox.Job{Dir: t.TempDir(), Commands: []string{"if [ -r /etc/shadow ]; then echo so says a test: Permission denied; else cat /etc/shadow; fi; exit 1"}}, io.Discard)
		if told := strings.Contains(err.Error(), "build.user"); told != strings.Contains(t.Name(), "machine") {
			t.Errorf("the error is %v", err)
		}
	})
}

// What systemd cannot set up condemns no release.
func TestASandboxThatCannotBeSetUpIsTheNodesFault(t *testing.T) {
	s, dir := newService(t), t.TempDir()
	gone := filepath.Join(dir, "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	j := long(gone)
	j.Commands = []string{"true"}
	if err := os.Chmod(gone, 0); err != nil {
		t.Fatal(err)
	}
	j.Dir = filepath.Join(gone, "not", "there")
	err := s.Run(t.Context(), j, io.Discard)
	if fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "CHDIR") {
		t.Errorf("error %v has reason %q", err, fault.ReasonOf(err))
	}
}

func TestAJobGainsNoPrivilegesAndYields(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		var out bytes.Buffer
		err := run(s, t.Context(), sandbox.Job{
			Dir: t.TempDir(), Background: true,
			Commands: []string{`grep NoNewPrivs /proc/self/status`, `nice`, `chrt -p $$`, `ionice -p $$`, `cat /proc/self/oom_score_adj; sed s/^/scheduled/ /proc/self/autogroup`},
		}, &out)
		if err != nil {
			t.Fatal(err)
		}
		wants := []string{"NoNewPrivs:\t1\n", "\n10\n", "SCHED_BATCH\n", "best-effort: prio 7\n", "\n500\n"}
		if _, err := os.Stat("/proc/self/autogroup"); err == nil {
			wants = append(wants, " nice 10\n")
		}
		for _, want := range wants {
			if !strings.Contains(out.String(), want) {
				t.Errorf("output lacks %q:\n%s", want, out.String())
			}
		}
	})
}

// What a build made is the agent's in the end, and nobody else can change it; its
// cache stays its user's, and the next build finds it.
func TestAReleaseBelongsToTheAgentInTheEnd(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		cache := filepath.Join(t.TempDir(), "cache", "app")
		for n := 1; n <= 2; n++ {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "checked-out"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err := run(s, t.Context(), sandbox.Job{
				Dir: dir, Cache: cache,
				Commands: []string{
					`id -u; echo more >> checked-out; mkdir -p d; echo x > d/f; chmod 0777 d d/f; cp /bin/true suid; chmod 4755 suid; ln -s /etc/passwd link`,
					fmt.Sprintf(`echo x >> "$HOME/n"; test $(wc -l < "$HOME/n") = %d`, n),
				},
			}, &out)
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			if dynamic := strings.Contains(t.Name(), "machine"); os.Getuid() == 0 && dynamic == strings.Contains(out.String(), "\n0\n") {
				t.Errorf("it ran as the wrong user:\n%s", out.String())
			}
			for _, name := range []string{".", "checked-out", "d", "d/f", "suid", "link"} {
				fi, err := os.Lstat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() {
					t.Errorf("%s belongs to %d", name, st.Uid)
				}
				if fi.Mode()&fs.ModeSymlink == 0 && strings.Contains(t.Name(), "machine") && fi.Mode()&(fs.ModeSetuid|0o022) != 0 {
					t.Errorf("%s has mode %s", name, fi.Mode())
				}
			}
		}
	})
}

func TestTheTrialTellsWhatHolds(t *testing.T) {
	each(t, func(t *testing.T, s *sandbox.Sandbox) {
		as := sandbox.Dynamic
		if !strings.Contains(t.Name(), "systemd") {
			as = "" // nobody makes a user for it
		}
		got := s.Check(t.Context(), as)
		t.Logf("%+v", got)
		if got.Problem != "" || got.User == "" {
			t.Errorf("the trial found %+v", got)
		}
		if units := strings.Contains(t.Name(), "systemd"); units != (got.With == "systemd") || units == (got.Why != "") {
			t.Errorf("the trial found %+v", got)
		}
	})
}

// As long as there is no systemd, a process group does; one that does not answer
// is waited for.
func TestASystemdThatDoesNotAnswerIsNotDoneWithout(t *testing.T) {
	m := systemdtest.New(t)
	units := unit.NewUser(m.RuntimeDir)
	t.Cleanup(units.Close)
	s := sandbox.New(sandbox.Config{Units: units, Dir: t.TempDir()})
	if err := syscall.Kill(m.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	j := long(dir)
	err := s.Run(ctx, j, io.Discard)
	if _, e := os.Stat(filepath.Join(dir, "count")); fault.ReasonOf(err) != api.ReasonSystemd || e == nil {
		t.Errorf("error %v has reason %q; the build ran: %v", err, fault.ReasonOf(err), e == nil)
	}
	if err := syscall.Kill(m.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	none := unit.NewUser(t.TempDir())
	t.Cleanup(none.Close)
	var out bytes.Buffer
	s = sandbox.New(sandbox.Config{Units: none, Dir: t.TempDir()})
	j.Commands = []string{"echo without"}
	if err := s.Run(t.Context(), j, &out); err != nil || !strings.Contains(out.String(), "\nwithout\n") {
		t.Errorf("without a systemd: %v, %q", err, out.String())
	}
}
