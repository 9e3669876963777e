package sim

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// patience is how long a node may be silent before it is given up.
const patience = 60 * time.Second

// coordinator runs the engine as the real runner does: it loads the state,
// steps, stores state, event, and effects at once, and only then acts.
type coordinator struct {
	w    *world
	up   bool
	life int

	// Stored.
	state   rollout.State
	events  []rollout.Event
	records []rollout.Rollout // the newest of each rollout
	index   map[rollout.RolloutID]int
	config  []bool // nodes that are configured
	// instances that are configured, of every app on every node.
	instances []bool
	// archives are the digests of each app's built files.
	archives  [][]string
	said      map[[2]string]said // of each app and node
	turns     int
	free      map[uint64]bool                          // turns of targets that were out as they were
	fallen    map[uint64]bool                          // those of them that were out by themselves
	late      map[rollout.RolloutID][]rollout.TargetID // that came back in the middle
	commandOf map[uint64]rollout.RolloutID             // by number
	begun     map[uint64]int                           // how often a number was run
	commands  map[rollout.RolloutID]int                // that were run
	retried   map[rollout.RolloutID]int                // by a person, while it was migrating
	migrated  map[rollout.RolloutID]bool               // its release command did its work
	// mended are the targets that were brought back from what a person did, since
	// the last rollout that was asked for.
	mended map[rollout.TargetID]bool

	// Volatile.
	heard  []time.Duration
	newest []order
	poll   []time.Duration // until when the node waits for news
	told   []knowledge     // of each target, in the order of nodes
	timer  int
	crash  bool
	crashL bool
	crashF time.Duration
}

// order is the place of the newest report of a node.
type order struct {
	instance   int
	epoch, seq uint64
}

func newCoordinator(w *world) *coordinator {
	c := &coordinator{w: w, said: map[[2]string]said{}, index: map[rollout.RolloutID]int{}, free: map[uint64]bool{}, fallen: map[uint64]bool{}, late: map[rollout.RolloutID][]rollout.TargetID{}}
	c.commandOf, c.begun = map[uint64]rollout.RolloutID{}, map[uint64]int{}
	c.commands, c.retried, c.migrated = map[rollout.RolloutID]int{}, map[rollout.RolloutID]int{}, map[rollout.RolloutID]bool{}
	c.mended = map[rollout.TargetID]bool{}
	for range w.nodes {
		c.config = append(c.config, true)
	}
	for range w.plan.Instances {
		c.instances = append(c.instances, true)
	}
	c.archives = make([][]string, w.plan.Apps)
	c.told = make([]knowledge, len(w.nodes)*w.plan.Apps*w.plan.Instances)
	return c
}

// every is how often the stored bytes are read back while the coordinator
// stays up; they are always read back when it starts.
const every = 64

func (c *coordinator) start() {
	w := c.w
	if c.up {
		return
	}
	c.up = true
	c.life++
	c.crash = false
	c.heard = make([]time.Duration, len(w.nodes))
	c.newest = make([]order, len(w.nodes))
	c.poll = make([]time.Duration, len(w.nodes))
	for i := range c.heard {
		c.heard[i] = w.now
	}
	c.forget()
	if c.events != nil {
		c.load()
	}
	w.log("coordinator starts")
	c.handle(rollout.Started{At: w.time()})
	c.configure()
	for app := range c.archives {
		c.tellArchives(app)
	}
	life := c.life
	for app := range w.head {
		c.pollBranch(app, life)
	}
	c.watch(life)
}

// load reads the stored state.
func (c *coordinator) load() {
	data, err := json.Marshal(c.state)
	var back rollout.State
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if err != nil {
		c.w.fail("plain-data", "the state cannot be stored: %v", err)
		return
	}
	if !reflect.DeepEqual(back, c.state) {
		c.w.fail("plain-data", "the state that was loaded differs from that which was stored:\n%s", data)
	}
	c.state = back
}

func (c *coordinator) stop(d time.Duration) {
	if !c.up {
		return
	}
	c.w.log("coordinator dies")
	c.up = false
	c.life++
	c.w.after(d, c.start)
}

