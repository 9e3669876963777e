package activate_test

import (
	"context"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

type units struct{ *world }

func (u units) Status(context.Context, string) (st unit.Status, err error) {
	u.op("units.Status", func() { st = u.status() })
	return st, nil
}

func (u units) Restart(ctx context.Context, _ string) (st unit.Status, err error) {
	u.op("units.Restart", func() {
		if !u.drained {
			u.violate("restarted while the balancer may send it work")
		}
		u.restarts++
		u.touched, u.passed = true, 0
		u.running, u.active, u.started, u.nrestarts = u.current, true, time.Now(), 0
		u.invocation++
		u.main = ""
		if u.release().NoStart {
			u.active = false
			err = fault.Errorf(api.ReasonStartFailed, "exit status 1")
			return
		}
		time.Sleep(50 * time.Millisecond)
		st = u.status()
	})
	return st, err
}

func (u units) StopStart(ctx context.Context, name string) (unit.Status, error) {
	return u.Restart(ctx, name)
}

func (u units) Stop(context.Context, string) error {
	u.op("units.Stop", func() {
		if !u.drained {
			u.violate("stopped while the balancer may send it work")
		}
		u.touched, u.passed, u.active = true, 0, false
	})
	return nil
}

func (u units) Reloads(context.Context, string) (err error) {
	u.op("units.Reloads", func() {
		if u.s.NoReload {
			err = fault.Errorf(api.ReasonNoReload, "no ExecReload")
		}
	})
	return err
}

// Reload leaves the main process, and has it start new workers a moment later.
func (u units) Reload(context.Context, string) (st unit.Status, err error) {
	u.op("units.Reload", func() {
		if !u.drained {
			u.violate("reloaded while the balancer may send it work")
		}
		next := u.s.Apps[u.current]
		if next.NoLoad {
			err = fault.Errorf(api.ReasonStartFailed, "ExecReload failed")
			return
		}
		u.reloads++
		if u.main == "" {
			u.main = u.running
		}
		u.touched, u.passed = true, 0
		if !next.Stuck {
			u.running, u.started = u.current, time.Now()
		}
		st = u.status()
	})
	return st, err
}

func (u units) Processes(context.Context, string) (all []unit.Process, err error) {
	u.op("units.Processes", func() {
		u.live()
		if !u.active {
			return
		}
		main := u.main
		if main == "" {
			main = u.running
		}
		all = append(all, unit.Process{PID: 7, Started: 1, Paths: []string{"/usr/bin/python3", "/rel/" + main}})
		if !u.release().Strays && time.Since(u.started) > 300*time.Millisecond {
			all = append(all, unit.Process{PID: 8, Started: 2, Paths: []string{"/usr/bin/python3", "/rel/" + u.running}})
		}
	})
	return all, nil
}

func (u units) Runs(context.Context, string) (pid int, paths []string, err error) {
	u.op("units.Runs", func() {
		u.live()
		switch {
		case !u.active:
		case u.release().Strays:
			pid, paths = 7, []string{"/usr/bin/python3", "/"}
		default:
			pid, paths = 7, []string{"/usr/bin/python3", "/rel/" + u.running}
		}
	})
	return pid, paths, nil
}

func (u units) Settled(context.Context, string, string, int) (err error) {
	u.op("units.Settled", func() {})
	return nil
}
