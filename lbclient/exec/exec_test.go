package exec_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/exec"
)

// script makes a provider whose program is the given shell script.
func script(t *testing.T, text string, change func(*exec.Config)) lbclient.Provider {
	t.Helper()
	path := filepath.Join(t.TempDir(), "balancer")
	if err := write(path, "#!/bin/sh\n"+text); err != nil {
		t.Fatal(err)
	}
	c := exec.Config{Name: "front", Node: "node1", Server: "web1", Command: []string{path}}
	if change != nil {
		change(&c)
	}
	p, err := exec.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// write makes a program. A process that is forked meanwhile would hold it open
// for writing, so that it could not be run, hence the lock.
func write(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o755)
}

// restore is one that New's provider of script takes.
func restore(data string) lbclient.Restore {
	return lbclient.Restore{Provider: "exec/front", Target: "web1", Version: 1, Data: []byte(`{"data":` + data + `}`)}
}

func TestWhatTheProgramGets(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	t.Setenv("LOCKSTEP_SECRET", "hush")
	p := script(t, `{ printf '%s\n' "$@"; env | sort; cat; } >>`+out+`; [ -z "$LB_RESTORE_FILE" ] || cat "$LB_RESTORE_FILE" >>`+out, func(c *exec.Config) {
		c.Command = append(c.Command, "two words", "$HOME", ";reboot")
		c.Env = []string{"TOKEN_FILE=/run/token"}
	})
	st, err := p.DrainStatus(t.Context(), restore(`{"weight":3}`))
	if err != nil || st.Stage != lbclient.DrainIdle {
		t.Fatalf("%+v, %v", st, err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"two words\n$HOME\n;reboot\ndrain-status\n", "LB_BALANCER=front\n", "LB_NODE=node1\n", "LB_STAGE=drain-status\n",
		"LB_TARGET=web1\n", "TOKEN_FILE=/run/token\n", "{\"weight\":3}\n", "LB_RESTORE_FILE=",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the program does not get %q; it gets:\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "hush") {
		t.Error("the program gets variables that are not meant for it")
	}
	for l := range strings.Lines(string(got)) {
		if path, ok := strings.CutPrefix(l, "LB_RESTORE_FILE="); ok {
			if _, err := os.Stat(strings.TrimSpace(path)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the file %s is left behind: %v", path, err)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		text  string
		class lbclient.Class
		says  string
	}{
		{"exit 69", lbclient.ClassUnsupported, "exit code 69"},
		{"echo no token >&2; exit 77", lbclient.ClassDenied, "no token"},
		{"exit 75", lbclient.ClassBusy, "not yet"},
		{"echo one >&2; echo two >&2; exit 3", lbclient.ClassTransient, "exited with 3, and said: one / two"},
		{`echo '{"class":"rate_limited","error":"slow down"}'; exit 1`, lbclient.ClassRateLimited, "slow down"},
		{`echo '{"class":"unsafe","error":"frozen"}'; exit 1`, lbclient.ClassUnsafe, "frozen"},
		{`echo '{"class":"splendid"}'; echo why >&2; exit 1`, lbclient.ClassTransient, "why"},
		{`echo hello; exit 1`, lbclient.ClassTransient, "exited with 1"},
		{`echo '{"error":"oops"}'`, lbclient.ClassInvalid, "oops"},
		{`echo hello`, lbclient.ClassInvalid, "no JSON object"},
		{`echo '{}'; echo '{}'`, lbclient.ClassInvalid, "more than one line"},
		{`echo '{"stagee":"idle"}'`, lbclient.ClassInvalid, "stagee"},
		{`head -c 100000 /dev/zero | tr '\0' ' '; echo '{}'`, lbclient.ClassInvalid, "longer than"},
		{`printf '\033[31mred\033[0m\a\n' >&2; exit 1`, lbclient.ClassTransient, "said: [31mred[0m"},
		{`i=0; while [ $i -lt 500 ]; do echo line $i >&2; i=$((i+1)); done; exit 1`, lbclient.ClassTransient, "said: line 495 / line 496 / line 497 / line 498 / line 499"},
		{"kill -9 $$", lbclient.ClassTransient, "signal killed"},
	} {
		p := script(t, c.text, nil)
		_, err := p.Observe(t.Context())
		if err == nil || lbclient.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s\ngives %v\nwant class %s and %q", c.text, err, c.class, c.says)
		}
		var e *lbclient.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v is no *lbclient.Error", c.text, err)
		}
	}
}

// answering is a program that knows nothing but two answers.
func answering(status string) string {
	return `case $LB_STAGE in drain-status | rejoin-status) ` + status + ` ;; *) exit 69 ;; esac`
}

func TestNotYet(t *testing.T) {
	for _, c := range []struct {
		text   string
		drain  lbclient.DrainStage // "" means an error
		flight int64
		rejoin lbclient.RejoinStage
	}{
		{"exit 0", lbclient.DrainIdle, 0, lbclient.RejoinServing},
		{"exit 75", lbclient.DrainBusy, -1, lbclient.RejoinPending},
		{`echo '{"stage":"not_asked"}'`, lbclient.DrainNotAsked, -1, lbclient.RejoinNotAsked},
		{`echo '{"stage":"not_asked"}'; exit 75`, lbclient.DrainNotAsked, -1, lbclient.RejoinNotAsked},
		{`echo '{"stage":"busy","in_flight":4}'`, lbclient.DrainBusy, 4, ""},
		{`echo '{"stage":"accepted"}'; exit 75`, lbclient.DrainAccepted, -1, ""},
		{`echo '{"stage":"idle"}'`, lbclient.DrainIdle, 0, ""},
		{`echo '{"stage":"idle"}'; exit 75`, "", 0, ""},
		{`echo '{"stage":"idle","in_flight":2}'`, "", 0, ""},
		{`echo '{"in_flight":2}'`, "", 0, lbclient.RejoinServing},
		{`echo '{"stage":"serving"}'`, "", 0, lbclient.RejoinServing},
		{`echo '{"stage":"serving"}'; exit 75`, "", 0, ""},
		{`echo '{"stage":"unhealthy","evidence":"502"}'`, "", 0, lbclient.RejoinUnhealthy},
		{`echo '{"stage":"splendid"}'`, "", 0, ""},
	} {
		p := script(t, answering(c.text), nil)
		st, err := p.DrainStatus(t.Context(), restore("null"))
		if (err != nil) != (c.drain == "") || err == nil && (st.Stage != c.drain || st.InFlight != c.flight || st.Evidence == "" || st.Epoch == "") {
			t.Errorf("%s: drain %+v, %v; want %s with %d", c.text, st, err, c.drain, c.flight)
		}
		if err != nil && lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: drain gives %v", c.text, err)
		}
		rs, err := p.RejoinStatus(t.Context(), restore("null"))
		if (err != nil) != (c.rejoin == "") || err == nil && (rs.Stage != c.rejoin || rs.Evidence == "") {
			t.Errorf("%s: rejoin %+v, %v; want %s", c.text, rs, err, c.rejoin)
		}
	}
}