// configure sends the configuration.
func (c *coordinator) configure() {
	w := c.w
	ev := rollout.Configured{At: w.time(), Pool: "web", MaxUnavailable: w.plan.MaxUnavailable}
	for app := range w.plan.Apps {
		cfg := rollout.AppConfig{Name: appName(app), Policy: w.plan.policy(), Revision: "1"}
		for i, n := range w.nodes {
			if c.config[i] {
				cfg.Nodes = append(cfg.Nodes, n.name)
			}
		}
		for k, in := range c.instances {
			if in && w.plan.Instances > 1 {
				cfg.Instances = append(cfg.Instances, w.plan.instanceName(k))
			}
		}
		if !slices.Contains(cfg.Nodes, cfg.Policy.Builder) {
			cfg.Policy.Builder = "" // a fleet file that names no node of the app is refused
		}
		ev.Apps = append(ev.Apps, cfg)
	}
	c.eachTarget(func(t *target) {
		if c.state.Target(t.id) == nil {
			c.knows(t).missed = false
			delete(c.mended, t.id)
			a := t.n.agent
			t.strange = a.out(t) || a.journal.targets[t.k].work != nil
		}
	})
	c.handle(ev)
}

func (p Plan) policy() rollout.Policy {
	pol := rollout.Policy{
		Soak: 5 * time.Second, TargetTimeout: 90 * time.Second, ProgressTimeout: 150 * time.Second,
		PrepareTimeout: 120 * time.Second, Retries: p.Retries, RetryBackoff: 10 * time.Second,
		AutoRollback: p.AutoRollback, KeepReleases: 2,
	}
	pol.BuildOnce, pol.RefuseSkew = p.BuildOnce, p.RefuseSkew
	if p.BuildOnce && p.Builder >= 0 {
		pol.Builder = nodeName(p.Builder)
	}
	if p.Canary {
		pol.Canary, pol.CanarySoak = nodeName(p.Nodes-1), 12*time.Second
	}
	return pol
}

// archived takes built files, and tells the engine which there are.
func (c *coordinator) archived(app int, digest string) {
	if !slices.Contains(c.archives[app], digest) {
		c.archives[app] = append(c.archives[app], digest)
	}
	c.tellArchives(app)
}

func (c *coordinator) tellArchives(app int) {
	if !c.up {
		return
	}
	keep := c.state.KeepArchives(appName(app))
	if len(c.archives[app]) > 4 {
		// What nobody needs any more is removed.
		c.archives[app] = slices.DeleteFunc(c.archives[app], func(d string) bool { return !slices.Contains(keep, d) })
	}
	c.handle(rollout.Archived{At: c.w.time(), App: appName(app), Digests: slices.Clone(c.archives[app])})
}

// watch gives nodes up that have been silent for too long.
func (c *coordinator) watch(life int) {
	if !c.up || c.life != life {
		return
	}
	w := c.w
	for i, n := range w.nodes {
		if c.config[i] && w.now >= c.heard[i]+patience && c.heard[i] >= 0 {
			c.heard[i] = -1
			for _, t := range n.targets {
				c.knows(t).now = silent
			}
			c.handle(rollout.NodeLost{At: w.time(), Node: n.name})
			if !c.up {
				return
			}
		}
	}
	w.after(5*time.Second, func() { c.watch(life) })
}

// receive takes a report, unless a newer one of its node came before it.
func (c *coordinator) receive(n *node, m message) {
	w, was := c.w, c.newest[n.index]
	if m.instance == was.instance && (m.epoch < was.epoch || (m.epoch == was.epoch && m.seq <= was.seq)) {
		return
	}
	c.newest[n.index] = order{m.instance, m.epoch, m.seq}
	c.heard[n.index] = w.now
	c.poll[n.index] = w.now + 25*time.Second
	known := slices.Clone(c.told)
	if c.config[n.index] {
		c.learn(n, m)
	}
	err, up := c.step(rollout.Reported{At: w.time(), Node: n.name, Placements: m.report})
	if errors.Is(err, errLost) {
		c.told = known
	}
	if !up {
		return
	}
	for app := range w.plan.Apps {
		held := uint64(0)
		for _, pr := range m.report {
			if pr.App == appName(app) {
				held = pr.Generation
			}
		}
		if p := c.state.Placement(appName(app), n.name); p != nil && p.Generation != held {
			c.assign(n, app)
		}
	}
}

