package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// UnitFiles is what an agent needs to write units.
type UnitFiles interface {
	// File returns the text of a unit file, "" when there is none.
	File(ctx context.Context, name string) (string, error)
	// Install writes a unit file and lets the unit, which is read from it, start with
	// the machine.
	Install(ctx context.Context, name, text, unit string) error
}

// installer writes an app's unit in a turn.
type installer struct {
	p    *app
	spec api.Spec
}

func (p *app) host() api.Host {
	return api.Host{Apps: p.a.cfg.Apps, Scope: p.a.cfg.Systemd, User: p.a.cfg.RunUser}
}

// Check returns why the unit cannot be written, nil when it can.
func (i installer) Check(ctx context.Context) error {
	_, err := i.present(ctx)
	return err
}

// Install makes the unit run releases in the given way.
func (i installer) Install(ctx context.Context, run api.Run) error {
	if _, err := i.present(ctx); err != nil {
		return err
	}
	name := unitfile.Template(i.spec.Unit)
	text := unitfile.Text(i.p.name, name != i.spec.Unit, run, i.p.host())
	return i.p.a.deps.UnitFiles.Install(ctx, name, text, i.spec.Unit)
}

// present returns the unit file that is there, if it is one that may be replaced.
func (i installer) present(ctx context.Context) (string, error) {
	name, a := unitfile.Template(i.spec.Unit), i.p.a
	switch {
	case name != unitfile.Name(i.p.name, name != i.spec.Unit):
		return "", fault.Errorf(api.ReasonUnitNotAllowed, "cannot write the unit %s: it is not that of the app %s", name, i.p.name)
	case !a.cfg.GenerateUnits || a.deps.UnitFiles == nil:
		return "", fault.Errorf(api.ReasonUnitNotAllowed,
			"cannot write the unit %s: agent.yaml does not allow it; write generate_units: true, or give the app a unit of its own (unit: in fleet.yaml)", name)
	}
	text, err := a.deps.UnitFiles.File(ctx, name)
	if err == nil && text != "" && !unitfile.Ours(i.p.name, text) {
		err = fault.Errorf(api.ReasonUnitNotAllowed,
			"cannot write the unit %s: there is one that Lockstep did not write; move it away, or write unit: %s in fleet.yaml to use it", name, name)
	}
	return text, err
}

// unitReport tells how the app's generated unit stands, nil when it has one of its
// own.
func (p *app) unitReport(d *journal.Doc) *api.UnitReport {
	if d.Absent || d.Assignment == nil || !d.Assignment.Spec.Generated {
		return nil
	}
	ctx, cancel := p.look()
	defer cancel()
	r := &api.UnitReport{Host: p.host()}
	text, err := installer{p, d.Assignment.Spec}.present(ctx)
	if err == nil {
		err = p.allowed(d.Assignment.Spec.Unit)
	}
	if err != nil {
		r.Refused = err.Error()
	} else if text != "" {
		r.Installed = unitfile.Digest(text)
	}
	return r
}

// allowed returns an error when the unit is not to be touched: agent.yaml does not
// allow it, or it is another app's as well.
func (p *app) allowed(unit string) error {
	if !p.a.cfg.MayRestart(unit) {
		return fault.Errorf(api.ReasonUnitNotAllowed,
			"cannot restart %s: agent.yaml does not allow it; add the unit or a pattern for it under units", unit)
	}
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	for name, o := range p.a.apps {
		if o == p {
			continue
		}
		d := o.file.Read()
		if slices.ContainsFunc(goals(d), func(g api.Goal) bool { return d.Assignment.Spec.Of(g).Unit == unit }) {
			return fault.Errorf(api.ReasonUnitNotAllowed, "cannot restart %s: it is also the unit of the app %s; give each app its own in fleet.yaml", unit, name)
		}
	}
	return nil
}

// stays is what to say of a generated unit whose app was taken from the node.
func stays(d *journal.Doc) string {
	if d.Assignment == nil || !d.Assignment.Spec.Generated {
		return ""
	}
	return fmt.Sprintf("its unit stays, too; to remove it, systemctl disable --now %s, and delete %s",
		d.Assignment.Spec.Unit, unitfile.Template(d.Assignment.Spec.Unit))
}
