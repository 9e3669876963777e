package agent

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// How often a target is looked at: while something about it is new or wrong,
// and while all is well.
const (
	lookLive = 2 * time.Second
	lookIdle = 10 * time.Second
)

// view is a target as last observed.
type view struct {
	Release  string
	Rotation api.Rotation
	Health   api.Health
	Detail   string
	// Current is what the target's current link names, where that is another
	// release than the one that runs, or, where none is proved to run, than the one
	// that should; "none" where it names none, and one runs.
	Current string
}

// observer holds what looking at one target again and again needs.
type observer struct {
	instance string
	spec     api.Spec
	server   string
	lb       lbclient.Provider
	gate     lbclient.Provider  // beside a balancer that the coordinator speaks to, or nil
	report   api.BalancerReport // guarded by app.mu
	// check is of the release that runs, as far as that is known.
	check   api.HealthCheck
	verdict *health.Verdict
	// The proof holds as long as the same process runs and answers as the same
	// version; not where workers come and go.
	invocation string
	pid        int
	version    string
	proof      string
}

// seed takes over the verdict of a turn that has just ended.
func (o *observer) seed(h api.Health) {
	check := health.FromAPI(o.check)
	n := check.Passes
	if h == api.Unhealthy {
		n = check.Failures
	}
	if h != api.Healthy && h != api.Unhealthy {
		n = 0
	}
	o.verdict = check.NewVerdict()
	for range n {
		o.verdict.Add(health.Probe{At: time.Now(), OK: h == api.Healthy, Text: "as its turn found it"})
	}
}

// observe looks once at every target, reports what changed, and returns when to
// look again.
func (p *app) observe() time.Duration {
	working := p.working()
	d := p.file.Read()
	wait := lookIdle
	named := map[string]bool{}
	for _, g := range goals(d) {
		named[g.Target] = true
		if working[g.Target] {
			continue
		}
		if len(p.toActivate) > 0 {
			return 0 // a turn is not kept waiting for a look at the others
		}
		v := p.observeTarget(d, g)
		if p.a.stop.Err() != nil {
			return 0
		}
		p.mu.Lock()
		changed := p.views[g.Target] != v
		p.views[g.Target] = v
		p.mu.Unlock()
		if changed {
			p.a.notify()
		}
		if changed || v.Rotation != api.RotationIn || v.Health != api.Healthy || v.Release != g.Release {
			wait = lookLive
		}
		if v.Health == api.HealthUnknown {
			wait = time.Second
		}
	}
	left, unit := p.leftRunning(d), p.unitReport(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.left, left) {
		p.left = left
		p.a.notify()
	}
	if !reflect.DeepEqual(p.unit, unit) {
		p.unit = unit
		p.a.notify()
	}
	for target, o := range p.observers {
		if !named[target] {
			p.close(o)
			delete(p.observers, target)
			delete(p.views, target)
		}
	}
	return wait
}

func (p *app) close(o *observer) {
	if err := o.lb.Close(); err != nil {
		p.log.Warn("cannot close the connection to the balancer", "error", err)
	}
}

// observer returns the target's observer, a new one when its settings changed.
func (p *app) observer(d *journal.Doc, g api.Goal) *observer {
	spec, server := d.Assignment.Spec.Of(g), p.server(g)
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.observers[g.Target]
	if o != nil && reflect.DeepEqual(o.spec, spec) && o.server == server {
		return o
	}
	n := &observer{instance: g.Instance, spec: spec, server: server}
	// What is to be running, until it is known what does.
	current, _ := p.store.Instance(g.Instance).Current()
	n.check = spec.Health.Of(recipeOf(current, nil, d))
	n.lb, n.gate = p.providers(spec, g.Target, server, func() api.HealthCheck { return n.check })
	n.verdict = health.FromAPI(n.check).NewVerdict()
	if o != nil {
		if reflect.DeepEqual(o.spec.Health, spec.Health) {
			n.verdict = o.verdict
		}
		p.close(o)
	}
	p.observers[g.Target] = n
	return n
}

