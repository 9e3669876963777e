package agent

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// detailInterval is how often a report is sent only for a turn's detail.
const detailInterval = time.Second

// activateLoop begins the app's turns, each in a goroutine of its own: the
// coordinator decides how many targets are out at a time. Those without a turn it
// observes meanwhile, and without any turn it prunes.
func (p *app) activateLoop() {
	for p.a.stop.Err() == nil {
		if err := p.beginTurns(); err != nil {
			p.log.Error("cannot begin a turn; trying again", "error", err)
			rest(p.a.stop, time.Second)
			continue
		}
		p.prune()
		p.lookForEdits()
		wait := p.observe()
		timer := time.NewTimer(wait)
		select {
		case <-p.toActivate:
		case <-timer.C:
		case <-p.a.stop.Done():
		}
		timer.Stop()
	}
}

// beginTurns goes on with the turns in the journal, and begins those that the
// assignment gives leave for, where none is in progress.
func (p *app) beginTurns() error {
	// Asked first: one that ends meanwhile may still stand in what is read, and is
	// not to be worked on again.
	working := p.working()
	d := p.file.Read()
	for _, target := range slices.Sorted(maps.Keys(d.Targets)) {
		if e := d.Targets[target]; e.Turn != nil && !working[target] {
			p.begin(target, *e.Turn, e.Held, activate.Resume)
		}
	}
	for _, g := range goals(d) {
		e := d.Targets[g.Target]
		if e == nil {
			e = &journal.Target{}
		}
		if g.Turn == 0 || e.Turn != nil || working[g.Target] || e.Outcome != nil && g.Turn <= e.Outcome.Turn {
			continue
		}
		t := journal.Turn{
			Number: g.Turn, Instance: g.Instance, Release: g.Release, Fallback: g.Fallback, Server: p.server(g), Soak: g.Soak,
			Rollout: d.Assignment.Rollout, Spec: d.Assignment.Spec.Of(g), Step: api.StepSnapshot, Since: time.Now(),
			Recipes: withRecipes(d.Assignment.Releases, g.Release, g.Fallback),
		}
		err := p.file.Update(func(d *journal.Doc) error {
			if d.Targets == nil {
				d.Targets = map[string]*journal.Target{}
			}
			d.Targets[g.Target] = &journal.Target{Turn: &t, Outcome: e.Outcome, Held: e.Held}
			return nil
		})
		if err != nil {
			return err
		}
		p.begin(g.Target, t, e.Held, activate.Begin)
	}
	return nil
}

// working returns the targets of which a turn is in progress.
func (p *app) working() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	targets := map[string]bool{}
	for target := range p.turns {
		targets[target] = true
	}
	return targets
}

// begin works on a turn in a goroutine until it is over or the agent stops. Only
// activateLoop calls it, so that no target is observed while it has a turn.
func (p *app) begin(target string, t journal.Turn, held *journal.Held, how func(activate.Deps, journal.Turn, *journal.Held) error) {
	cur := &current{target: target, number: t.Number, revoked: make(chan struct{})}
	cur.progress = activate.Progress{Step: t.Step, Since: t.Since, Touched: t.Restarted}
	p.mu.Lock()
	p.turns[target] = cur
	// It may have been taken back before it was begun.
	p.checkRevoked()
	p.mu.Unlock()
	p.a.notify()
	p.a.running.Go(func() {
		err := p.work(cur, t, held, how)
		if errors.Is(err, activate.ErrStopped) {
			return
		}
		if err != nil {
			p.log.Error("cannot work on a turn; trying again", "target", target, "error", err)
			rest(p.a.stop, time.Second)
		}
		p.settle(cur, err == nil)
		wake(p.toActivate)
	})
}

