// Package systemdtest starts a private systemd user manager, for tests and for
// trying things out on a machine of one's own. It needs root and the systemd
// program, but not a machine that systemd booted: the manager lives in a mount
// namespace and a control group of its own, and leaves the machine as it was.
//
// Its units see the same files, network, and processes as everybody else, save
// for /run/systemd and /sys/fs/cgroup. There is no journal: a unit that should
// leave a log says StandardOutput=append:/some/file.
package systemdtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

//go:embed keeper.sh
var keeper string

const (
	// startTimeout is ample for a manager that takes 0.1 s on an idle machine.
	startTimeout = 20 * time.Second
	// maxSocketPath is sizeof(sockaddr_un.sun_path) less the closing NUL.
	maxSocketPath = 107
)

// Manager is a running systemd user manager.
type Manager struct {
	RuntimeDir string // its $XDG_RUNTIME_DIR
	UnitDir    string // where unit files go; it searches no other directory for them
	Socket     string // where it listens for D-Bus peers, without a bus
	PID        int    // of the manager

	keeper *exec.Cmd
	alive  io.Closer // closing it makes the keeper end everything
	said   *bytes.Buffer
	stop   func() error
}

// Start starts a manager whose runtime directory is dir, which must be short,
// since the path of a socket in it may have 107 bytes at most. It is created
// when it does not exist and left behind by [Manager.Stop]. When dir is empty, a
// directory is made for it and removed again.
//
// ctx bounds the start, not the manager's life: that ends with Stop, or with the
// program that called Start, however it ends. The manager is ready to take jobs
// when Start returns.
func Start(ctx context.Context, dir string) (*Manager, error) {
	program, err := usable()
	if err != nil {
		return nil, fmt.Errorf("cannot start a systemd user manager: %w", err)
	}
	owned := dir == ""
	if owned {
		// Not under $TMPDIR, which may be too long.
		if dir, err = os.MkdirTemp("/tmp", "sd"); err != nil {
			return nil, fmt.Errorf("cannot start a systemd user manager: %w", err)
		}
	}
	m, err := start(ctx, program, dir, owned)
	if err != nil {
		if owned {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return nil, fmt.Errorf("cannot start a systemd user manager in %s: %w", dir, err)
	}
	return m, nil
}

func start(ctx context.Context, program, dir string, owned bool) (*Manager, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		RuntimeDir: dir,
		UnitDir:    filepath.Join(dir, "units"),
		Socket:     filepath.Join(dir, "systemd", "private"),
		said:       new(bytes.Buffer),
	}
	if n := len(m.Socket); n > maxSocketPath {
		return nil, fmt.Errorf("the path of its socket would have %d bytes, and %d are possible: use a shorter directory", n, maxSocketPath)
	}
	for _, d := range []string{dir, m.UnitDir, filepath.Join(dir, "base"), filepath.Join(dir, "home")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	for name, text := range base {
		if err := os.WriteFile(filepath.Join(dir, "base", name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := m.launch(program, owned); err != nil {
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		return nil, errors.Join(err, m.Stop(), m.words())
	}
	return m, nil
}

// launch starts the keeper and learns the manager's process id from it.
func (m *Manager) launch(program string, owned bool) error {
	rm := "no"
	if owned {
		rm = "yes"
	}
	cmd := exec.Command("/bin/sh", "-c", keeper, "keeper", m.RuntimeDir, "lockstep-"+rand.Text()[:12], rm)
	cmd.Env = append(os.Environ(), "SYSTEMD="+program)
	cmd.Dir = "/"
	cmd.Stderr = m.said
	cmd.WaitDelay = 5 * time.Second // should anything that it started hold on to stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, // mounts in it do not spread outside
		Setsid:       true,                // an interrupt at the terminal is not for it
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("no mount namespace can be made here: %w", err)
	}
	m.keeper, m.alive = cmd, in
	m.stop = sync.OnceValue(m.end)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		m.PID, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		// The keeper gave up before the manager: its error says why.
		return errors.Join(errors.New("its namespace or control group cannot be set up"), m.Stop())
	}
	return nil
}

// ready waits until the manager accepts connections.
func (m *Manager) ready(ctx context.Context) error {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", m.Socket)
		if err == nil {
			return c.Close()
		}
		stat, serr := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID))
		if serr != nil || strings.Contains(string(stat), ") Z ") {
			return errors.New("it ended at once")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not listen on %s: %w", m.Socket, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// usable returns the systemd program, or why none can be run here.
func usable() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("only root can make the namespace it needs")
	}
	for _, p := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("there is no /usr/lib/systemd/systemd: install systemd")
}

// New starts a manager for one test and ends it with the test. It skips the test
// where none can be run.
func New(t testing.TB) *Manager {
	t.Helper()
	if _, err := usable(); err != nil {
		t.Skipf("no systemd user manager can run here: %v", err)
	}
	m, err := Start(t.Context(), "")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Env is what a process needs in its environment to find the manager.
func (m *Manager) Env() []string { return []string{"XDG_RUNTIME_DIR=" + m.RuntimeDir} }

// WriteUnit writes a unit file. The manager sees a new one by itself; a changed
// one needs a reload.
func (m *Manager) WriteUnit(name, text string) error {
	return os.WriteFile(filepath.Join(m.UnitDir, name), []byte(text), 0o644)
}

// Stop ends the manager and every unit, which get no time to stop, and returns
// when nothing of them is left. Further calls return what the first one did.
func (m *Manager) Stop() error { return m.stop() }

func (m *Manager) end() error {
	_ = m.alive.Close() // all that it can say is that the keeper is gone
	if err := m.keeper.Wait(); err != nil {
		return errors.Join(fmt.Errorf("cannot end the systemd user manager in %s: %w", m.RuntimeDir, err), m.words())
	}
	return nil
}

// words is what the keeper and the manager wrote to standard error, nil when
// nothing. It is complete once the keeper has ended.
func (m *Manager) words() error {
	if s := strings.TrimSpace(m.said.String()); s != "" {
		return errors.New(s)
	}
	return nil
}