func (p *app) observeTarget(d *journal.Doc, g api.Goal) view {
	o := p.observer(d, g)
	ctx, cancel := p.look()
	defer cancel()
	v := view{Rotation: api.RotationUnknown, Health: api.HealthUnknown}
	st, err := p.a.deps.Units.Status(ctx, o.spec.Unit)
	// What it answered last counts for as long as it is the same process.
	version := ""
	if st.InvocationID == o.invocation {
		version = o.version
	}
	if err == nil {
		// What runs says how it is checked; an error shows below, with the version.
		_ = p.prove(ctx, o, st, version)
	}
	if o.proof != "" {
		o.check = o.spec.Health.Of(recipeOf(o.proof, nil, d))
	}
	check := health.FromAPI(o.check)
	if !check.None() {
		probe := check.Probe(ctx)
		if p.a.stop.Err() != nil {
			return v
		}
		o.verdict.Add(probe)
		if !probe.OK {
			v.Detail = probe.Text
		} else {
			version = probe.Version
		}
	}
	missing := err != nil && o.spec.Generated && fault.ReasonOf(err) == api.ReasonUnitMissing
	if missing {
		st, err = unit.Status{ActiveState: "inactive"}, nil
	}
	if err != nil {
		v.Detail = err.Error()
	} else if missing {
		v.Rotation, v.Detail = api.RotationOut, "its first turn writes "+o.spec.Unit
	} else {
		if err := p.prove(ctx, o, st, version); err != nil {
			v.Detail = err.Error()
		}
		v.Release = o.proof
		if version != "" && o.proof != "" && !health.Names(version, o.proof) && v.Detail == "" {
			v.Detail = fmt.Sprintf("it runs from release %s, and answers as version %q", o.proof, version)
		}
		active := st.Up()
		if !active {
			v.Detail = o.spec.Unit + " is " + st.ActiveState
		}
		if check.None() {
			o.verdict.Add(health.Probe{At: time.Now(), OK: active, Text: o.spec.Unit + " is " + st.ActiveState})
		}
		if o.spec.Balancer == nil {
			v.Rotation = api.RotationOut
			if active {
				v.Rotation = api.RotationIn
			}
		}
	}
	switch current, err := p.store.Instance(g.Instance).Current(); {
	case current == v.Release:
	case err != nil || current == "":
		if v.Release != "" {
			v.Current = "none"
		}
	case v.Release != "" || current != g.Release:
		v.Current = current // of one that is down only if it was not left on that
	}
	v.Health = o.verdict.State()
	if o.spec.Balancer != nil {
		p.observeRotation(ctx, o, &v)
		p.checkBalancer(o)
	}
	return v
}

// prove brings the proof of what the target runs up to date. st is its unit, version
// what it last answered.
func (p *app) prove(ctx context.Context, o *observer, st unit.Status, version string) error {
	same := st.InvocationID == o.invocation && st.MainPID == o.pid && st.InvocationID != "" && version == o.version
	if same && o.spec.Restart != api.RestartReload {
		return nil
	}
	proof, _, err := activate.Proof(ctx, p.a.deps.Units, p.store.Instance(o.instance), o.spec, version)
	o.invocation, o.pid, o.version, o.proof = st.InvocationID, st.MainPID, version, proof
	if err != nil {
		o.invocation = ""
	}
	return err
}

// observeRotation asks the balancer how the target stands.
func (p *app) observeRotation(ctx context.Context, o *observer, v *view) {
	pool, err := o.lb.Observe(ctx)
	if o.gate != nil {
		// The balancer itself the coordinator sees.
		seen, failed := o.gate.Observe(ctx)
		p.saw(o, seen, failed)
	} else {
		p.saw(o, pool, err)
	}
	if err != nil {
		if v.Detail == "" {
			v.Detail = err.Error()
		}
		return
	}
	m, _ := activate.Member(pool, o.server)
	v.Rotation = rotation(m)
	if v.Rotation != api.RotationIn && v.Detail == "" {
		v.Detail = "the balancer shows it as " + string(m.Phase)
		if m.Detail != "" {
			v.Detail += " (" + m.Detail + ")"
		}
	}
}

// rotation is what a member's phase means for its getting new work.
func rotation(m lbclient.Member) api.Rotation {
	switch m.Phase {
	case lbclient.PhaseServing:
		return api.RotationIn
	case lbclient.PhaseDraining:
		if m.InFlight == 0 {
			return api.RotationOut
		}
		return api.RotationDraining
	case lbclient.PhaseAbsent, lbclient.PhaseForeignOut, lbclient.PhaseUnhealthy, lbclient.PhasePending:
		return api.RotationOut
	}
	return api.RotationUnknown
}
