package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/config"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/release"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// app is one app on this node.
type app struct {
	a     *Agent
	name  string
	log   *slog.Logger
	file  *journal.File
	store *release.Store

	toPrepare, toCommand, toActivate, toAsk chan struct{} // there may be something new

	mu        sync.Mutex
	views     map[string]view     // by target: as last observed
	turns     map[string]*current // by target: in progress
	preparing *attempt            // in progress
	commanded *commanded          // in progress
	observers map[string]*observer
	edited    map[string]string // a file that was changed, by release
	compared  time.Time         // when the releases were looked at for that
	last      lastAnswer
	left      []api.LeftTarget
	unit      *api.UnitReport
}

// current is the turn in progress.
type current struct {
	target   string
	number   uint64
	progress activate.Progress
	told     time.Time // when progress was last news
	revoked  chan struct{}
	closed   bool
}

// openApp reads an app's journal and opens its releases.
func (a *Agent) openApp(name string) (*app, error) {
	// The name becomes a part of paths.
	if !config.IsName(name) {
		return nil, fmt.Errorf("cannot work on app %q: expected lower case letters, digits, and dashes", name)
	}
	file, err := journal.Open(a.journals(), name)
	if err != nil {
		return nil, err
	}
	resuming := ""
	if t := file.Read().Prepare; t != nil && !t.Done {
		resuming = t.Release
	}
	store, err := release.Open(filepath.Join(a.cfg.Apps, name), resuming)
	if err != nil {
		return nil, err
	}
	return &app{
		a: a, name: name, log: a.deps.Log.With("app", name), file: file, store: store,
		toPrepare: make(chan struct{}, 1), toCommand: make(chan struct{}, 1), toActivate: make(chan struct{}, 1), toAsk: make(chan struct{}, 1),
		views: map[string]view{}, turns: map[string]*current{}, observers: map[string]*observer{},
	}, nil
}

func (p *app) start() {
	p.a.running.Go(p.prepareLoop)
	p.a.running.Go(p.commandLoop)
	p.a.running.Go(p.activateLoop)
	p.a.running.Go(p.lastLoop)
}

// accept journals an assignment, unless it is an old one, and sets to work; it
// tells whether it was new.
func (p *app) accept(as api.Assignment) (bool, error) {
	d := p.file.Read()
	switch {
	case as.Generation < d.Generation:
		p.log.Debug("ignored an old assignment", "generation", as.Generation, "held", d.Generation)
		return false, nil
	case as.Generation == d.Generation && d.Assignment != nil && !d.Absent:
		return false, nil
	}
	err := p.file.Update(func(d *journal.Doc) error {
		d.Generation, d.Assignment, d.Absent = as.Generation, &as, false
		return nil
	})
	if err != nil {
		return false, err
	}
	p.log.Info("assignment accepted", "generation", as.Generation)
	p.changed()
	return true, nil
}

// absent notes that the coordinator does not name the app to this node any
// more: it is left as it is, once a turn in progress is undone.
func (p *app) absent() error {
	if p.file.Read().Absent {
		return nil
	}
	err := p.file.Update(func(d *journal.Doc) error {
		d.Absent = true
		return nil
	})
	if err != nil {
		return err
	}
	p.log.Info("the coordinator no longer names this app; it is left running", "unit", stays(p.file.Read()))
	p.changed()
	return nil
}

// changed tells everybody that the journal has another assignment.
func (p *app) changed() {
	p.mu.Lock()
	p.checkRevoked()
	p.checkPreparing()
	p.checkCommand()
	p.mu.Unlock()
	wake(p.toPrepare)
	wake(p.toCommand)
	wake(p.toActivate)
	wake(p.toAsk)
	p.a.notify()
}

// checkRevoked ends the turns in progress that the assignment does not carry.
// The caller holds p.mu.
func (p *app) checkRevoked() {
	d := p.file.Read()
	for _, t := range p.turns {
		if g, ok := goalOf(d, t.target); !t.closed && (!ok || g.Turn != t.number) {
			t.closed = true
			close(t.revoked)
		}
	}
}

