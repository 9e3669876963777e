package sim

import (
	"reflect"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// bound is the time in which, without faults, every rollout ends or says what
// it waits for.
const bound = 30 * time.Minute

// finish ends all faults and judges what comes of it.
func (w *world) finish() {
	if w.bad != nil {
		return
	}
	w.calm = true
	w.log("> everything heals")
	w.awayTil = 0
	w.co.crash = false
	for _, n := range w.nodes {
		n.cutTil, n.fullTil, n.lastTil, n.agent.crashS = 0, 0, 0, ""
		n.hooksFail, n.hooksHang = 0, 0
		n.powerOn()
		n.agent.start()
		for _, t := range n.targets {
			t.refuses, t.lies, t.stale = 0, 0, 0
			if t.running == "" && t.link != "" {
				t.restart()
			}
		}
	}
	w.co.start()
	for app := range w.plan.Apps {
		w.request(rollout.UnholdRequested{At: w.time(), App: appName(app), By: "ann"})
	}
	w.quiet()
	w.co.checkSettled(false)
	// A person now helps what waits for one, and first without knowing better.
	for app := range w.plan.Apps {
		if r := w.co.state.App(appName(app)).Live; r != nil && r.Paused != nil && r.Paused.Reason == rollout.ReasonCommandUnknown {
			w.helps(rollout.ResumeRequested{At: w.time(), App: appName(app), By: "ann"})
		}
	}
	for range 4 {
		for app := range w.plan.Apps {
			if w.co.state.App(appName(app)).Live != nil {
				w.helps(rollout.RetryRequested{At: w.time(), App: appName(app), By: "ann"})
			}
		}
	}
	w.mend()
	w.quiet()
	w.co.checkSettled(false)
	w.helpAll()
	// A release of which nothing is left but targets that are out, and count against
	// all that share the pool, stands in the way until a good one follows it.
	for app := range w.plan.Apps {
		if w.bad == nil && w.co.outForGood(app) {
			w.deployGood(app)
			w.quiet()
			w.helpAll()
		}
	}
	w.co.checkSettled(true)
	w.co.checkPushes()
	// Whatever happened, a good release can now be deployed everywhere.
	for app := range w.plan.Apps {
		if w.bad == nil {
			w.deployGood(app)
		}
	}
	w.quiet()
	for app := range w.plan.Apps {
		w.co.checkRecovered(app)
	}
	if w.plan.Seed%8 == 0 {
		w.co.checkReplay()
	}
}

// deployGood deploys a release of the app that is good, as a person.
func (w *world) deployGood(app int) {
	c := w.newCommit(app, w.head[app], good, 0)
	w.head[app] = c
	if err, _ := w.co.deploy(app, c, false); err != nil {
		w.fail("recovers", "a good release is refused in the end: %v", err)
	}
}

// outForGood tells whether an app that has no release to return to left a target
// out of rotation.
func (c *coordinator) outForGood(app int) bool {
	return c.state.App(appName(app)).Current == "" && slices.ContainsFunc(c.state.Targets, func(t rollout.Target) bool {
		return t.App == appName(app) && t.Phase == rollout.TargetQuarantined
	})
}

// helpAll asks for whatever could end what is under way, and mend what is out.
func (w *world) helpAll() {
	for range 5 {
		helped := false
		for app := range w.plan.Apps {
			if a := w.co.state.App(appName(app)); a.Live != nil {
				helped = w.helps(rollout.AbortRequested{At: w.time(), App: a.Name, By: "ann"}) || helped
			}
			if a := w.co.state.App(appName(app)); a.Live != nil && a.Live.Paused != nil && !late(a.Live) {
				helped = w.helps(rollout.ResumeRequested{At: w.time(), App: a.Name, By: "ann"}) || helped
			}
			if a := w.co.state.App(appName(app)); a.Live == nil || late(a.Live) {
				// What one app left out may stand in another's way, or in its own.
				helped = w.helps(rollout.RetryRequested{At: w.time(), App: a.Name, By: "ann"}) || helped
			}
		}
		if !helped {
			break
		}
	}
}

// helps asks for something, waits for what comes of it, and tells whether it
// was taken. What is refused changes nothing, so there is nothing to wait for.
func (w *world) helps(ev rollout.Event) bool {
	taken := w.request(ev)
	if taken {
		w.quiet()
	}
	return taken
}

// mend makes every commit good, as a person does who mends what it depends on,
// and starts again what failed: nothing that is left then excuses the engine.
func (w *world) mend() {
	for _, commits := range w.commits {
		for _, c := range commits {
			c.bad, c.hooks, c.vary = good, hooks{}, false
		}
	}
	for _, n := range w.nodes {
		for _, t := range n.targets {
			if f := n.agent.journal.apps[t.app].failure; t.hand &&
				(w.co.state.App(appName(t.app)).Current == "" || (f != nil && f.Reason == "build_skew")) {
				t.link = "" // what a person had it run stands, or will stand, in the way
				t.stop()
			}
			switch {
			case t.running == "" && t.link != "":
				t.restart()
			case t.running == "" && t.hand:
				t.running, t.since = foreign, w.now // as the person had it before it went down
			}
		}
	}
	w.run(w.now + 30*time.Second)
}

// quiet plays until nothing is under way.
func (w *world) quiet() {
	limit := w.now + bound
	w.run(w.now + 25*time.Second) // all nodes are heard of
	for w.bad == nil {
		w.run(w.now + 5*time.Second)
		n := len(w.co.records)
		if w.co.idle() {
			w.run(w.now + 30*time.Second)
			if w.co.idle() && n == len(w.co.records) {
				return
			}
		}
		if w.now > limit {
			w.fail("liveness", "something is still under way:\n%s", describe(&w.co.state))
		}
	}
}

// idle tells whether no rollout goes on by itself, and no turn is out.
func (c *coordinator) idle() bool {
	for i := range c.state.Apps {
		a := &c.state.Apps[i]
		if (a.Live != nil && a.Live.Paused == nil) || (a.Live == nil && a.Waiting != nil) {
			return false
		}
	}
	if slices.ContainsFunc(c.state.Targets, func(t rollout.Target) bool { return t.Turn != 0 }) {
		return false
	}
	return c.up
}

// checkSettled judges the state in which nothing is under way.
func (c *coordinator) checkSettled(final bool) {
	if c.w.bad != nil {
		return
	}
	for i := range c.state.Targets {
		if t := &c.state.Targets[i]; t.Turn != 0 {
			c.w.fail("turn-held", "%s holds turn %d for ever", t.ID, t.Turn)
		}
	}
	allServe := true
	c.eachTarget(func(t *target) {
		live := c.state.App(appName(t.app)).Live
		allServe = allServe && t.running != foreign && (t.serves() || (!c.knows(t).missed && live == nil))
	})
	c.eachTarget(func(t *target) {
		a, st := c.state.App(appName(t.app)), c.state.Target(t.id)
		if a.Live != nil {
			if final {
				c.w.fail("liveness", "%s is still %s:\n%s", a.Live.ID, a.Live.Status, describe(&c.state))
			}
			if late(a.Live) && allServe {
				c.w.fail("undone-by-itself", "nothing stands against the return of %s any more:\n%s", a.Live.ID, describe(&c.state))
			}
			return // it is paused, and says why
		}
		if a.Current != "" {
			c.checkDrift(t, a, st, final)
		}
		if st.Phase == rollout.TargetQuarantined || a.Current == "" || c.leftAlone(t, st) {
			return
		}
		cur := a.Release(a.Current)
		if cur.Bad == nil && !(t.serves() && t.running == a.Current) && !c.w.commit(t.app, a.Current).sick(t.n.index) {
			c.w.fail("nobody-in-charge", "%s is %s, runs %q (drained %t), and should serve %s; nobody is at it:\n%s",
				t.id, st.Phase, t.running, t.drained, a.Current, describe(&c.state))
		}
		if rel := a.Release(t.running); rel != nil && rel.Bad != nil && cur.Bad == nil {
			c.w.fail("bad-undone", "%s still runs %s, which is bad", t.id, t.running)
		}
	})
}

// late tells whether the rollout is paused only because time ran out for it.
func late(r *rollout.Rollout) bool {
	return r.Status == rollout.RollingBack && r.Paused != nil &&
		(r.Paused.Reason == rollout.ReasonProgressDeadline || r.Paused.Reason == rollout.ReasonTargetDeadline)
}

// sick tells whether the commit does not serve on the node, whatever is done.
func (c *commit) sick(node int) bool { return c.bad != good && c.on&(1<<node) != 0 }

// checkPushes judges that every push was decided on.
func (c *coordinator) checkPushes() {
	for app, p := range c.w.pushed {
		if p != nil && c.w.bad == nil {
			c.w.fail("push-lost", "%s of %s was never decided on", p.id, appName(app))
		}
	}
	for i := range c.records {
		if r := &c.records[i]; !r.Status.Final() && c.w.bad == nil {
			c.w.fail("push-lost", "%s is %s in the end", r.ID, r.Status)
		}
	}
}

// checkRecovered judges that a good release serves everywhere in the end.
func (c *coordinator) checkRecovered(app int) {
	if c.w.bad != nil {
		return
	}
	a, want := c.state.App(appName(app)), c.w.head[app]
	if a.Live != nil || a.Current != want.id || !c.state.Converged(a.Name) {
		c.w.fail("recovers", "a good release is not everywhere in the end:\n%s", describe(&c.state))
		return
	}
	c.eachTarget(func(t *target) {
		if t.app == app && !(t.serves() && t.running == want.id) {
			c.w.fail("recovers", "%s does not serve %s in the end", t.id, want.id)
		}
	})
	if rel := a.Release(a.Current); !rel.Stable {
		c.w.fail("recovers", "%s serves everywhere and is not stable", rel.ID)
	}
}

// checkReplay judges that the stored events make the stored state.
func (c *coordinator) checkReplay() {
	if c.w.bad != nil {
		return
	}
	var s rollout.State
	for _, ev := range c.events {
		next, _, err := rollout.Step(s, ev)
		if err != nil {
			c.w.fail("replay", "%T is refused: %v", ev, err)
			return
		}
		s = next
	}
	if !reflect.DeepEqual(s, c.state) {
		c.w.fail("replay", "the stored events do not make the stored state")
	}
}
