// Package unit restarts an app's systemd unit and tells what became of it.
//
// A job that systemd calls done says little: a program that exits at once, a unit
// whose condition is not met, and one that restarts itself for ever all end in
// "done". So the unit is looked at before and after, and what counts is that it
// is running, and that this is another start than the one before.
//
// It is the only package that speaks D-Bus. A connection that is lost, because
// systemd or the bus was restarted, is made anew with the next call.
package unit

import (
	"context"
	"encoding/hex"
	"math"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Scope says whose systemd the units belong to.
type Scope string

// Scopes. The user scope is that of the user whom the agent runs as.
const (
	System Scope = "system"
	User   Scope = "user"
)

// callTimeout bounds one request to systemd; waiting for a job is bounded
// otherwise.
const callTimeout = 10 * time.Second

// Manager speaks to one systemd. It is safe for concurrent use.
type Manager struct {
	scope      Scope
	runtimeDir string // of the user scope; "" is $XDG_RUNTIME_DIR

	mu   sync.Mutex
	open *link // nil until needed, and after it was lost
}

// New returns a manager of a scope, without I/O. As root, the system scope uses
// systemd's own socket, so that it needs no bus, and the bus only where that is
// missing; other users need the bus, and leave by polkit to manage units. The
// user scope likewise uses $XDG_RUNTIME_DIR/systemd/private or else the session
// bus.
func New(scope Scope) *Manager { return &Manager{scope: scope} }

// NewUser returns a manager of the user scope whose systemd has its runtime
// directory at dir, without I/O.
func NewUser(dir string) *Manager { return &Manager{scope: User, runtimeDir: dir} }

// Status is how a unit stands, in systemd's own words.
type Status struct {
	LoadState, ActiveState, SubState string
	Result                           string        // of its last run: success, exit-code, signal, timeout, ...
	InvocationID                     string        // names one start, 32 hex digits; "" when it never started
	MainPID                          int           // 0 when there is none
	NRestarts                        int           // by systemd itself (Restart=) since somebody started it
	ExecMainCode                     int           // how the main process ended: CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3), or 0
	ExecMainStatus                   int           // its exit status, or the signal that killed it
	ReloadResult                     string        // of its last reload: success, exit-code, timeout, ...
	TimeoutStart, TimeoutStop        time.Duration // 0: no limit
}

// Up tells whether the unit has a program running that systemd takes for ready.
func (s Status) Up() bool {
	return (s.ActiveState == "active" || s.ActiveState == "reloading") && s.SubState != "exited"
}

// Status returns how a unit stands. A unit that is not there, is masked, or has
// a file that systemd refuses is [api.ReasonUnitMissing]; that systemd does not
// answer is [api.ReasonSystemd].
func (m *Manager) Status(ctx context.Context, unit string) (Status, error) {
	st, err := m.state(ctx, unit)
	return st.Status, err
}

// ReloadUnits makes systemd read the unit files again (daemon-reload).
func (m *Manager) ReloadUnits(ctx context.Context) error {
	return m.call(ctx, "reload the unit files", func(ctx context.Context, c *sd.Conn) error { return c.ReloadContext(ctx) })
}

// Ping returns nil when systemd answers.
func (m *Manager) Ping(ctx context.Context) error {
	return m.call(ctx, "reach systemd", func(ctx context.Context, c *sd.Conn) error {
		_, err := c.SystemStateContext(ctx)
		return err
	})
}

// state is a [Status] with what explains it.
type state struct {
	Status
	job   uint32 // that is queued or runs for it; 0 for none
	props map[string]any
}

func (m *Manager) state(ctx context.Context, unit string) (state, error) {
	var st state
	err := m.call(ctx, "read the state of "+unit, func(ctx context.Context, c *sd.Conn) error {
		props, err := c.GetAllPropertiesContext(ctx, unit)
		if err == nil {
			st = read(props)
		}
		return err
	})
	if err != nil {
		return state{}, err
	}
	switch st.LoadState {
	case "loaded":
		return st, nil
	case "not-found":
		return st, fault.Errorf(api.ReasonUnitMissing,
			"cannot find the unit %s: no unit file of this name; install it, and run daemon-reload", unit)
	case "masked":
		return st, fault.Errorf(api.ReasonUnitMissing, "cannot use the unit %s: it is masked; run systemctl unmask %s", unit, unit)
	}
	why := st.LoadState
	if e, ok := st.props["LoadError"].([]any); ok && len(e) == 2 {
		if s, ok := e[1].(string); ok && s != "" {
			why += ", " + s
		}
	}
	return st, fault.Errorf(api.ReasonUnitMissing,
		"cannot use the unit %s: systemd refuses its unit file (%s); run systemd-analyze verify %s", unit, why, unit)
}

func read(props map[string]any) state {
	st := state{props: props}
	st.LoadState = get[string](props, "LoadState")
	st.ActiveState = get[string](props, "ActiveState")
	st.SubState = get[string](props, "SubState")
	st.Result = get[string](props, "Result")
	st.ReloadResult = get[string](props, "ReloadResult")
	st.InvocationID = hex.EncodeToString(get[[]byte](props, "InvocationID"))
	st.MainPID = int(get[uint32](props, "MainPID"))
	st.NRestarts = int(get[uint32](props, "NRestarts"))
	st.ExecMainCode = int(get[int32](props, "ExecMainCode"))
	st.ExecMainStatus = int(get[int32](props, "ExecMainStatus"))
	st.TimeoutStart = microseconds(get[uint64](props, "TimeoutStartUSec"))
	st.TimeoutStop = microseconds(get[uint64](props, "TimeoutStopUSec"))
	if j, ok := props["Job"].([]any); ok && len(j) == 2 {
		st.job, _ = j[0].(uint32)
	}
	return st
}

// get returns a property, or the zero value where it is missing, as it is for
// units that are no services.
func get[T any](props map[string]any, name string) T {
	v, _ := props[name].(T)
	return v
}

// microseconds reads a timeout, of which the largest number means none.
func microseconds(v uint64) time.Duration {
	if v > math.MaxInt64/uint64(time.Microsecond) {
		return 0
	}
	return time.Duration(v) * time.Microsecond
}
