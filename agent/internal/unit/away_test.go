package unit_test

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

func TestNoSystemd(t *testing.T) {
	m := unit.NewUser(t.TempDir())
	defer m.Close()
	err := m.Ping(t.Context())
	if fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Ping = %v", err)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	err = unit.New(unit.User).Ping(t.Context())
	if fault.ReasonOf(err) != api.ReasonSystemd || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") {
		t.Errorf("Ping = %v", err)
	}
}

func TestUserScopeFollowsTheEnvironment(t *testing.T) {
	w := newWorld(t)
	for _, kv := range w.Env() {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	m := unit.New(unit.User)
	defer m.Close()
	if err := m.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A frozen systemd accepts connections and answers nothing; neither a new
// connection nor an old one may wait for it for ever.
func TestFrozenSystemd(t *testing.T) {
	w := newWorld(t)
	if err := w.units.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fresh := unit.NewUser(w.RuntimeDir)
	defer fresh.Close()
	for name, m := range map[string]*unit.Manager{"old": w.units, "new": fresh} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		_, err := m.Status(ctx, "s.service")
		cancel()
		if fault.ReasonOf(err) != api.ReasonSystemd || time.Since(start) > 5*time.Second {
			t.Errorf("%s connection: %v after %s", name, err, time.Since(start))
		}
	}
	if err := syscall.Kill(w.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*unit.Manager{"old": w.units, "new": fresh} {
		if err := m.Ping(t.Context()); err != nil {
			t.Errorf("%s connection, afterwards: %v", name, err)
		}
	}
}

func TestReconnects(t *testing.T) {
	first := systemdtest.New(t)
	dir := first.RuntimeDir
	m := unit.NewUser(dir)
	defer m.Close()
	if err := m.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.Ping(t.Context()); fault.ReasonOf(err) != api.ReasonSystemd {
		t.Errorf("Ping of nobody = %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	second, err := systemdtest.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.Ping(t.Context()); err != nil {
		t.Errorf("Ping of the next one = %v", err)
	}
	m.Close()
	if err := m.Ping(t.Context()); err != nil {
		t.Errorf("Ping after Close = %v", err)
	}
}

// The end of a job is told over the connection that asked for it, and never
// again: when that breaks, the unit itself has to tell.
func TestConnectionLostDuringRestart(t *testing.T) {
	w := newWorld(t)
	w.write(t, "slow.service", notifier(t, "1"))
	relay := newRelay(t, w.Socket)
	m := unit.NewUser(relay.dir)
	defer m.Close()
	ctx := within(t)
	done := make(chan error, 1)
	var st unit.Status
	go func() {
		var err error
		st, err = m.Restart(ctx, "slow.service")
		done <- err
	}()
	for {
		st, err := w.units.Status(ctx, "slow.service")
		if err != nil {
			t.Fatal(err)
		}
		if st.ActiveState == "activating" {
			break
		}
	}
	relay.cut()
	if err := <-done; err != nil || !st.Up() {
		t.Errorf("Restart = %+v, %v", st, err)
	}
}

// relay passes connections on to a socket, until they are cut.
type relay struct {
	dir   string
	conns chan *net.UnixConn
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sdr")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/systemd", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/systemd/private", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{dir: dir, conns: make(chan *net.UnixConn, 100)}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			up, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: to, Net: "unix"})
			if err != nil {
				c.Close()
				continue
			}
			r.conns <- c
			r.conns <- up
			passing.Go(func() { pass(c, up) })
			passing.Go(func() { pass(up, c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.cut()
		passing.Wait()
		os.RemoveAll(dir)
	})
	return r
}

func pass(from, to *net.UnixConn) {
	defer from.Close()
	defer to.Close()
	_, _ = io.Copy(to, from)
}

func (r *relay) cut() {
	for {
		select {
		case c := <-r.conns:
			c.Close()
		default:
			return
		}
	}
}
