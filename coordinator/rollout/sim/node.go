package sim

import (
	"slices"
	"strings"
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
	lastTil time.Duration // it asks to be last
	agent   *agent
	disks   []*disk    // of each app
	targets []*target  // app by app, and instance by instance
	procs   []*process // the release command of each app
	// Until then, what hooks need is away, or does not answer.
	hooksFail, hooksHang time.Duration
}

// target is one instance of an app, and how it stands in its balancer.
type target struct {
	n        *node
	k        int // its place among its node's targets
	app      int
	instance int
	id       rollout.TargetID
	link     rollout.ReleaseID // what the unit starts

	running rollout.ReleaseID // "" while nothing runs
	hook    *hookRun          // that runs
	hand    bool              // a person changed what it runs, or will run, since its last good turn
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
		n.disks = append(n.disks, &disk{built: map[rollout.ReleaseID]string{}})
		for k := range w.plan.Instances {
			n.targets = append(n.targets, &target{
				n: n, k: len(n.targets), app: app, instance: k,
				id: rollout.TargetName(appName(app), n.name, w.plan.instanceName(k)),
			})
		}
	}
	n.procs = make([]*process, w.plan.Apps)
	n.agent = newAgent(n)
	return n
}

func (n *node) asksToBeLast() bool { return n.w.now < n.lastTil }

func (n *node) cut() bool { return !n.powered || n.w.now < n.cutTil }

// startup is how long a process takes to become healthy.
const startup = 2 * time.Second

// healthyAt tells whether the process would pass its health checks.
func (t *target) healthyAt(now time.Duration) bool {
	if t.running == "" || now < t.since+startup {
		return false
	}
	c := t.n.w.commit(t.app, t.running)
	if c == nil || c.on&(1<<t.n.index) == 0 {
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

// release is the one that the process which runs proves.
func (t *target) release() rollout.ReleaseID {
	if t.running == foreign {
		return ""
	}
	return t.running
}

func (t *target) has(id rollout.ReleaseID) bool { return t.n.disks[t.app].has(id) }

func (t *target) built(id rollout.ReleaseID) string { return t.n.disks[t.app].built[id] }

// place is the target's name within its app.
func (t *target) place() string { return strings.TrimPrefix(string(t.id), appName(t.app)+"@") }

// target is the instance of an app on the node.
func (n *node) target(app, instance int) *target { return n.targets[app*n.w.plan.Instances+instance] }

// disk is what a node holds of one app.
type disk struct {
	releases []rollout.ReleaseID // complete ones
	// built are the digests of the files of what is, or was, on the disk, and
	// changes counts how often that changed.
	built   map[rollout.ReleaseID]string
	changes int
}

func (d *disk) has(id rollout.ReleaseID) bool { return slices.Contains(d.releases, id) }

// put writes a release to the disk, in the place of other files of it.
func (d *disk) put(id rollout.ReleaseID, digest string) {
	if !d.has(id) {
		d.releases = append(slices.Clone(d.releases), id)
	}
	d.built[id] = digest
	d.changes++
}

// powerOff ends everything on the node at once.
func (n *node) powerOff() {
	n.powered = false
	n.agent.crash()
	clear(n.procs)
	for _, t := range n.targets {
		t.stop()
		t.hook = nil
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
	for _, d := range n.disks {
		d.releases, d.built = nil, map[rollout.ReleaseID]string{}
	}
	for _, t := range n.targets {
		t.link = ""
	}
}
