package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// epoch is when every world begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Violation is a promise that was broken.
type Violation struct {
	Check string // short and stable; see the package comment
	At    time.Duration
	Text  string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s, at %s: %s", v.Check, v.At, v.Text)
}

// Stats counts what happened in a run.
type Stats struct {
	Steps    int
	Turns    int
	Rollouts int
	Statuses map[rollout.Status]int
}

type world struct {
	plan  Plan
	rng   *rand.Rand
	now   time.Duration
	queue queue
	seq   int
	calm  bool // faults are over

	nodes   []*node
	commits [][]*commit // of each app, in the order of making
	head    []*commit
	pushed  []*commit // that the coordinator has not decided on yet, one an app
	co      *coordinator
	awayTil time.Duration // the balancers do not answer
	bad     *Violation
	trace   func(string)
}

// commit is one commit of an app, and the release that is built from it.
type commit struct {
	id     rollout.ReleaseID
	sha    string
	parent *commit
	bad    badness
	on     uint
	vary   bool
	builds int
	// command: it has a release command.
	command bool
	hooks   hooks
}

// takes is how long its release command may take.
func (c *commit) takes() time.Duration {
	if c.command {
		return time.Minute
	}
	return 0
}

// build makes the digest of a build of the commit.
func (c *commit) build() string {
	if c.vary {
		c.builds++
	}
	return fmt.Sprintf("sha256:%s-%d", c.id, c.builds)
}

// contains tells whether other is c or an ancestor of it.
func (c *commit) contains(other *commit) bool {
	for ; c != nil; c = c.parent {
		if c == other {
			return true
		}
	}
	return false
}

// Run plays the plan. trace, if not nil, gets a line for all that happens.
// The error is a [*Violation], or nil.
func Run(p Plan, trace func(string)) (stats Stats, err error) {
	w := &world{plan: p, rng: rand.New(rand.NewPCG(p.Seed, 0x5eed)), trace: trace}
	defer func() {
		if x := recover(); x != nil {
			if trace != nil {
				panic(x)
			}
			err = &Violation{Check: "panic", At: w.now, Text: fmt.Sprint(x)}
		}
	}()
	w.head, w.pushed, w.commits = make([]*commit, p.Apps), make([]*commit, p.Apps), make([][]*commit, p.Apps)
	for i := range p.Nodes {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	w.co = newCoordinator(w)
	w.co.start()
	for _, n := range w.nodes {
		n.agent.start()
	}
	for _, op := range p.Ops {
		w.at(op.At, func() { w.apply(op) })
	}
	w.run(p.Faulty)
	w.finish()
	stats = w.co.stats()
	if w.bad != nil {
		return stats, w.bad
	}
	return stats, nil
}

func (w *world) fail(check, format string, a ...any) {
	if w.bad == nil {
		w.bad = &Violation{Check: check, At: w.now, Text: fmt.Sprintf(format, a...)}
		w.log("VIOLATION %s", w.bad.Error())
	}
}

func (w *world) log(format string, a ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf("%10s  ", w.now.Truncate(time.Millisecond)) + fmt.Sprintf(format, a...))
	}
}

// time is the present instant.
func (w *world) time() time.Time { return epoch.Add(w.now) }

// event is something that is to happen.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || (q[i].at == q[j].at && q[i].seq < q[j].seq)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *world) at(t time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{at: max(t, w.now), seq: w.seq, do: do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// run plays until the instant, or until a promise is broken.
func (w *world) run(until time.Duration) {
	for w.bad == nil && len(w.queue) > 0 && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	if w.bad == nil {
		w.now = until
	}
}

// chance is true n times of 1000, while faults last.
func (w *world) chance(n int) bool { return n > 0 && w.rng.IntN(1000) < n && !w.calm }

// between draws a duration.
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// send carries a message between a node and the coordinator, or loses it. The
// connection is between the present lives of both machines: no later one gets it.
func (w *world) send(n *node, deliver func()) {
	if n.cut() || !w.co.up || w.chance(w.plan.Loss) {
		return
	}
	life, boots, copies := w.co.life, n.boots, 1
	if w.chance(w.plan.Repeat) {
		copies = 2
	}
	for range copies {
		d := w.between(5*time.Millisecond, 150*time.Millisecond)
		if w.chance(w.plan.Late) {
			d = w.between(time.Second, 40*time.Second)
		}
		w.after(d, func() {
			if !n.cut() && w.co.up && w.co.life == life && n.boots == boots {
				deliver()
			}
		})
	}
}

// newCommit makes a commit of the app.
func (w *world) newCommit(app int, parent *commit, bad badness, on uint) *commit {
	n := len(w.commits[app]) + 1
	c := &commit{
		id: rollout.ReleaseID(fmt.Sprintf("%s-r%d", appName(app), n)), sha: fmt.Sprintf("%07d%033d", n, app),
		parent: parent, bad: bad, on: on,
	}
	w.commits[app] = append(w.commits[app], c)
	return c
}

func (w *world) commit(app int, id rollout.ReleaseID) *commit {
	for _, c := range w.commits[app] {
		if c.id == id {
			return c
		}
	}
	return nil
}