// alive tells whether a process runs that has not only to be waited for.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// pidIn waits for a script to write a process number.
func pidIn(t *testing.T, path string) int {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		text, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(string(text), "\n") {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("no process number in %s", path)
		}
	}
}

func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still lives", pid)
		}
	}
}

// TestKilled: the program and what it started end with the caller's wish.
func TestKilled(t *testing.T) {
	for _, write := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "pid")
		stuck := `sh -c 'echo $$ >` + file + `; trap "" TERM; sleep 600' & wait`
		p := script(t, `case $LB_STAGE in observe) exit 69 ;; drain-status) [ `+strconv.FormatBool(write)+` = false ] || { echo '{"stage":"not_asked"}'; exit; } ;; esac; `+stuck, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			var err error
			if write {
				err = p.BeginRejoin(ctx, restore("null"))
			} else {
				_, err = p.DrainStatus(ctx, restore("null"))
			}
			done <- err
		}()
		pid := pidIn(t, file)
		cancel()
		err := <-done
		if err == nil || !lbclient.ClassOf(err).Retryable() || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got error %v", err)
		}
		awaitGone(t, pid)
	}
}

func TestDeadline(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	p := script(t, `echo stuck >&2; sh -c 'echo $$ >`+file+`; sleep 600' & wait`, func(c *exec.Config) { c.Timeout = 300 * time.Millisecond })
	_, err := p.Observe(t.Context())
	if lbclient.ClassOf(err) != lbclient.ClassTransient || err == nil || !strings.Contains(err.Error(), "did not end within 300ms") || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("got error %v", err)
	}
	awaitGone(t, pidIn(t, file))
}

