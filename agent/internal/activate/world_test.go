package activate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

const (
	goal, fallback = "new-1", "old-1"
	unitName       = "app.service"
	server         = "web1"
	passes         = 2
)

// app is how a release behaves once it is started.
type app struct {
	NoStart bool          // the unit does not come up
	Sick    bool          // never passes a health check
	Boot    time.Duration // until it answers
	DiesIn  time.Duration // crashes and is started again, for ever
	Strays  bool          // runs from somewhere else
	Version string        // that it answers with
	Stuck   bool          // is told to reload, and does not
	NoLoad  bool          // its reload fails
}

// scenario is a made world and what happens in it.
type scenario struct {
	Apps       map[string]app
	Fallback   string
	First      bool // nothing runs, and the balancer finds the member down
	Soak       time.Duration
	MinHealthy int
	Others     int // other healthy members

	DrainTakes  time.Duration
	DrainHangs  bool
	OnTimeout   string
	Refuses     bool   // foreign maintenance: no snapshot
	RejoinStuck bool   // the balancer never calls the goal healthy
	Flaky       int    // every n-th call to the balancer fails in passing
	ForgetAt    int    // the balancer is reloaded at its n-th look, and forgets
	ForgetOn    string // or as the release is switched ("switch"), or while it boots ("boot")
	SwitchFails bool
	Missing     bool // the goal is not prepared
	Forbidden   bool
	DiskFull    int // the n-th write to the journal fails

	RevokeAt time.Duration // 0: never

	Hooks     bool     // both releases have all of them that How allows
	HookFails api.Step // of the goal, or, with HookUndo, of the fallback
	HookUndo  bool
	HookTakes time.Duration

	// Each release answers health checks at its own path alone, and the balancer asks
	// at the one that it was told last.
	Paths bool

	// The balancer can end work by force, which works at the n-th time; 0: it cannot.
	ForceAt  int
	How      string       // of Spec.Restart
	NoReload bool         // the unit has no ExecReload
	Where    *api.Version // of Spec.Health.Version

	// From its first change on the balancer refuses changes for so long, with this
	// class, asking to be left alone for After.
	BusyFor time.Duration
	Busy    lbclient.Class
	After   time.Duration
}

// crash is what the process dies of in the middle of an operation.
type crash struct{}

// world outlives the processes that work on it: disk, unit, balancer.
type world struct {
	s scenario

	// disk
	doc     []byte
	decoded *journal.Doc // of doc; nobody changes it
	current string
	held    *journal.Held
	results []api.Outcome

	// unit
	running    string
	main       string // what the main process runs from, "" for the same
	invocation int
	started    time.Time
	active     bool
	nrestarts  int

	// balancer
	drained bool
	loose   time.Time // when it forgot
	asked   time.Time // when drained
	epoch   int
	forced  int
	busy    time.Time // when a change was first asked for
	asksAt  string    // the path, with Paths
	asks    int       // changes asked for
	looks   int
	calls   int

	passed   int  // health passes since the last start
	touched  bool // restarted since the last drain began
	restarts int
	reloads  int

	hooks   []string // that were run, in order
	writes  int
	ops     int
	trace   []string // what each operation was, and in which journaled step
	step    string
	boots   int
	falls   bool         // the machine goes down with the process
	dieAt   map[int]bool // operations in which the process dies
	dieLate bool         // after the effect instead of before
	broken  []string     // promises seen broken
}

func newWorld(s scenario) *world {
	w := &world{s: s, active: !s.First, dieAt: map[int]bool{}}
	if !s.First {
		w.running, w.current, w.invocation = fallback, fallback, 1
		w.started = time.Now().Add(-time.Hour)
		w.asksAt = pathOf(fallback)
	}
	return w
}

func (w *world) violate(format string, a ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, a...))
}

// op is one operation at the edge of the process; effect changes the world.
func (w *world) op(name string, effect func()) {
	w.ops++
	w.trace = append(w.trace, name+" in "+w.step)
	die := w.dieAt[w.ops]
	if die && !w.dieLate {
		panic(crash{})
	}
	effect()
	if die {
		panic(crash{})
	}
}

func (w *world) release() app { return w.s.Apps[w.running] }

// live brings the unit up to now: what dies is started again by systemd.
func (w *world) live() {
	d := w.release().DiesIn
	for w.active && d > 0 && time.Since(w.started) > d {
		w.started = w.started.Add(d)
		w.invocation++
		w.nrestarts++
		w.passed = 0
		if w.current != w.running {
			w.running = w.current
			d = w.release().DiesIn
		}
	}
}

// boot starts the machine again, which starts the unit.
func (w *world) boot() {
	w.boots++
	w.live()
	w.touched = w.touched || w.drained && w.running != w.current
	w.running, w.main, w.active, w.started = w.current, "", w.current != "" && !w.s.Apps[w.current].NoStart, time.Now()
	w.invocation++
	w.nrestarts, w.passed = 0, 0
}

