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
	lanes  []*lane
	told   [2]telling // what the last report said
	crashS step       // crash at this step, once
	crashL bool       // after the action
	crashF time.Duration
}

// journal is what the agent has written to disk.
type journal struct {
	instance int
	epoch    uint64
	apps     []*appJournal
}

// appJournal is the journal of one app.
type appJournal struct {
	have       bool // an assignment was accepted
	generation uint64
	want       rollout.Wanted
	failure    *rollout.PrepareReport // the attempt that failed last
	attempt    int                    // that was begun last
	shared     int                    // that was shared last
	work       *work
	outcome    *rollout.Outcome
}

// lane is the volatile side of one app.
type lane struct {
	preparing bool
	busy      bool
}

func newJournal(n *node) journal {
	n.w.seq++
	j := journal{instance: n.w.seq}
	for range n.w.plan.Apps {
		j.apps = append(j.apps, &appJournal{})
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
	a.lanes = make([]*lane, len(a.n.targets))
	for i := range a.lanes {
		a.lanes[i] = &lane{}
		if wk := a.journal.apps[i].work; wk != nil && (wk.step == stepRejoin || wk.step == undoRejoin) {
			// Whether it is healthy was found by an earlier life.
			wk.step = before(wk.step)
		}
	}
	a.n.w.log("%s: agent starts", a.n.name)
	a.report()
	a.look()
	a.heartbeat()
	for i := range a.lanes {
		a.advance(i)
	}
}

func (a *agent) crash() {
	if !a.up {
		return
	}
	a.up = false
	a.life++
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
	if a.telling() != a.told {
		a.report()
	}
}

// telling is what a report would say of one app.
type telling struct {
	generation, turn uint64
	attempt, changes int
	failed           int
	disk             int
	running          rollout.ReleaseID
	says             rollout.Rotation
	verdict          rollout.Health
}

// telling sums up what a report would say.
func (a *agent) telling() (all [2]telling) {
	for i, t := range a.n.targets {
		j := a.journal.apps[i]
		s := telling{generation: j.generation, attempt: j.attempt, disk: len(t.disk), changes: t.changes, running: t.running, says: t.says(), verdict: t.verdict()}
		if j.outcome != nil {
			s.turn = j.outcome.Turn
		}
		if j.failure != nil {
			s.failed = j.failure.Attempt
		}
		all[i] = s
	}
	return all
}

// message is one report on its way.
type message struct {
	instance   int
	epoch, seq uint64
	report     []rollout.PlacementReport
}

func (a *agent) report() {
	a.told = a.telling()
	a.seq++
	m := message{instance: a.journal.instance, epoch: a.journal.epoch, seq: a.seq}
	for i, t := range a.n.targets {
		j := a.journal.apps[i]
		if !j.have {
			continue
		}
		pr := rollout.PlacementReport{App: appName(i), Generation: j.generation, Present: slices.Clone(t.disk), Attempt: j.attempt, Digests: map[rollout.ReleaseID]string{}}
		for _, id := range t.disk {
			pr.Digests[id] = t.built[id]
		}
		if j.failure != nil {
			f := *j.failure
			pr.Prepare = &f
		}
		tr := rollout.TargetReport{Target: t.id, Release: t.running, Rotation: t.says(), Health: t.verdict()}
		if j.outcome != nil {
			o := *j.outcome
			tr.Outcome = &o
		}
		pr.Targets = append(pr.Targets, tr)
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

// prune drops releases that are no longer to be kept.
func (a *agent) prune(app int) {
	t, j := a.n.targets[app], a.journal.apps[app]
	t.disk = slices.DeleteFunc(slices.Clone(t.disk), func(id rollout.ReleaseID) bool {
		return !slices.Contains(j.want.Keep, id) && id != j.want.Prepare && id != t.link && id != t.running &&
			(j.work == nil || (id != j.work.release && id != j.work.fallback))
	})
}

// advance does the next things that the app's assignment and journal ask for.
func (a *agent) advance(app int) {
	j, l, t := a.journal.apps[app], a.lanes[app], a.n.targets[app]
	if !j.have {
		return
	}
	a.prepare(app)
	if j.work == nil {
		for _, g := range j.want.Targets {
			if g.Target == t.id && g.Turn != 0 && (j.outcome == nil || j.outcome.Turn != g.Turn) {
				j.work = &work{turn: g.Turn, release: g.Release, fallback: g.Fallback, soak: g.Soak, step: stepSnapshot}
				a.n.w.log("%s: turn %d begins: %s, fallback %q", t.id, g.Turn, g.Release, g.Fallback)
			}
		}
	} else if !j.work.undo && j.goal(t) != j.work.turn {
		a.n.w.log("%s: turn %d is revoked", t.id, j.work.turn)
		j.work.revoked = true
		a.undo(app, rollout.Revoked, "revoked", "the coordinator took the turn back")
	}
	if j.work != nil && !l.busy {
		a.step(app)
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

// prepare fetches and builds what is asked for, shares it, or takes what another
// node has built.
func (a *agent) prepare(app int) {
	j, l, t, w := a.journal.apps[app], a.lanes[app], a.n.targets[app], a.n.w
	want := j.want
	id, attempt := want.Prepare, want.Attempt
	there := t.has(id) && (want.Archive == "" || want.Archive == t.built[id])
	if id == "" || l.preparing || (there && (!want.Share || j.shared == attempt)) ||
		(j.failure != nil && j.failure.Release == id && j.failure.Attempt == attempt) {
		return
	}
	l.preparing, j.attempt = true, attempt
	a.after(w.between(time.Second, 12*time.Second), func() {
		l.preparing = false
		c := w.commit(app, id)
		fail := func(fault rollout.Fault, reason rollout.Reason, text string) {
			j.failure = &rollout.PrepareReport{Release: id, Attempt: attempt, Fault: fault, Reason: reason, Text: text}
		}
		reached := w.co.up && !a.n.cut()
		switch {
		case there && !t.has(id): // it was pruned meanwhile
		case there && !reached:
			fail(rollout.NodeFault, "share_failed", "the coordinator cannot be reached")
		case there:
			j.shared = attempt
			w.co.archived(app, t.built[id])
		case w.now < a.n.fullTil:
			fail(rollout.NodeFault, "disk_full", "no space left")
		case want.Archive != "" && (!reached || !slices.Contains(w.co.archives[app], want.Archive)):
			fail(rollout.NodeFault, "archive_failed", "the coordinator does not hand it out")
		case want.Archive != "" && t.has(id) && (t.link == id || t.running == id):
			fail(rollout.NodeFault, "build_skew", "it runs a build of its own")
		case want.Archive != "":
			t.put(id, want.Archive)
		case c.bad == noBuild && c.on&(1<<a.n.index) != 0:
			fail(rollout.ReleaseFault, "build_failed", "make: *** [all] Error 1")
		case !t.has(id):
			t.put(id, c.build())
		}
		a.advance(app)
		a.changed()
	})
}