// TestLeftBehind: what the program leaves running when it ends is ended too.
func TestLeftBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	p := script(t, answering(`sh -c 'echo $$ >`+file+`; sleep 600' & until [ -s `+file+` ]; do :; done`), nil)
	start := time.Now()
	if st, err := p.DrainStatus(t.Context(), restore("null")); err != nil || st.Stage != lbclient.DrainIdle {
		t.Errorf("%+v, %v", st, err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	awaitGone(t, pidIn(t, file))
}

// TestLostAnswerIsSettledByLooking: a drain that was killed on the way and took
// effect all the same is no failure, and one that took none is ambiguous.
func TestLostAnswerIsSettledByLooking(t *testing.T) {
	for _, effect := range []bool{true, false} {
		flag := filepath.Join(t.TempDir(), "drained")
		p := script(t, `case $LB_STAGE in
drain) `+map[bool]string{true: "touch " + flag, false: ":"}[effect]+`; kill -9 $$ ;;
drain-status) [ -e `+flag+` ] || echo '{"stage":"not_asked"}' ;;
*) exit 69 ;;
esac`, nil)
		err := p.BeginDrain(t.Context(), restore("null"), 0)
		if effect && err != nil || !effect && (err == nil || lbclient.ClassOf(err) != lbclient.ClassAmbiguous) {
			t.Errorf("with effect %t: got error %v", effect, err)
		}
	}
}

// TestHalfDoneIsUndone: a program that fails after it drained.
func TestHalfDoneIsUndone(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "drained")
	p := script(t, `case $LB_STAGE in
drain) touch `+flag+`; echo disk full >&2; exit 1 ;;
drain-status) [ -e `+flag+` ] || echo '{"stage":"not_asked"}' ;;
rejoin) rm `+flag+` ;;
rejoin-status) exit 75 ;;
*) exit 69 ;;
esac`, nil)
	err := p.BeginDrain(t.Context(), restore("null"), 0)
	if err == nil || !strings.Contains(err.Error(), "disk full") || !strings.Contains(err.Error(), "the drain was undone") {
		t.Errorf("got error %v", err)
	}
	if _, err := os.Stat(flag); !errors.Is(err, os.ErrNotExist) {
		t.Error("the target is left drained")
	}
}

func TestCapacityUnknown(t *testing.T) {
	p := script(t, answering(`echo '{"stage":"not_asked"}'`), nil)
	err := p.BeginDrain(t.Context(), restore("null"), 1)
	if err == nil || lbclient.ClassOf(err) != lbclient.ClassUnsupported || !strings.Contains(err.Error(), "min_healthy: 0") {
		t.Errorf("got error %v", err)
	}
}

// TestWithoutObserve: the least that a program can be.
func TestWithoutObserve(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "drained")
	p := script(t, `case $LB_STAGE in
drain) touch `+flag+` ;;
rejoin) rm -f `+flag+` ;;
drain-status) [ -e `+flag+` ] || echo '{"stage":"not_asked"}' ;;
rejoin-status) [ ! -e `+flag+` ] || echo '{"stage":"not_asked"}' ;;
*) exit 69 ;;
esac`, nil)
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := p.Snapshot(t.Context())
	if err != nil || !r.WasServing {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	if st, err := p.DrainStatus(t.Context(), r); err != nil || st.Stage != lbclient.DrainIdle {
		t.Errorf("%+v, %v", st, err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinServing {
		t.Errorf("%+v, %v", st, err)
	}
	if err := p.(lbclient.Forcer).ForceIdle(t.Context(), r); lbclient.ClassOf(err) != lbclient.ClassConflict {
		t.Errorf("force while not drained: %v", err)
	}
}

func TestProgramCannotRun(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("exit 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	noise := filepath.Join(dir, "noise")
	if err := write(noise, "\x00\x01\x02"); err != nil {
		t.Fatal(err)
	}
	for path, class := range map[string]lbclient.Class{
		filepath.Join(dir, "missing"): lbclient.ClassInvalid, plain: lbclient.ClassDenied, noise: lbclient.ClassInvalid,
	} {
		p := script(t, "", func(c *exec.Config) { c.Command = []string{path} })
		if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != class || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want class %s", path, err, class)
		}
	}
}

func TestBadConfig(t *testing.T) {
	good := exec.Config{Name: "front", Server: "web1", Command: []string{"/bin/true"}}
	if _, err := exec.New(good); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(*exec.Config){
		"no name":               func(c *exec.Config) { c.Name = "" },
		"no target":             func(c *exec.Config) { c.Server = "" },
		"no command":            func(c *exec.Config) { c.Command = nil },
		"a relative command":    func(c *exec.Config) { c.Command = []string{"balancer.sh"} },
		"a command with dots":   func(c *exec.Config) { c.Command = []string{"/etc/../bin/true"} },
		"a null byte":           func(c *exec.Config) { c.Command = []string{"/bin/true", "a\x00b"} },
		"an endless timeout":    func(c *exec.Config) { c.Timeout = time.Hour },
		"a negative timeout":    func(c *exec.Config) { c.Timeout = -1 },
		"a variable of ours":    func(c *exec.Config) { c.Env = []string{"LB_STAGE=drain"} },
		"a variable no value":   func(c *exec.Config) { c.Env = []string{"TOKEN"} },
		"a variable, odd name":  func(c *exec.Config) { c.Env = []string{"A B=c"} },
		"a null byte in a name": func(c *exec.Config) { c.Node = "a\x00" },
	} {
		c := good
		f(&c)
		if _, err := exec.New(c); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
}
