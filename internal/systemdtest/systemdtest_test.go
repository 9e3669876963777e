package systemdtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

const sleeper = "[Service]\nType=exec\nExecStart=/bin/sleep 1000\nRestart=always\n"

// systemctl runs systemctl in the manager's namespace, since it insists on
// /run/systemd/system.
func systemctl(t *testing.T, m *systemdtest.Manager, args ...string) string {
	t.Helper()
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Skipf("nsenter (util-linux) is needed to call systemctl: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), nsenter, append([]string{"-m", "-t", strconv.Itoa(m.PID), "systemctl", "--user"}, args...)...)
	cmd.Env = append(os.Environ(), m.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// mounts returns what is mounted where the manager mounts things of its own.
func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " /run/systemd") || strings.Contains(line, " /sys/fs/cgroup") || strings.Contains(line, " /tmp/sd") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

func TestManager(t *testing.T) {
	before := mounts(t)
	m := systemdtest.New(t)
	if err := m.WriteUnit("s.service", sleeper); err != nil {
		t.Fatal(err)
	}
	systemctl(t, m, "start", "s.service")
	pid, err := strconv.Atoi(systemctl(t, m, "show", "--value", "-p", "MainPID", "s.service"))
	if err != nil || gone(pid) {
		t.Fatalf("main process %d: %v", pid, err)
	}
	// Proof by /proc needs the unit's processes to be visible from here.
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || !strings.Contains(exe, "sleep") {
		t.Errorf("exe = %q, %v", exe, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("the mounts of this machine changed from\n%s\nto\n%s", before, after)
	}
	if running := systemctl(t, m, "list-units", "--type=service", "--plain", "--no-legend"); strings.Count(running, "\n") != 0 {
		t.Errorf("it runs more than it was asked for:\n%s", running)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) || !gone(m.PID) {
		t.Error("processes are left")
	}
	if _, err := os.Stat(m.RuntimeDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the runtime directory is left: %v", err)
	}
	if err := m.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestStopEndsAFrozenManager(t *testing.T) {
	m := systemdtest.New(t)
	if err := syscall.Kill(m.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(); err != nil || !gone(m.PID) {
		t.Errorf("gone %v, %v", gone(m.PID), err)
	}
}

func TestStopEndsTheUnitsOfADeadManager(t *testing.T) {
	m := systemdtest.New(t)
	if err := m.WriteUnit("s.service", sleeper); err != nil {
		t.Fatal(err)
	}
	systemctl(t, m, "start", "s.service")
	pid, _ := strconv.Atoi(systemctl(t, m, "show", "--value", "-p", "MainPID", "s.service"))
	if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(); err != nil || !gone(pid) {
		t.Errorf("gone %v, %v", gone(pid), err)
	}
}

func TestGivenDirectoryIsKept(t *testing.T) {
	systemdtest.New(t) // skips where none can run
	dir, err := os.MkdirTemp("/tmp", "sdt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m, err := systemdtest.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "units")); err != nil {
		t.Error(err)
	}
}

func TestLongDirectoryIsRefused(t *testing.T) {
	systemdtest.New(t)
	_, err := systemdtest.Start(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
	if err == nil || !strings.Contains(err.Error(), "shorter directory") {
		t.Errorf("err = %v", err)
	}
}

// A program that is killed cannot clean up, and must not leave a manager behind.
func TestKilledProgramLeavesNothing(t *testing.T) {
	if os.Getenv("SYSTEMDTEST_VICTIM") != "" {
		m, err := systemdtest.Start(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteUnit("s.service", sleeper); err != nil {
			t.Fatal(err)
		}
		systemctl(t, m, "start", "s.service")
		fmt.Println("victim", m.PID, systemctl(t, m, "show", "--value", "-p", "MainPID", "s.service"), m.RuntimeDir)
		select {}
	}
	systemdtest.New(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProgramLeavesNothing$")
	cmd.Env = append(os.Environ(), "SYSTEMDTEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	killed := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || killed != nil {
		t.Fatalf("%v, %v", err, killed)
	}
	var manager, unit int
	var dir string
	if _, err := fmt.Sscanf(line, "victim %d %d %s", &manager, &unit, &dir); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(dir)
		if gone(manager) && gone(unit) && errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: manager %v, unit %v, directory %v", !gone(manager), !gone(unit), err == nil)
		}
	}
}