func (w *world) healthy() bool {
	w.live()
	return w.active && !w.release().Sick && time.Since(w.started) >= w.release().Boot
}

// serving is the balancer's own view.
func (w *world) serving() bool {
	return !w.drained && w.healthy() && !(w.s.RejoinStuck && w.running == goal) && (!w.s.Paths || w.asksAt == pathOf(w.running))
}

func pathOf(release string) string { return "/health/of/" + release }

// Units.

func (w *world) status() unit.Status {
	w.live()
	st := unit.Status{ActiveState: "inactive", InvocationID: fmt.Sprint(w.invocation), NRestarts: w.nrestarts}
	if w.active {
		st.ActiveState = "active"
	}
	return st
}

// Releases.

type releases struct{ *world }

func (r releases) Present() (ids []string, err error) {
	r.op("releases.Present", func() {
		if !r.s.Missing {
			ids = append(ids, goal)
		}
		if r.s.Fallback != "" {
			ids = append(ids, fallback)
		}
	})
	return ids, nil
}

func (r releases) Current() (id string, err error) {
	r.op("releases.Current", func() { id = r.current })
	return id, nil
}

func (r releases) Switch(id string) (err error) {
	r.op("releases.Switch", func() {
		if r.s.SwitchFails && id == goal {
			err = errors.New("read-only file system")
			return
		}
		r.current = id
		r.forget("switch")
	})
	return err
}

func (r releases) Of(path string) (string, bool) {
	id, ok := "", false
	if _, err := fmt.Sscanf(path, "/rel/%s", &id); err == nil {
		ok = true
	}
	return id, ok
}

// Balancer.

var _ lbclient.Provider = balancer{}

// forget reloads the balancer once, on the given occasion.
func (w *world) forget(occasion string) {
	if w.s.ForgetOn == occasion {
		w.s.ForgetOn = ""
		w.drained = false
		w.epoch++
		w.loose = time.Now()
	}
}

// Health.

func (w *world) probe(_ context.Context, c health.Check) (out health.Probe) {
	w.op("probe", func() {
		if time.Since(w.started) > time.Second && w.touched {
			w.forget("boot")
		}
		// Whoever takes over from a process that died looks anew.
		soon := 3*time.Second + time.Duration(len(w.dieAt))*time.Second
		if !w.drained && w.touched && !w.loose.IsZero() && strings.HasPrefix(w.step, string(api.StepVerify)) && time.Since(w.loose) > soon {
			w.violate("for %s the balancer may send work to what is not verified", time.Since(w.loose))
			w.loose = time.Time{}
		}
		out = health.Probe{OK: w.healthy(), Text: "200", Version: w.release().Version}
		switch {
		case !out.OK:
			out.Text, w.passed = "connection refused", 0
		case w.s.Paths && !strings.HasSuffix(c.HTTP, pathOf(w.running)):
			out.OK, out.Text, w.passed = false, c.HTTP+": 404", 0
		default:
			w.passed++
		}
	})
	return out
}

// Journal.

type disk struct{ *world }

// store puts a target's entry on the disk.
func (w *world) store(e *journal.Target) {
	b, err := journal.Encode(&journal.Doc{Version: journal.Version, App: "app", Targets: map[string]*journal.Target{server: e}})
	if err != nil {
		panic(err)
	}
	w.doc, w.decoded = b, nil
}

// journaled is the target's entry as it is on the disk.
func (w *world) journaled() *journal.Target {
	if w.decoded == nil {
		d, err := journal.Decode("app", w.doc)
		if err != nil {
			panic(err)
		}
		w.decoded = d
	}
	return w.decoded.Targets[server]
}

func (d disk) write(e *journal.Target) (err error) {
	d.op("disk.write", func() {
		d.writes++
		if d.s.DiskFull == d.writes {
			err = errors.New("no space left on device")
			return
		}
		d.store(e)
		if e.Turn != nil {
			d.step = fmt.Sprintf("%s (undo: %v)", e.Turn.Step, e.Turn.Undo != nil)
		}
	})
	return err
}

func (d disk) Save(t *journal.Turn) error {
	before := d.journaled()
	return d.write(&journal.Target{Turn: t, Outcome: before.Outcome, Held: before.Held})
}

func (d disk) Finish(o api.Outcome, held *journal.Held) error {
	before := d.doc
	// Counted by what reached the disk, also when the process dies of it.
	defer func() {
		if string(before) != string(d.doc) {
			d.results = append(d.results, o)
			d.held = held
		}
	}()
	return d.write(&journal.Target{Outcome: &o, Held: held})
}

// Processes.

