package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// apply does one operation of the plan.
func (w *world) apply(o Op) {
	w.log("> %s", o)
	n, app := w.nodes[o.Node], appName(o.App)
	t := n.target(o.App, o.Inst)
	switch o.Kind {
	case OpPush:
		c := w.newCommit(o.App, w.head[o.App], o.Bad, o.On)
		c.vary, c.command, c.hooks = o.Vary, o.Command, o.Hooks
		w.push(o.App, c)
	case OpForcePush:
		parent := w.head[o.App]
		if parent != nil {
			parent = parent.parent
		}
		c := w.newCommit(o.App, parent, o.Bad, o.On)
		c.vary, c.command, c.hooks = o.Vary, o.Command, o.Hooks
		w.push(o.App, c)
	case OpOldPush, OpDeploy:
		if c := w.back(o); c != nil {
			_, _ = w.co.deploy(o.App, c, o.Kind == OpOldPush)
		}
	case OpSpoil:
		if c := w.back(o); c != nil && c.bad == good {
			c.bad, c.on = o.Bad, o.On
		}
	case OpRollback:
		w.request(rollout.RollbackRequested{At: w.time(), App: app, By: "ann"})
	case OpPause:
		w.request(rollout.PauseRequested{At: w.time(), App: app, By: "ann"})
	case OpResume:
		w.request(rollout.ResumeRequested{At: w.time(), App: app, By: "ann"})
	case OpAbort:
		w.request(rollout.AbortRequested{At: w.time(), App: app, By: "ann"})
	case OpRetry:
		w.request(rollout.RetryRequested{At: w.time(), App: app, By: "ann"})
	case OpHold:
		h := rollout.HoldRequested{At: w.time(), App: app, By: "ann", Reason: "maintenance"}
		if o.For > 0 {
			h.Until = w.time().Add(o.For)
		}
		w.request(h)
	case OpUnhold:
		w.request(rollout.UnholdRequested{At: w.time(), App: app, By: "ann"})
	case OpRemoveNode, OpAddNode:
		w.setNode(o.Node, o.Kind == OpAddNode)
	case OpRemoveInst, OpAddInst:
		w.setInstance(o.Inst, o.Kind == OpAddInst)
	case OpLast:
		n.lastTil = w.now + o.For
	case OpAgentCrash:
		n.agent.crash()
		w.after(o.For, n.agent.start)
	case OpCrashAtStep:
		n.agent.crashS, n.agent.crashL, n.agent.crashF = o.Step, o.Late, o.For
	case OpPower:
		n.powerOff()
		w.after(o.For, n.powerOn)
	case OpWipe:
		n.wipe()
		w.after(o.For, n.powerOn)
	case OpCut:
		n.cutTil = w.now + o.For
	case OpCoordinator:
		w.co.crash, w.co.crashL, w.co.crashF = true, o.Late, o.For
	case OpDiskFull:
		n.fullTil = w.now + o.For
	case OpRefuse:
		t.refuses = w.now + o.For
	case OpAway:
		w.awayTil = w.now + o.For
	case OpLie:
		t.lies = w.now + o.For
	case OpStale:
		t.staleWas = t.says() == rollout.RotationIn
		t.stale = w.now + o.For
	case OpArchives:
		w.co.archives[o.App] = nil
		if w.co.up {
			w.co.tellArchives(o.App)
		}
	case OpForget:
		t.drained = false
	case OpHooksFail:
		n.hooksFail = w.now + o.For
	case OpHooksHang:
		n.hooksHang = w.now + o.For
	case OpHandRoll, OpHandRollNode, OpHandLink, OpHandRestart, OpHandStop, OpHandForeign:
		w.byHand(o)
	case OpAppCrash:
		t.stop()
		w.after(o.For, func() {
			if n.powered && t.running == "" && t.link != "" {
				t.restart()
			}
		})
	}
}

// back is the commit that the operation means.
func (w *world) back(o Op) *commit {
	c := w.head[o.App]
	for range o.Back {
		if c != nil && c.parent != nil {
			c = c.parent
		}
	}
	return c
}

// setNode adds a node to the configuration or takes it out.
func (w *world) setNode(i int, in bool) {
	c := w.co
	if c.config[i] == in || !c.up {
		return
	}
	if !in {
		left := 0
		for _, ok := range c.config {
			if ok {
				left++
			}
		}
		if left == 1 {
			return
		}
	}
	c.config[i] = in
	if in {
		c.heard[i] = w.now
	}
	c.configure()
}

// setInstance adds an instance of every app on every node to the configuration,
// or takes it out.
func (w *world) setInstance(k int, in bool) {
	c := w.co
	if c.instances[k] == in || !c.up {
		return
	}
	c.instances[k] = in
	if !slices.Contains(c.instances, true) {
		c.instances[k] = true
		return
	}
	c.configure()
}

// push moves the branch. The webhook may be lost; the branch is polled too.
func (w *world) push(app int, c *commit) {
	w.head[app], w.pushed[app] = c, c
	if w.rng.IntN(5) > 0 {
		w.after(w.between(100*time.Millisecond, 2*time.Second), func() { w.co.seen(app) })
	}
}

// pollBranch looks at the branch once a minute.
func (c *coordinator) pollBranch(app, life int) {
	c.w.after(c.w.between(time.Second, time.Minute), func() {
		if c.up && c.life == life {
			c.seen(app)
			c.pollBranch(app, life)
		}
	})
}

// seen asks for the head of the branch, until that was decided on.
func (c *coordinator) seen(app int) {
	want := c.w.pushed[app]
	if want == nil || !c.up {
		return
	}
	if err, _ := c.deploy(app, want, true); !errors.Is(err, errLost) && c.w.pushed[app] == want {
		c.w.pushed[app] = nil
	}
}

// deploy asks for a commit, as the runner does: with what it found out of git.
func (c *coordinator) deploy(app int, want *commit, automatic bool) (error, bool) {
	ev := rollout.DeployRequested{
		At: c.w.time(), App: appName(app), Release: rollout.Release{ID: want.id, SHA: want.sha, Subject: "made", Command: want.takes()},
		By: "ann", Automatic: automatic,
	}
	a := c.state.App(ev.App)
	if automatic {
		ev.By, ev.Cause = "github", "push"
		for _, r := range a.Releases {
			if other := c.w.commit(app, r.ID); other != want && other.contains(want) {
				ev.ContainedIn = append(ev.ContainedIn, r.ID)
			}
		}
		if cur := c.w.commit(app, a.Current); cur != nil {
			ev.Diverged = !cur.contains(want) && !want.contains(cur)
		}
	}
	n := len(c.records)
	var was rollout.App
	if a != nil {
		was = *a
		was.Releases = slices.Clone(a.Releases)
	}
	err, up := c.step(ev)
	if err == nil && c.w.bad == nil {
		c.checkAccepted(ev, n, &was)
	}
	return err, up
}
