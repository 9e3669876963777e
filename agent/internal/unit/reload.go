package unit

import (
	"context"
	"errors"
	"fmt"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Reload has a unit's own command reload it, and returns once systemd says that
// this is done; one that is down is started. What runs then is not known from
// that: with most programs the command is a signal, which returns at once, and
// the main process may stay. See [Manager.Processes].
//
// [api.ReasonStartFailed] means that the command failed, with what the unit said
// last; its processes mostly run on. [api.ReasonNoReload] means that there is no
// such command, see [Manager.Reloads].
func (m *Manager) Reload(ctx context.Context, unit string) (Status, error) {
	what := "reload " + unit
	before, err := m.state(ctx, unit)
	if err != nil {
		return before.Status, err
	}
	if !before.Up() {
		return m.Restart(ctx, unit)
	}
	if err := before.reloads(unit); err != nil {
		return before.Status, err
	}
	result, err := m.job(ctx, unit, what, before, (*sd.Conn).ReloadUnitContext)
	if err != nil {
		return m.lateReload(ctx, unit, before, err)
	}
	after, err := m.state(ctx, unit)
	if err != nil {
		return after.Status, err
	}
	if err := unfinished(unit, what, result); err != nil {
		return after.Status, err
	}
	if result != "done" && result != unseen || !after.Up() || after.ReloadResult != "" && after.ReloadResult != "success" {
		why := after.why()
		if after.Up() {
			why = after.reloadFailed()
		}
		return after.Status, fault.Errorf(api.ReasonStartFailed, "cannot %s: %s%s", what, why, m.lastLines(ctx, after.InvocationID))
	}
	return after.Status, nil
}

// Reloads returns nil when a unit has a command that reloads it.
func (m *Manager) Reloads(ctx context.Context, unit string) error {
	st, err := m.state(ctx, unit)
	if err != nil {
		return err
	}
	return st.reloads(unit)
}

func (s state) reloads(unit string) error {
	if get[bool](s.props, "CanReload") {
		return nil
	}
	return fault.Errorf(api.ReasonNoReload,
		"cannot reload %s: the unit has no ExecReload=; write ExecReload=/bin/kill -HUP $MAINPID, or what the program takes for it, in its [Service], or restart: restart in fleet.yaml", unit)
}

// lateReload explains a reload whose wait ended before the job did.
func (m *Manager) lateReload(ctx context.Context, unit string, before state, err error) (Status, error) {
	if !late(err) {
		return before.Status, err
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	st, serr := m.state(soon, unit)
	if serr != nil || st.ActiveState != "reloading" {
		return before.Status, fault.New(api.ReasonSystemd, errors.Join(err, serr))
	}
	return st.Status, fault.Errorf(api.ReasonStartFailed, "cannot reload %s in time: %s%s",
		unit, st.reloadFailed(), m.lastLines(soon, st.InvocationID))
}

// reloadFailed says why a unit that runs on was not reloaded.
func (s state) reloadFailed() string {
	if c := s.troubled("ExecReload"); c != "" {
		return c
	}
	return fmt.Sprintf("its reload ended as ReloadResult=%s", s.ReloadResult)
}
