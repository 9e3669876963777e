package unit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

const patience = 30 * time.Second

// world is a systemd of its own with a client.
type world struct {
	*systemdtest.Manager
	units *unit.Manager
}

func newWorld(t *testing.T) world {
	t.Helper()
	m := systemdtest.New(t)
	u := unit.NewUser(m.RuntimeDir)
	t.Cleanup(u.Close)
	return world{m, u}
}

func (w world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := w.WriteUnit(name, text); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// briefly is too short for anything but a start that succeeds at once.
func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// want lets a target want units, as installed ones are: systemd keeps those in
// memory when they are inactive.
func (w world) want(t *testing.T, names ...string) {
	t.Helper()
	dir := filepath.Join(w.UnitDir, "default.target.wants")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink("../"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.units.ReloadUnits(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash waits until a unit is not settled any more and returns the error.
func (w world) crash(t *testing.T, name string, st unit.Status) error {
	t.Helper()
	ctx := within(t)
	for {
		err := w.units.Settled(ctx, name, st.InvocationID, st.NRestarts)
		if err != nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// service is a unit that runs a shell script. Dollars of the script are systemd's
// unless doubled.
func service(script string, settings ...string) string {
	lines := append([]string{"[Service]", "ExecStart=/bin/sh -c '" + strings.ReplaceAll(script, "$", "$$") + "'"}, settings...)
	return strings.Join(lines, "\n") + "\n"
}

// notifier gets ready after some seconds. It speaks the protocol itself, so that
// no other program is needed for it.
func notifier(t *testing.T, after string) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/systemd-notify"); err != nil {
		t.Skipf("no systemd-notify: %v", err)
	}
	return service("sleep "+after+"; systemd-notify --ready; exec sleep 1000", "Type=notify", "NotifyAccess=all")
}

func TestRestart(t *testing.T) {
	w := newWorld(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tc := range []struct {
		name string
		text string // "" writes no unit file
		// reason and words of Restart's error; no reason: the unit is up
		reason api.Reason
		words  []string
		// words of the error once it has crashed, mostly after a Restart that went well
		crash []string
	}{
		{name: "simple", text: service("exec sleep 1000")},
		{name: "exec", text: service("exec sleep 1000", "Type=exec")},
		{name: "notify", text: notifier(t, "0.3")},
		{name: "simple-exits", text: service("sleep 0.3; exit 1"), crash: []string{"exited with status 1"}},
		{name: "simple-ends-well", text: service("sleep 0.3"), crash: []string{"exited with status 0", "expected a program that keeps running"}},
		{name: "simple-killed", text: service("sleep 0.3; kill -9 $$"), crash: []string{"killed by signal 9 (killed)"}},
		{name: "exec-missing", text: "[Service]\nType=exec\nExecStart=" + missing + "\n", reason: api.ReasonStartFailed, words: []string{"203/EXEC"}},
		{name: "directory-missing", text: service("exec sleep 1000", "Type=exec", "WorkingDirectory="+missing), reason: api.ReasonStartFailed, words: []string{"200/CHDIR"}},
		{name: "keeps-dying", text: service("sleep 0.3; exit 7", "Type=exec", "Restart=always", "RestartSec=10ms"),
			crash: []string{"start"}},
		{name: "dies-at-once", text: "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=100\n" + service("sleep 0.05; exit 7", "Type=exec", "Restart=always", "RestartSec=10ms"),
			crash: []string{"start"}},
		{name: "notify-exits", text: service("exit 9", "Type=notify"), reason: api.ReasonStartFailed, words: []string{"exited with status 9"}},
		{name: "notify-ends-well", text: service("exit 0", "Type=notify"), reason: api.ReasonStartFailed, words: []string{"never told systemd READY=1"}},
		{name: "notify-mute", text: service("exec sleep 1000", "Type=notify", "TimeoutStartSec=300ms"),
			reason: api.ReasonStartFailed, words: []string{"not ready within TimeoutStartSec=300ms", "never told systemd READY=1"}},
		{name: "before-fails", text: service("exec sleep 1000", "ExecStartPre=-/bin/false", "ExecStartPre=/bin/sh -c 'exit 4'"),
			reason: api.ReasonStartFailed, words: []string{"ExecStartPre=/bin/sh -c exit 4 failed", "status 4"}},
		{name: "after-fails", text: service("exec sleep 1000", "Type=exec", "ExecStartPost=/bin/false"),
			reason: api.ReasonStartFailed, words: []string{"ExecStartPost=/bin/false failed"}},
		{name: "oneshot-fails", text: service("exit 4", "Type=oneshot"), reason: api.ReasonStartFailed, words: []string{"exited with status 4"}},
		{name: "oneshot-stays", text: service("exit 0", "Type=oneshot", "RemainAfterExit=yes"), reason: api.ReasonStartFailed, words: []string{"active (exited)"}},
		{name: "condition", text: "[Unit]\nConditionPathExists=/\nConditionPathExists=" + missing + "\n" + service("exec sleep 1000"),
			reason: api.ReasonStartFailed, words: []string{"ConditionPathExists=" + missing + " is not met"}},
		{name: "condition-negated", text: "[Unit]\nConditionPathExists=!/\n" + service("exec sleep 1000"),
			reason: api.ReasonStartFailed, words: []string{"ConditionPathExists=!/ is not met"}},
		{name: "assertion", text: "[Unit]\nAssertPathExists=" + missing + "\n" + service("exec sleep 1000"),
			reason: api.ReasonStartFailed, words: []string{"AssertPathExists=" + missing + " is not met"}},
		{name: "condition-forgotten", text: "[Unit]\nConditionPathExists=" + missing + "\n" + service("exec sleep 1000"),
			reason: api.ReasonStartFailed, words: []string{"keeps no record", "ConditionPathExists=" + missing}},
		{name: "requires", text: "[Unit]\nRequires=oneshot-dependency.service\nAfter=oneshot-dependency.service\n" + service("exec sleep 1000"),
			reason: api.ReasonSystemd, words: []string{"requires did not start"}},
		{name: "nowhere", reason: api.ReasonUnitMissing, words: []string{"cannot find the unit nowhere.service"}},
		{name: "masked", reason: api.ReasonUnitMissing, words: []string{"systemctl unmask masked.service"}},
		{name: "broken", text: "[Service]\nType=oneshot2\nUser=\n", reason: api.ReasonUnitMissing, words: []string{"bad-setting", "systemd-analyze verify"}},
		{name: "no/name", reason: api.ReasonUnitMissing},
	} {
		name := tc.name + ".service"
		if tc.text != "" {
			w.write(t, name, tc.text)
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			st, err := w.units.Restart(ctx, name)
			if tc.reason != "" {
				if err == nil {
					t.Fatalf("no error: %+v", st)
				}
				if fault.ReasonOf(err) != tc.reason {
					t.Errorf("reason %s, want %s: %v", fault.ReasonOf(err), tc.reason, err)
				}
				for _, word := range append(tc.words, name) {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%q lacks %q", err, word)
					}
				}
				return
			}
			// On a busy machine it may have crashed before Restart looks.
			if err != nil && tc.crash == nil {
				t.Fatal(err)
			}
			if err == nil && (!st.Up() || st.InvocationID == "" || st.MainPID == 0) {
				t.Errorf("not up: %+v", st)
			}
			if tc.crash == nil {
				if err := w.units.Settled(ctx, name, st.InvocationID, st.NRestarts); err != nil {
					t.Errorf("not settled: %v", err)
				}
				again, err := w.units.Restart(ctx, name)
				if err != nil || again.InvocationID == st.InvocationID || again.MainPID == st.MainPID {
					t.Errorf("restarted again: %+v, %v; before: %+v", again, err, st)
				}
				return
			}
			if err == nil {
				err = w.crash(t, name, st)
			}
			if fault.ReasonOf(err) != api.ReasonStartFailed {
				t.Fatalf("reason %q: %v", fault.ReasonOf(err), err)
			}
			for _, word := range append(tc.crash, name) {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q lacks %q", err, word)
				}
			}
		})
		if tc.name == "masked" {
			if err := os.Symlink("/dev/null", filepath.Join(w.UnitDir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.write(t, "oneshot-dependency.service", service("exit 1", "Type=oneshot"))
	w.want(t, "simple-ends-well.service", "condition.service", "condition-negated.service", "assertion.service")
}

// A unit that ran into its start limit would fail at once, however good the
// release is that it should run now.
func TestRestartAfterStartLimit(t *testing.T) {
	w := newWorld(t)
	good := filepath.Join(t.TempDir(), "good")
	w.write(t, "limit.service", "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1000\n"+
		service("test -e "+good+" || exit 3; exec sleep 1000", "Type=exec", "Restart=always", "RestartSec=1ms"))
	ctx := within(t)
	if st, err := w.units.Restart(ctx, "limit.service"); err == nil {
		w.crash(t, "limit.service", st)
	}
	var st unit.Status
	for st.ActiveState != "failed" {
		var err error
		if st, err = w.units.Status(ctx, "limit.service"); err != nil {
			t.Fatal(err)
		}
	}
	if st.NRestarts == 0 {
		t.Fatalf("it was not tried again: %+v", st)
	}
	err := w.units.Settled(ctx, "limit.service", st.InvocationID, 0)
	if err == nil || !strings.Contains(err.Error(), "exited with status 3") {
		t.Errorf("err = %v", err)
	}
	if err := os.WriteFile(good, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.units.Restart(ctx, "limit.service"); err != nil {
		t.Errorf("it cannot be restarted: %v", err)
	}
}

// The old process may take its time to stop; that is waited for.
func TestRestartOutlastsASlowStop(t *testing.T) {
	w := newWorld(t)
	w.write(t, "slow.service", service("trap \"\" TERM; while :; do sleep 0.05; done", "Type=exec", "TimeoutStopSec=500ms"))
	ctx := within(t)
	first, err := w.units.Restart(ctx, "slow.service")
	if err != nil {
		t.Fatal(err)
	}
	if first.TimeoutStop != 500*time.Millisecond || first.TimeoutStart == 0 {
		t.Errorf("timeouts %s, %s", first.TimeoutStart, first.TimeoutStop)
	}
	if _, _, err := w.units.Runs(ctx, "slow.service"); err != nil { // the trap is set a moment after the exec
		t.Fatal(err)
	}
	second, err := w.units.Restart(ctx, "slow.service")
	if err != nil || second.MainPID == first.MainPID || second.InvocationID == first.InvocationID {
		t.Errorf("%+v, %v", second, err)
	}
	// Somebody else's restart is neither a crash nor what was settled on.
	err = w.units.Settled(ctx, "slow.service", first.InvocationID, first.NRestarts)
	if fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("Settled = %v", err)
	}
}

func TestRestartOutOfTime(t *testing.T) {
	w := newWorld(t)
	w.write(t, "mute.service", service("exec sleep 1000", "Type=notify", "TimeoutStartSec=infinity"))
	w.write(t, "stubborn.service", service("trap \"\" TERM; touch "+w.RuntimeDir+"/trapped; while :; do sleep 0.05; done", "Type=exec", "TimeoutStopSec=1000"))
	_, err := w.units.Restart(briefly(t), "mute.service")
	if fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "not ready yet: it never told systemd READY=1") {
		t.Errorf("a start too slow: %v", err)
	}
	if _, err := w.units.Restart(within(t), "stubborn.service"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; {
		if _, err := os.Stat(w.RuntimeDir + "/trapped"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the unit does not come up")
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, err = w.units.Restart(briefly(t), "stubborn.service")
	if fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "still deactivating") {
		t.Errorf("a stop too slow: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.units.Restart(ctx, "mute.service"); !errors.Is(err, context.Canceled) || fault.ReasonOf(err) == api.ReasonStartFailed {
		t.Errorf("called off: %v", err)
	}
}

// When somebody stops the unit meanwhile, that is not the release's fault.
func TestRestartReplacedByAStop(t *testing.T) {
	w := newWorld(t)
	w.write(t, "mute.service", service("exec sleep 1000", "Type=notify", "TimeoutStartSec=infinity"))
	ctx := within(t)
	done := make(chan error, 1)
	go func() {
		_, err := w.units.Restart(ctx, "mute.service")
		done <- err
	}()
	for {
		st, err := w.units.Status(ctx, "mute.service")
		if err != nil {
			t.Fatal(err)
		}
		if st.ActiveState == "activating" {
			break
		}
	}
	if err := w.units.Stop(ctx, "mute.service"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("err = %v", err)
	}
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	w.write(t, "s.service", service("exec sleep 1000", "Type=exec"))
	ctx := within(t)
	st, err := w.units.Restart(ctx, "s.service")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds it stopped
		if err := w.units.Stop(ctx, "s.service"); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(st.MainPID, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d: %v", st.MainPID, err)
		}
	}
	if pid, paths, err := w.units.Runs(ctx, "s.service"); pid != 0 || paths != nil || err != nil {
		t.Errorf("Runs = %d %v %v", pid, paths, err)
	}
	if err := w.units.Settled(ctx, "s.service", st.InvocationID, st.NRestarts); fault.ReasonOf(err) != api.ReasonStartFailed {
		t.Errorf("Settled = %v", err)
	}
	if err := w.units.Stop(ctx, "nowhere.service"); fault.ReasonOf(err) != api.ReasonUnitMissing {
		t.Errorf("Stop = %v", err)
	}
}

func TestReloadUnits(t *testing.T) {
	w := newWorld(t)
	ctx := within(t)
	w.write(t, "s.service", service("exec sleep 1000", "TimeoutStopSec=7"))
	if _, err := w.units.Restart(ctx, "s.service"); err != nil {
		t.Fatal(err)
	}
	w.write(t, "s.service", service("exec sleep 1000", "TimeoutStopSec=8"))
	if err := w.units.ReloadUnits(ctx); err != nil {
		t.Fatal(err)
	}
	if st, err := w.units.Status(ctx, "s.service"); err != nil || st.TimeoutStop != 8*time.Second {
		t.Errorf("%+v, %v", st, err)
	}
}

// A start of Type=simple is done before the program runs. Whether Restart sees it
// fail or Settled does is up to chance, but one of them must.
func TestMissingProgramOfASimpleUnit(t *testing.T) {
	w := newWorld(t)
	w.write(t, "s.service", "[Service]\nExecStart="+filepath.Join(t.TempDir(), "missing")+"\n")
	for range 5 {
		st, err := w.units.Restart(within(t), "s.service")
		if err == nil {
			err = w.crash(t, "s.service", st)
		}
		if fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "203/EXEC") {
			t.Errorf("err = %v", err)
		}
	}
}

// Whoever reads that a unit did not start wants to see what it said. There is no
// journal here, so its reader is played.
func TestLastOutputIsShown(t *testing.T) {
	w := newWorld(t)
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >" + bin + "/asked\nprintf 'listen tcp :80\\033[31m: in use\\r\\nbye\\n'\n"
	if err := os.WriteFile(filepath.Join(bin, "journalctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w.write(t, "s.service", service("exit 3", "Type=notify"))
	st, err := w.units.Restart(within(t), "s.service")
	if err == nil || !strings.HasSuffix(err.Error(), "exited with status 3; its last output:\n  listen tcp :80[31m: in use\n  bye") {
		t.Errorf("err = %q", err)
	}
	asked, err := os.ReadFile(bin + "/asked")
	if err != nil || !strings.Contains(string(asked), "_SYSTEMD_INVOCATION_ID="+st.InvocationID) {
		t.Errorf("asked %q for the start %s, %v", asked, st.InvocationID, err)
	}
}

// The link that a unit's directory was reached by is moved with each release;
// what was resolved when the process started is what proves it.
func TestRuns(t *testing.T) {
	w := newWorld(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	current := filepath.Join(dir, "current")
	point := func(release string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, release), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, release, "app"), sleep, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(current)
		if err := os.Symlink(release, current); err != nil {
			t.Fatal(err)
		}
	}
	point("one")
	ctx := within(t)
	// Type=simple is up before the program runs.
	w.write(t, "app.service", "[Service]\nWorkingDirectory="+current+"\nExecStart="+current+"/app 1000\n")
	check := func(release string) {
		t.Helper()
		pid, paths, err := w.units.Runs(ctx, "app.service")
		want := []string{filepath.Join(dir, release, "app"), filepath.Join(dir, release)}
		if err != nil || pid == 0 || !slices.Equal(paths, want) {
			t.Errorf("Runs = %d %v %v, want %v", pid, paths, err, want)
		}
	}
	if _, err := w.units.Restart(ctx, "app.service"); err != nil {
		t.Fatal(err)
	}
	check("one")
	point("two")
	check("one")
	if _, err := w.units.Restart(ctx, "app.service"); err != nil {
		t.Fatal(err)
	}
	check("two")
	if err := os.RemoveAll(filepath.Join(dir, "two")); err != nil {
		t.Fatal(err)
	}
	check("two") // deleted under the running process
	if _, _, err := w.units.Runs(ctx, "nowhere.service"); fault.ReasonOf(err) != api.ReasonUnitMissing {
		t.Errorf("err = %v", err)
	}
}

// A program that ends as soon as it starts is no proof, and must not be waited
// for without end.
func TestRunsOfARestlessUnit(t *testing.T) {
	w := newWorld(t)
	w.write(t, "restless.service", "[Unit]\nStartLimitIntervalSec=0\n"+service("exit 1", "Restart=always", "RestartSec=1ms"))
	ctx := within(t)
	_, _ = w.units.Restart(ctx, "restless.service") // up or not, as chance will have it
	for range 3 {                                   // each may take all the time that it has
		if _, _, err := w.units.Runs(ctx, "restless.service"); err != nil {
			t.Fatal(err)
		}
	}
}
