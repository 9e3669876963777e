package sim

import (
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// node is one machine: its agent, and an instance of each app.
type node struct {
	w       *world
	index   int
	name    string
	powered bool
	boots   int
	cutTil  time.Duration
	fullTil time.Duration // the disk
	wiped   time.Duration // when its disk was last replaced, 0: never
	agent   *agent
	targets []*target
}

// target is one instance of an app, and how it stands in its balancer.
type target struct {
	n    *node
	app  int
	id   rollout.TargetID
	disk []rollout.ReleaseID // complete releases
	// built are the digests of the files of what is, or was, on the disk, and
	// changes counts how often that changed.
	built   map[rollout.ReleaseID]string
	changes int
	link    rollout.ReleaseID // what the unit starts

	running rollout.ReleaseID // "" while nothing runs
	since   time.Duration     // when it was started

	// In the balancer.
	drained  bool
	refuses  time.Duration // until then
	lies     time.Duration
	stale    time.Duration
	staleWas bool

	// strange: an agent was at work on it, or had left it out, when it was
	// configured anew; the engine forgot all that when it was taken out.
	strange bool
}

func newNode(w *world, i int) *node {
	n := &node{w: w, index: i, name: nodeName(i), powered: true}
	for app := range w.plan.Apps {
		n.targets = append(n.targets, &target{n: n, app: app, id: rollout.TargetName(appName(app), n.name), built: map[rollout.ReleaseID]string{}})
	}
	n.agent = newAgent(n)
	return n
}

func (n *node) cut() bool { return !n.powered || n.w.now < n.cutTil }

// startup is how long a process takes to become healthy.
const startup = 2 * time.Second

// healthyAt tells whether the process would pass its health checks.
func (t *target) healthyAt(now time.Duration) bool {
	if t.running == "" || now < t.since+startup {
		return false
	}
	c := t.n.w.commit(t.app, t.running)
	if c.on&(1<<t.n.index) == 0 {
		return true
	}
	switch c.bad {
	case unhealthy, noStart:
		return false
	case failsSoak:
		return now < t.since+6*time.Second
	case failsLater:
		return now < t.since+35*time.Second
	}
	return true
}

func (t *target) healthy() bool { return t.healthyAt(t.n.w.now) }

// serves tells whether it truly gets work and does it.
func (t *target) serves() bool { return t.n.powered && !t.drained && t.healthy() }

// says is what the balancer says of it. Its checks lag behind by a second.
func (t *target) says() rollout.Rotation {
	w := t.n.w
	switch {
	case w.now < w.awayTil:
		return rollout.RotationUnknown
	case w.now < t.lies:
		return rollout.RotationOut
	case t.drained:
		return rollout.RotationOut
	case w.now < t.stale && t.staleWas:
		return rollout.RotationIn
	case w.now < t.stale:
		return rollout.RotationOut
	case t.healthy() && t.healthyAt(w.now-time.Second):
		return rollout.RotationIn
	}
	return rollout.RotationOut
}

// verdict is what the agent's own probes say of it.
func (t *target) verdict() rollout.Health {
	switch {
	case t.healthy():
		return rollout.Healthy
	case t.link == "":
		return rollout.HealthUnknown
	}
	return rollout.Unhealthy
}

// restart starts the unit on what it is linked to.
func (t *target) restart() {
	t.running, t.since = t.link, t.n.w.now
	if c := t.n.w.commit(t.app, t.link); c != nil && c.bad == noStart && c.on&(1<<t.n.index) != 0 {
		t.running = ""
	}
}

func (t *target) stop() { t.running = "" }

// put writes a release to the disk, in the place of other files of it.
func (t *target) put(id rollout.ReleaseID, digest string) {
	if !t.has(id) {
		t.disk = append(slices.Clone(t.disk), id)
	}
	t.built[id] = digest
	t.changes++
}

func (t *target) has(id rollout.ReleaseID) bool { return slices.Contains(t.disk, id) }

// powerOff ends everything on the node at once.
func (n *node) powerOff() {
	n.powered = false
	n.agent.crash()
	for _, t := range n.targets {
		t.stop()
	}
}

func (n *node) powerOn() {
	if n.powered {
		return
	}
	n.powered = true
	n.boots++
	for _, t := range n.targets {
		if t.link != "" {
			t.restart()
		}
	}
	n.agent.start()
}

// wipe replaces the disk: the releases and the agent's journal are gone.
func (n *node) wipe() {
	n.powerOff()
	n.wiped = n.w.now
	n.agent.journal = newJournal(n)
	for _, t := range n.targets {
		t.disk, t.link, t.built = nil, "", map[rollout.ReleaseID]string{}
	}
}