// goals are the targets that the app should have on this node.
func goals(d *journal.Doc) []api.Goal {
	if d.Absent || d.Assignment == nil {
		return nil
	}
	return d.Assignment.Targets
}

func goalOf(d *journal.Doc, target string) (api.Goal, bool) {
	gs := goals(d)
	if i := slices.IndexFunc(gs, func(g api.Goal) bool { return g.Target == target }); i >= 0 {
		return gs[i], true
	}
	return api.Goal{}, false
}

// server is the target's name in its balancer.
func (p *app) server(g api.Goal) string {
	if g.Server != "" {
		return g.Server
	}
	return p.a.cfg.Name
}

// report tells how the app stands; false when the coordinator has no part in it.
func (p *app) report() (api.AppReport, bool) {
	d := p.file.Read()
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.Absent && len(p.turns) == 0 || d.Assignment == nil {
		return api.AppReport{}, false
	}
	r := api.AppReport{App: p.name, Generation: d.Generation, Present: []string{}, Targets: []api.TargetReport{}}
	if present, err := p.store.Present(); err != nil {
		p.log.Error("cannot tell which releases are present", "error", err)
	} else if len(present) > 0 {
		r.Present, r.Digests = present, p.digests(present)
		r.Edited = maps.Clone(p.edited)
	}
	if lastIf(d) != "" && !p.last.given {
		// Until it is known who is to be last, none may go.
		r.Present = slices.DeleteFunc(r.Present, func(id string) bool { return id == d.Assignment.Prepare.Release })
	}
	r.Left, r.Unit = p.left, p.unit
	r.Prepare = p.prepareReport(d)
	r.Command = commandReport(d)
	r.Balancer = p.balancerReport(d.Assignment.Targets)
	for _, g := range d.Assignment.Targets {
		r.Targets = append(r.Targets, p.targetReport(d, g.Target))
	}
	// One whose turn is being undone may be named no longer.
	for _, target := range slices.Sorted(maps.Keys(p.turns)) {
		if !slices.ContainsFunc(r.Targets, func(t api.TargetReport) bool { return t.Target == target }) {
			r.Targets = append(r.Targets, p.targetReport(d, target))
		}
	}
	return r, true
}

func (p *app) prepareReport(d *journal.Doc) *api.PrepareReport {
	if t := p.preparing; t != nil {
		return &api.PrepareReport{Release: t.release, Attempt: t.number, Step: t.step}
	}
	t := d.Prepare
	if t == nil {
		return nil
	}
	return &api.PrepareReport{Release: t.Release, Attempt: t.Number, Failed: t.Failed(), Reason: t.Reason, Text: t.Text}
}

func (p *app) targetReport(d *journal.Doc, target string) api.TargetReport {
	v := p.views[target]
	r := api.TargetReport{Target: target, Release: v.Release, Rotation: v.Rotation, Health: v.Health, Last: p.last.yes, Detail: v.Detail, Current: v.Current}
	if p.last.text != "" {
		r.Detail = strings.TrimPrefix(r.Detail+"; "+p.last.text, "; ")
	}
	if r.Rotation == "" {
		r.Rotation, r.Health = api.RotationUnknown, api.HealthUnknown
	}
	if e := d.Targets[target]; e != nil {
		r.Outcome = e.Outcome
		if t := p.turns[target]; t != nil {
			pr := t.progress
			if e.Turn != nil {
				since := pr.Since.Truncate(time.Millisecond)
				r.Turn, r.Step, r.Since, r.Detail = t.number, pr.Step, &since, pr.Detail
			}
			// Also of one that has just ended, for its outcome is told already.
			if pr.Rotation != "" {
				r.Rotation = pr.Rotation
			}
			if pr.Health != "" {
				r.Health = pr.Health
			}
			if pr.Touched {
				r.Release = pr.Proved
			}
			r.Current = ""
		}
	}
	return r
}
