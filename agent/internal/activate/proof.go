package activate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Proof returns the release that a unit runs, "" when nothing proves one, and
// where its processes run from. version is what the target last answered as its
// version, "" when it does not.
//
// What runs is shown by the main process: its executable or its working directory
// lies in a release, and the two do not contradict each other. Only where they lie
// in none does the version count, if it names a release that is present.
//
// A unit that is reloaded may keep its main process, so there the version comes
// first, and then the processes of the unit: it runs the current release as soon
// as any of them does, for others may have work to finish, and otherwise what the
// youngest of those in a release runs from.
func Proof(ctx context.Context, units Units, releases Releases, spec api.Spec, version string) (release string, paths []string, err error) {
	reload := spec.Restart == api.RestartReload
	if reload {
		release, paths, err = newest(ctx, units, releases, spec.Unit)
	} else if _, paths, err = units.Runs(ctx, spec.Unit); err == nil {
		release = common(releases, paths)
	}
	if err != nil || version == "" || len(paths) == 0 || release != "" && !reload {
		return release, paths, err
	}
	named, err := named(releases, version)
	if err != nil {
		return "", paths, err
	}
	if named != "" {
		release = named
	}
	return release, paths, nil
}

// common is the release that some paths of one process lie in, "" when there is
// none or they contradict each other.
func common(releases Releases, paths []string) (release string) {
	for _, p := range paths {
		id, ok := releases.Of(p)
		switch {
		case !ok:
		case release == "":
			release = id
		case release != id:
			return ""
		}
	}
	return release
}

// newest is the release that a unit which is reloaded runs by its processes.
func newest(ctx context.Context, units Units, releases Releases, name string) (release string, paths []string, err error) {
	all, err := units.Processes(ctx, name)
	if err != nil {
		return "", nil, err
	}
	current, err := releases.Current()
	if err != nil {
		return "", nil, err
	}
	var youngest uint64
	for _, p := range all {
		for _, path := range p.Paths {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
		switch id := common(releases, p.Paths); {
		case id == "":
		case id == current:
			release, youngest = id, ^uint64(0)
		case release == "" || p.Started > youngest:
			release, youngest = id, p.Started
		}
	}
	return release, paths, nil
}

// named is the release on disk that a version names: the current one, if it may be
// several of the same commit.
func named(releases Releases, version string) (string, error) {
	present, err := releases.Present()
	if err != nil {
		return "", err
	}
	present = slices.DeleteFunc(present, func(id string) bool { return !health.Names(version, id) })
	current, err := releases.Current()
	if err != nil {
		return "", err
	}
	switch {
	case slices.Contains(present, current):
		return current, nil
	case len(present) == 1:
		return present[0], nil
	}
	return "", nil
}

// proves returns nil when the unit runs release; probe is the last one that
// passed. On the way to a new release the version that it gives must be that of
// the release, where one is asked for; on the way back it need not, for the
// fallback may be older than the app's knowledge of its version.
func (a *activation) proves(ctx context.Context, release string, probe health.Probe) error {
	name, where := a.t.Spec.Unit, a.t.Spec.Health.Version
	if where != nil && a.t.Undo == nil && !health.Names(probe.Version, release) {
		return fault.Errorf(api.ReasonWrongRelease, "%s, expected that of release %s", health.FromAPI(a.check()).Answered(probe), release)
	}
	got, paths, err := Proof(ctx, a.Units, a.Releases, a.t.Spec, probe.Version)
	switch {
	case err != nil:
		return err
	case got == release:
		return nil
	case got != "" && a.reloads():
		return fault.Errorf(api.ReasonWrongRelease, "%s runs release %s after its reload, expected %s: no process of it runs from there; "+
			"if its reload does not start processes anew, write restart: restart in fleet.yaml, or health.version", name, got, release)
	case got != "":
		return fault.Errorf(api.ReasonWrongRelease, "%s runs release %s, expected %s", name, got, release)
	case len(paths) == 0:
		return fault.Errorf(api.ReasonStartFailed, "%s has no main process", name)
	}
	return fault.Errorf(api.ReasonWrongRelease,
		"%s runs from no release, expected %s: neither its executable nor its working directory (%s) lies in one; "+
			"set WorkingDirectory= of the unit to the app's current directory, or write health.version in fleet.yaml", name, release, strings.Join(paths, ", "))
}

func (a *activation) reloads() bool { return a.t.Spec.Restart == api.RestartReload }

// reloadable returns an error when the unit cannot be reloaded, before that costs
// any traffic.
func (a *activation) reloadable() error {
	ctx, cancel := a.call()
	defer cancel()
	return a.Units.Reloads(ctx, a.t.Spec.Unit)
}

// anew makes the unit run what current names, in the way that the app asks for. On
// the way back a reload that fails is replaced by a restart: the release that
// broke it must not stay.
func (a *activation) anew(ctx context.Context) (st unit.Status, err error) {
	name := a.t.Spec.Unit
	switch a.t.Spec.Restart {
	case api.RestartReload:
		if st, err = a.Units.Reload(ctx, name); err == nil || a.t.Undo == nil || ctx.Err() != nil {
			return st, err
		}
		a.remark = fmt.Sprintf("restarted, since its reload failed: %v", err)
	case api.RestartStopStart:
		return a.Units.StopStart(ctx, name)
	}
	return a.Units.Restart(ctx, name)
}
