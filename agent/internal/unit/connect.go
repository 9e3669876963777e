package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// link is a connection with the end of the context that it lives in.
type link struct {
	*sd.Conn
	end context.CancelFunc
}

func (l *link) close() {
	l.Conn.Close()
	l.end()
}

// Close ends the connection. A later call would make a new one.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open != nil {
		m.open.close()
		m.open = nil
	}
}

// connected returns the connection, made anew if there is none or it is lost.
func (m *Manager) connected(ctx context.Context) (*link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open != nil && m.open.Connected() {
		return m.open, nil
	}
	if m.open != nil {
		m.open.close()
		m.open = nil
	}
	l, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	m.open = l
	return l, nil
}

// drop gives up a connection that did not work, unless that was done already.
func (m *Manager) drop(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == l {
		m.open.close()
		m.open = nil
	}
}

func (m *Manager) dial(ctx context.Context) (*link, error) {
	private, bus := "/run/systemd/private", dbus.SystemBusPrivate
	direct := os.Geteuid() == 0
	if m.scope == User {
		dir := m.runtimeDir
		if dir == "" {
			dir = os.Getenv("XDG_RUNTIME_DIR")
		}
		private, bus = filepath.Join(dir, "systemd", "private"), dbus.SessionBusPrivate
		direct = dir != ""
		if !direct && os.Getenv("DBUS_SESSION_BUS_ADDRESS") == "" {
			return nil, fmt.Errorf("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set, is this a lingering user's session? %w", os.ErrNotExist)
		}
	}
	var missing error
	if direct {
		l, err := dial(ctx, false, func(o ...dbus.ConnOption) (*dbus.Conn, error) {
			return dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(private), o...)
		})
		if err == nil || m.runtimeDir != "" || ctx.Err() != nil {
			return l, err
		}
		missing = err
	}
	l, err := dial(ctx, true, bus)
	if err != nil {
		return nil, errors.Join(missing, err)
	}
	return l, nil
}

// dial connects within ctx. The context that godbus is given is the life of the
// connection, so ctx is not passed on but ends that life while dialling.
func dial(ctx context.Context, hello bool, open func(...dbus.ConnOption) (*dbus.Conn, error)) (*link, error) {
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	c, err := sd.NewConnection(func() (*dbus.Conn, error) {
		conn, err := open(dbus.WithContext(life))
		if err != nil {
			return nil, err
		}
		err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
		if err == nil && hello {
			err = conn.Hello()
		}
		if err != nil {
			_ = conn.Close() // the first error is the one that tells
			return nil, err
		}
		return conn, nil
	})
	if !stop() {
		if err == nil {
			c.Close()
		}
		end()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	return &link{Conn: c, end: end}, nil
}

// call makes a request that may be repeated, and repeats it once when the
// connection turns out to be lost. what completes "cannot ...".
func (m *Manager) call(ctx context.Context, what string, do func(context.Context, *sd.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for first := true; ; first = false {
		l, err := m.connected(ctx)
		if err != nil {
			return m.unanswered(what, err)
		}
		if err = do(ctx, l.Conn); err == nil {
			return nil
		}
		if answered(err) {
			return refused(what, err)
		}
		m.drop(l)
		if !first || ctx.Err() != nil {
			return m.unanswered(what, err)
		}
	}
}

const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

// name returns the D-Bus name of systemd's own errors, "" for all others.
func name(err error) string {
	if e, ok := errors.AsType[dbus.Error](err); ok {
		return e.Name
	}
	return ""
}

// answered tells systemd's refusals from what is wrong with the connection.
func answered(err error) bool { return name(err) != "" }

func (m *Manager) unanswered(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return fault.Errorf(api.ReasonSystemd, "cannot %s: the %s's systemd does not answer: %w", what, m.scope, err)
}

// refused says what systemd's own error means for the caller.
func refused(what string, err error) error {
	switch name(err) {
	case noSuchUnit, "org.freedesktop.systemd1.UnitMasked",
		"org.freedesktop.systemd1.LoadFailed", "org.freedesktop.systemd1.BadUnitSetting",
		"org.freedesktop.DBus.Error.InvalidArgs":
		return fault.Errorf(api.ReasonUnitMissing, "cannot %s: %w", what, err)
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return fault.Errorf(api.ReasonSystemd, "cannot %s: not permitted; run the agent as root or add a polkit rule for its user: %w", what, err)
	}
	return fault.Errorf(api.ReasonSystemd, "cannot %s: %w", what, err)
}