// boot names the boot of the machine that is, "" where the kernel does not tell.
func boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// work carries a turn to its end, or to where the agent stops.
func (p *app) work(cur *current, t journal.Turn, held *journal.Held, how func(activate.Deps, journal.Turn, *journal.Held) error) error {
	target := cur.target
	log := p.log.With("target", target, "turn", t.Number, "release", t.Release)
	log.Info("turn begun or resumed", "step", t.Step, "undo", t.Undo != nil)
	check := p.checkInTurn(target, t)
	lb, _ := p.providers(t.Spec, target, t.Server, func() api.HealthCheck { return check })
	defer func() {
		if err := lb.Close(); err != nil {
			log.Warn("cannot close the connection to the balancer", "error", err)
		}
	}()
	var install activate.Installer
	if t.Spec.Generated {
		install = installer{p, t.Spec}
	}
	return how(activate.Deps{
		Units: p.a.deps.Units, Releases: p.store.Instance(t.Instance), Balancer: lb,
		Probe:   func(ctx context.Context, c health.Check) health.Probe { return c.Probe(ctx) },
		Rejoins: func(h api.HealthCheck) { check = h },
		Journal: turnJournal{p, target}, Allowed: p.allowed, Installer: install, Log: log,
		Progress: func(pr activate.Progress) {
			p.mu.Lock()
			defer p.mu.Unlock()
			before := cur.progress
			cur.progress = pr
			before.Detail = pr.Detail
			// A detail alone, such as how many requests are in flight, changes
			// with every look, and is not worth a report each time.
			if before != pr || time.Since(cur.told) > detailInterval {
				cur.told = time.Now()
				p.a.notify()
			}
		},
		Hook: func(ctx context.Context, h activate.Hook) error { return p.hook(ctx, target, h) },
		Stop: p.a.stop, Work: p.a.work, Revoked: cur.revoked, Boot: boot(),
	}, t, held)
}

// checkInTurn is how the release is checked that the target runs where a turn
// begins or is gone on with.
func (p *app) checkInTurn(target string, t journal.Turn) api.HealthCheck {
	p.mu.Lock()
	runs := p.views[target].Release
	p.mu.Unlock()
	switch {
	case t.Undo == nil && (t.Step == api.StepAfterRejoin || t.Step == api.StepSoak):
		runs = t.Release
	case runs == "":
		runs = t.Fallback
	}
	return t.Spec.Health.Of(recipeOf(runs, t.Recipes, p.file.Read()))
}

// settle ends the turn, and makes what it saw last, if it is over, the observed
// state until the next look.
func (p *app) settle(cur *current, over bool) {
	target := cur.target
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.turns, target)
	if !over {
		return
	}
	v := p.views[target]
	pr := cur.progress
	if pr.Touched {
		v.Release = pr.Proved
	}
	if pr.Rotation != "" {
		v.Rotation = pr.Rotation
	}
	if pr.Health != "" {
		v.Health = pr.Health
	}
	v.Detail, v.Current = "", ""
	p.views[target] = v
	if o := p.observers[target]; o != nil {
		o.seed(pr.Health)
	}
	p.a.notify()
}

// turnJournal is the journal of one target's turn.
type turnJournal struct {
	p      *app
	target string
}

func (j turnJournal) Save(t *journal.Turn) error {
	return j.p.file.Update(func(d *journal.Doc) error {
		turn := *t
		d.Targets[j.target].Turn = &turn
		return nil
	})
}

func (j turnJournal) Finish(o api.Outcome, held *journal.Held) error {
	return j.p.file.Update(func(d *journal.Doc) error {
		d.Targets[j.target] = &journal.Target{Outcome: &o, Held: held}
		return nil
	})
}

// kept are the releases that must not be removed; false while what runs is not
// known, which it is only after a look.
func (p *app) kept() (keep []string, ok bool) {
	d := p.file.Read()
	if d.Absent || d.Assignment == nil {
		return nil, false
	}
	as := d.Assignment
	keep = slices.Clone(as.Keep)
	if as.Prepare != nil {
		keep = append(keep, as.Prepare.Release)
	}
	for _, g := range as.Targets {
		keep = append(keep, g.Release, g.Fallback)
	}
	for _, e := range d.Targets {
		if e.Turn != nil {
			keep = append(keep, e.Turn.Release, e.Turn.Fallback)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.views {
		keep = append(keep, v.Release)
	}
	keep = slices.DeleteFunc(keep, func(id string) bool { return id == "" })
	return keep, len(p.views) >= len(as.Targets)
}

// prune removes releases that nobody asks to keep, in the activating goroutine,
// so that no turn is on its way to one of them.
func (p *app) prune() {
	keep, ok := p.kept()
	p.mu.Lock()
	busy := p.preparing != nil || len(p.turns) > 0
	p.mu.Unlock()
	// A turn is on its way to a release, and a disk at work is left alone.
	if !ok || busy {
		return
	}
	d := p.file.Read()
	if d.Assignment == nil {
		return
	}
	gone, err := p.store.Prune(keep, d.Assignment.KeepReleases)
	if err != nil {
		p.log.Warn("cannot remove old releases", "error", err)
	}
	if len(gone) > 0 {
		p.log.Info("removed old releases", "releases", gone)
		p.a.notify()
	}
}

// look is a bounded context for one look at the world.
func (p *app) look() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.a.stop, 5*time.Second)
}
