package sim

import (
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// agent keeps the rules of the agent protocol (see package api). What is in its
// journal survives a crash, all else does not.
type agent struct {
	n       *node
	up      bool
	life    int // counts starts and crashes; timers of an earlier life do nothing
	journal journal

	// Volatile.
	seq    uint64
	prep   []bool    // of each app: it is being prepared
	busy   []bool    // of each target: a step is under way
	told   []telling // what the last report said
	crashS step      // crash at this step, once
	crashL bool      // after the action
	crashF time.Duration
}

// journal is what the agent has written to disk.
type journal struct {
	instance int
	epoch    uint64
	apps     []*appJournal
	targets  []*targetJournal // as the node's
}

// appJournal is the journal of one app.
type appJournal struct {
	have       bool // an assignment was accepted
	generation uint64
	want       rollout.Wanted
	failure    *rollout.PrepareReport // the attempt that failed last
	attempt    int                    // that was begun last
	shared     int                    // that was shared last
	command    *rollout.CommandReport // that was claimed last
}

// targetJournal is the journal of one of its targets.
type targetJournal struct {
	work    *work
	outcome *rollout.Outcome
}

func newJournal(n *node) journal {
	n.w.seq++
	j := journal{instance: n.w.seq}
	for range n.w.plan.Apps {
		j.apps = append(j.apps, &appJournal{})
		for range n.w.plan.Instances {
			j.targets = append(j.targets, &targetJournal{})
		}
	}
	return j
}

func newAgent(n *node) *agent { return &agent{n: n, journal: newJournal(n)} }

func (a *agent) start() {
	if a.up || !a.n.powered {
		return
	}
	a.up = true
	a.life++
	a.journal.epoch++
	a.seq = 0
	a.prep, a.busy = make([]bool, len(a.journal.apps)), make([]bool, len(a.n.targets))
	a.told = make([]telling, len(a.n.targets))
	for _, j := range a.journal.targets {
		if wk := j.work; wk != nil && (wk.step == stepRejoin || wk.step == undoRejoin) {
			// Whether it is healthy was found by an earlier life.
			wk.step = before(wk.step)
		}
	}
	a.n.w.log("%s: agent starts", a.n.name)
	a.report()
	a.look()
	a.heartbeat()
	for i := range a.journal.apps {
		a.watchCommand(i)
		a.advance(i)
	}
}

func (a *agent) crash() {
	if !a.up {
		return
	}
	a.up = false
	a.life++
	if !a.n.w.plan.Attach {
		clear(a.n.procs) // a group of processes goes with the agent
		for _, t := range a.n.targets {
			t.hook = nil
		}
	}
	a.crashS = ""
	a.n.w.log("%s: agent dies", a.n.name)
}

// after does something later, unless the agent has died by then.
func (a *agent) after(d time.Duration, do func()) {
	life := a.life
	a.n.w.after(d, func() {
		if a.up && a.life == life {
			do()
		}
	})
}

// look is the agent's own watch over its targets.
func (a *agent) look() {
	a.changed()
	a.after(5*time.Second, a.look)
}

// heartbeat is the long poll that ends without news.
func (a *agent) heartbeat() {
	a.report()
	a.after(25*time.Second, a.heartbeat)
}

// changed reports if there is news.
func (a *agent) changed() {
	for i := range a.told {
		if a.telling(i) != a.told[i] {
			a.report()
			return
		}
	}
}

// telling is what a report would say of one target and its app.
type telling struct {
	generation, turn uint64
	attempt, changes int
	failed           int
	disk             int
	running, linked  rollout.ReleaseID
	says             rollout.Rotation
	verdict          rollout.Health
	last             bool
	command          rollout.CommandReport
}

// telling sums up what a report would say of a target of the node.
func (a *agent) telling(i int) telling {
	t := a.n.targets[i]
	j, d := a.journal.apps[t.app], a.n.disks[t.app]
	s := telling{
		generation: j.generation, attempt: j.attempt, disk: len(d.releases), changes: d.changes,
		running: t.release(), linked: a.linked(t), says: t.says(), verdict: t.verdict(), last: a.n.asksToBeLast(),
	}
	if o := a.journal.targets[i].outcome; o != nil {
		s.turn = o.Turn
	}
	if j.failure != nil {
		s.failed = j.failure.Attempt
	}
	if j.command != nil {
		s.command = *j.command
	}
	return s
}

// message is one report on its way.
type message struct {
	instance   int
	epoch, seq uint64
	report     []rollout.PlacementReport
}

func (a *agent) report() {
	for i := range a.told {
		a.told[i] = a.telling(i)
	}
	a.seq++
	m := message{instance: a.journal.instance, epoch: a.journal.epoch, seq: a.seq}
	for i, j := range a.journal.apps {
		if !j.have {
			continue
		}
		d := a.n.disks[i]
		pr := rollout.PlacementReport{App: appName(i), Generation: j.generation, Present: slices.Clone(d.releases), Attempt: j.attempt, Digests: map[rollout.ReleaseID]string{}}
		for _, id := range d.releases {
			pr.Digests[id] = d.built[id]
		}
		if j.failure != nil {
			f := *j.failure
			pr.Prepare = &f
		}
		if j.command != nil {
			f := *j.command
			pr.Command = &f
		}
		for _, t := range a.of(i) {
			tr := rollout.TargetReport{Target: t.id, Release: t.release(), Linked: a.linked(t), Rotation: t.says(), Health: t.verdict(), Last: a.n.asksToBeLast()}
			if o := a.journal.targets[t.k].outcome; o != nil {
				o := *o
				tr.Outcome = &o
			}
			pr.Targets = append(pr.Targets, tr)
		}
		m.report = append(m.report, pr)
	}
	w := a.n.w
	w.send(a.n, func() { w.co.receive(a.n, m) })
}

// assigned is called with an assignment that arrives.
func (a *agent) assigned(app int, generation uint64, want rollout.Wanted) {
	j := a.journal.apps[app]
	if !a.up || (j.have && generation <= j.generation) {
		return
	}
	j.have, j.generation, j.want = true, generation, want
	a.advance(app)
	a.prune(app)
	a.changed()
}

// of are the app's targets on this node.
func (a *agent) of(app int) []*target {
	n := a.n.w.plan.Instances
	return a.n.targets[app*n : (app+1)*n]
}

// prune drops releases that are no longer to be kept, never one that a target uses.
func (a *agent) prune(app int) {
	j, d := a.journal.apps[app], a.n.disks[app]
	d.releases = slices.DeleteFunc(slices.Clone(d.releases), func(id rollout.ReleaseID) bool {
		return !slices.Contains(j.want.Keep, id) && id != j.want.Prepare && !slices.ContainsFunc(a.of(app), func(t *target) bool {
			wk := a.journal.targets[t.k].work
			return id == t.link || id == t.running || (wk != nil && (id == wk.release || id == wk.fallback))
		})
	})
}

// advance does the next things that the app's assignment and journal ask for.
func (a *agent) advance(app int) {
	if !a.journal.apps[app].have {
		return
	}
	a.prepare(app)
	a.command(app)
	for _, t := range a.of(app) {
		if a.up {
			a.advanceTarget(t)
		}
	}
}

// advanceTarget begins, revokes, or goes on with the target's turn.
func (a *agent) advanceTarget(t *target) {
	app, j := a.journal.apps[t.app], a.journal.targets[t.k]
	if j.work == nil {
		for _, g := range app.want.Targets {
			if g.Target == t.id && g.Turn != 0 && (j.outcome == nil || j.outcome.Turn != g.Turn) {
				j.work = &work{turn: g.Turn, release: g.Release, fallback: g.Fallback, soak: g.Soak, step: stepSnapshot}
				a.n.w.log("%s: turn %d begins: %s, fallback %q", t.id, g.Turn, g.Release, g.Fallback)
			}
		}
	} else if !j.work.undo && app.goal(t) != j.work.turn {
		a.n.w.log("%s: turn %d is revoked", t.id, j.work.turn)
		j.work.revoked = true
		a.undo(t, rollout.Revoked, "revoked", "the coordinator took the turn back")
	}
	if j.work != nil && !a.busy[t.k] {
		a.step(t)
	}
}

// goal is the turn that the assignment gives the target.
func (j *appJournal) goal(t *target) uint64 {
	for _, g := range j.want.Targets {
		if g.Target == t.id {
			return g.Turn
		}
	}
	return 0
}

// left is the release that the assignment leaves the target on.
func (j *appJournal) left(t *target) rollout.ReleaseID {
	for _, g := range j.want.Targets {
		if g.Target == t.id {
			return g.Release
		}
	}
	return ""
}

// prepare fetches and builds what is asked for, shares it, or takes what another
// node has built.
func (a *agent) prepare(app int) {
	j, d, w := a.journal.apps[app], a.n.disks[app], a.n.w
	want := j.want
	id, attempt := want.Prepare, want.Attempt
	there := d.has(id) && (want.Archive == "" || want.Archive == d.built[id])
	if id == "" || a.prep[app] || (there && (!want.Share || j.shared == attempt)) ||
		(j.failure != nil && j.failure.Release == id && j.failure.Attempt == attempt) {
		return
	}
	a.prep[app], j.attempt = true, attempt
	a.after(w.between(time.Second, 12*time.Second), func() {
		a.prep[app] = false
		c := w.commit(app, id)
		fail := func(fault rollout.Fault, reason rollout.Reason, text string) {
			j.failure = &rollout.PrepareReport{Release: id, Attempt: attempt, Fault: fault, Reason: reason, Text: text}
		}
		reached := w.co.up && !a.n.cut()
		switch {
		case there && !d.has(id): // it was pruned meanwhile
		case there && !reached:
			fail(rollout.NodeFault, "share_failed", "the coordinator cannot be reached")
		case there:
			j.shared = attempt
			w.co.archived(app, d.built[id])
		case w.now < a.n.fullTil:
			fail(rollout.NodeFault, "disk_full", "no space left")
		case want.Archive != "" && (!reached || !slices.Contains(w.co.archives[app], want.Archive)):
			fail(rollout.NodeFault, "archive_failed", "the coordinator does not hand it out")
		case want.Archive != "" && d.has(id) && slices.ContainsFunc(a.of(app), func(t *target) bool { return t.link == id || t.running == id }):
			fail(rollout.NodeFault, "build_skew", "it runs a build of its own")
		case want.Archive != "":
			d.put(id, want.Archive)
		case c.bad == noBuild && c.on&(1<<a.n.index) != 0:
			fail(rollout.ReleaseFault, "build_failed", "make: *** [all] Error 1")
		case !d.has(id):
			d.put(id, c.build())
		}
		a.advance(app)
		a.changed()
	})
}
