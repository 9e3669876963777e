package config

import (
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// readUnit reads the name of the app's unit, or what a unit is generated from.
func (a *App) readUnit(o object) {
	several := o.has("instances")
	v, run := o.get("run")
	if !run {
		for _, key := range []string{"env_run", "run_memory"} {
			if v, ok := o.get(key); ok {
				v.fail("it is for units that are generated; write run: as well, or put it into the unit file")
			}
		}
		if v, ok := o.need("unit", a.Name+".service, or run: with the command to run for a unit to be generated"); ok {
			if a.Unit, ok = v.text(a.Name + ".service"); ok {
				a.checkUnit(v, several)
			}
		}
		return
	}
	a.Unit = unitfile.Name(a.Name, several)
	if u, ok := o.get("unit"); ok {
		u.fail("expected one of unit and run; leave unit out for %s to be generated, or run to use your own", a.Unit)
	}
	const write = `"bin/server --port 8080"`
	command, ok := v.text(write)
	if ok && (strings.TrimSpace(command) == "" || strings.Contains(command, "\x00")) {
		v.fail("expected a command, got %s; write %s", quoted(command), write)
	}
	a.Run = command
	if v, ok := o.get("env_run"); ok {
		a.EnvRun = v.environment()
	}
	if v, ok := o.get("run_memory"); ok {
		if n, ok := v.size(4<<20, 1<<50); ok {
			a.RunMemory = n
		}
	}
	named := strings.Contains(command, "{instance}")
	for _, value := range a.EnvRun {
		named = named || strings.Contains(value, "{instance}")
	}
	switch {
	case named && !several:
		v.fail("the app has no instances that {instance} could stand for; write instances: %s, or the port itself", writeInstances)
	case several && !named && ok:
		v.fail("every instance would be run alike; write {instance} where its name belongs, here or in env_run, such as bin/server --port {instance}")
	}
	if r, ok := o.get("restart"); ok && r.is(api.RestartReload) {
		r.fail("a unit that is generated has no reload; write restart, or a unit of your own")
	}
}

// run is what a release of the app is run by, nil where it has a unit of its own.
func (a *App) run() *api.Run {
	if a.Run == "" {
		return nil
	}
	return &api.Run{Command: a.Run, Env: a.EnvRun, Memory: a.RunMemory}
}

// Generated tells whether the app's unit is written by the agents.
func (a *App) Generated() bool { return a.Run != "" }