func (w *world) deps(stop, work context.Context, revoked <-chan struct{}) activate.Deps {
	var lb lbclient.Provider = balancer{w}
	if w.s.ForceAt > 0 {
		lb = forcible{balancer{w}}
	}
	return activate.Deps{
		Units: units{w}, Releases: releases{w}, Balancer: lb, Probe: w.probe, Journal: disk{w},
		Allowed: func(string) error {
			if w.s.Forbidden {
				return fault.Errorf(api.ReasonUnitNotAllowed, "agent.yaml does not allow it")
			}
			return nil
		},
		Hook:    w.hook,
		Rejoins: func(h api.HealthCheck) { w.asksAt = strings.TrimPrefix(h.HTTP, "http://127.0.0.1") },
		Log:     slog.New(slog.DiscardHandler),
		Stop:    stop, Work: work, Revoked: revoked, Boot: fmt.Sprint("boot ", w.boots),
	}
}

// hook is the app's own command.
func (w *world) hook(ctx context.Context, h activate.Hook) (err error) {
	w.op("hook "+string(h.Step), func() {
		w.hooks = append(w.hooks, string(h.Step)+" of "+h.Release.ID)
		switch out := w.drained; {
		// A drain that was refused is undone like one that was not.
		case (h.Step == api.StepAfterDrain || h.Step == api.StepBeforeRejoin && (w.touched || !h.Undo)) && !out && w.epoch == 0:
			w.violate("%s is run in rotation", h.Step)
		case h.Step == api.StepWhileStopped && (w.status().ActiveState == "active" || w.current != h.Release.ID):
			w.violate("%s of %s is run with the unit %s and %s current", h.Step, h.Release.ID, w.status().ActiveState, w.current)
		case h.Step == api.StepAfterRejoin && out:
			w.violate("%s is run before the rejoin", h.Step)
		case h.Step == api.StepBeforeRejoin && w.touched && (w.running != h.Release.ID || w.passed < passes):
			w.violate("%s of %s is run before it was verified", h.Step, h.Release.ID)
		}
		select {
		case <-time.After(w.s.HookTakes):
		case <-ctx.Done():
			err = context.Cause(ctx)
			return
		}
		if h.Step == w.s.HookFails && h.Undo == w.s.HookUndo {
			err = fault.Errorf(api.ReasonHookFailed, "%s command \"false\" ended with exit status 1", h.Step)
		}
	})
	return err
}

func (w *world) newTurn(number uint64) journal.Turn {
	var recipes []api.Release
	for _, id := range []string{goal, fallback} {
		r := api.Release{ID: id}
		if w.s.Hooks {
			c := []string{"true"}
			r.Recipe.Hooks = &api.Hooks{BeforeDrain: c, AfterDrain: c, BeforeRejoin: c, AfterRejoin: c}
			if w.s.How == api.RestartStopStart {
				r.Recipe.Hooks.WhileStopped = c
			}
		}
		if w.s.Paths {
			r.Recipe.HealthPath = pathOf(id)
		}
		recipes = append(recipes, r)
	}
	return journal.Turn{
		Recipes: recipes,
		Number:  number, Release: goal, Fallback: w.s.Fallback, Server: server, Soak: api.Duration(w.s.Soak),
		Step: api.StepSnapshot, Since: time.Now(),
		Spec: api.Spec{
			Unit: unitName, RestartTimeout: api.Duration(20 * time.Second), Restart: w.s.How,
			Health: api.HealthCheck{
				HTTP: "http://127.0.0.1/", Interval: api.Duration(200 * time.Millisecond), Timeout: api.Duration(time.Second),
				Passes: passes, Failures: 2, Deadline: api.Duration(10 * time.Second), Version: w.s.Where,
			},
			Balancer: &api.Balancer{
				Name: "lb", Type: "world", MinHealthy: w.s.MinHealthy, OnDrainTimeout: w.s.OnTimeout,
				DrainTimeout: api.Duration(5 * time.Second), RejoinTimeout: api.Duration(10 * time.Second),
			},
		},
	}
}

// begin puts a new turn into the journal, as the reconcile loop does.
func (w *world) begin(number uint64) {
	t := w.newTurn(number)
	w.store(&journal.Target{Turn: &t, Held: w.held})
}

// process works on what the journal holds until it finishes, stops, or dies.
func (w *world) process(first bool, stop, work context.Context, revoked <-chan struct{}) (err error, died bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			died = true
			if w.falls {
				w.boot()
			}
		}
	}()
	w.decoded = nil // the last process has its pointers into it
	e := w.journaled()
	if e.Turn == nil {
		return nil, false
	}
	d := w.deps(stop, work, revoked)
	if first {
		return activate.Begin(d, *e.Turn, e.Held), false
	}
	return activate.Resume(d, *e.Turn, e.Held), false
}