// assign answers the agent.
func (c *coordinator) assign(n *node, app int) {
	want, generation, ok := c.state.Wanted(appName(app), n.name)
	if ok {
		c.w.send(n, func() { n.agent.assigned(app, generation, want) })
	}
}

// handle steps the engine. It is false when the coordinator died of it.
func (c *coordinator) handle(ev rollout.Event) bool {
	_, up := c.step(ev)
	return up
}

// step is one turn of the runner's loop. The error is a refusal.
func (c *coordinator) step(ev rollout.Event) (error, bool) {
	w := c.w
	if w.bad != nil || !c.up {
		return errLost, false
	}
	if c.crash && !c.crashL {
		c.stop(c.crashF)
		return errLost, false
	}
	before := c.state
	after, effects, err := rollout.Step(before, ev)
	if err != nil {
		var refused *rollout.Refused
		if !errors.As(err, &refused) {
			w.fail("step-error", "%T: %v", ev, err)
		}
		c.trace(ev, nil, err)
		return err, true
	}
	if slices.ContainsFunc(effects, changes) {
		c.checkRecords() // of the state before
	}
	c.events = append(c.events, ev)
	c.state = after
	c.record(effects)
	c.trace(ev, effects, nil)
	c.check(&before, ev, effects)
	if len(c.events)%every == 0 {
		c.load()
	}
	if c.crash {
		c.stop(c.crashF)
		return nil, false
	}
	for _, e := range effects {
		if as, ok := e.(rollout.Assign); ok {
			for i, n := range w.nodes {
				if n.name == as.Node && w.now < c.poll[i] {
					c.assign(n, appIndex(as.App))
				}
			}
		}
	}
	c.setTimer()
	return nil, true
}

var errLost = errors.New("the coordinator died before it was stored")

// setTimer arranges for the next tick.
func (c *coordinator) setTimer() {
	c.timer++
	at, ok := c.state.NextDeadline()
	if !ok {
		return
	}
	id, life := c.timer, c.life
	c.w.at(at.Sub(epoch), func() {
		if !c.up || c.life != life || c.timer != id || !c.handle(rollout.Tick{At: c.w.time()}) {
			return
		}
		if next, ok := c.state.NextDeadline(); ok && !next.After(c.w.time()) {
			c.w.fail("busy-clock", "a tick at %s leaves a deadline at %s", c.w.now, next.Sub(epoch))
		}
	})
}

// record keeps the newest of each rollout, as the store does.
func (c *coordinator) record(effects []rollout.Effect) {
	for _, e := range effects {
		ch, ok := e.(rollout.Changed)
		if !ok {
			continue
		}
		if i, ok := c.index[ch.Rollout.ID]; ok {
			c.checkChange(&c.records[i], &ch)
			c.records[i] = ch.Rollout
			continue
		}
		c.index[ch.Rollout.ID] = len(c.records)
		c.records = append(c.records, ch.Rollout)
	}
}

func appIndex(name string) int {
	if name == appName(0) {
		return 0
	}
	return 1
}

func (c *coordinator) trace(ev rollout.Event, effects []rollout.Effect, err error) {
	w := c.w
	if w.trace == nil {
		return
	}
	switch ev := ev.(type) {
	case rollout.Reported:
		for _, p := range ev.Placements {
			for _, t := range p.Targets {
				w.log("report %s: runs %q, %s, %s, outcome %v", t.Target, t.Release, t.Rotation, t.Health, t.Outcome)
			}
		}
	case rollout.Tick:
	default:
		w.log("event %T %+v", ev, ev)
	}
	if err != nil {
		w.log("refused: %v", err)
	}
	for _, e := range effects {
		if n, ok := e.(rollout.Noted); ok {
			w.log("  | %s %s: %s", n.Rollout, n.Kind, n.Text)
		}
	}
}
