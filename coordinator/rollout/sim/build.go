package sim

import "github.com/lockstep-deploy/lockstep/coordinator/rollout"

// checkWaits judges that a rollout does not wait for what cannot come. old is the
// app's live rollout before the step.
func (c *coordinator) checkWaits(a *rollout.App, old *rollout.Rollout) {
	r := a.Live
	paused := r.Paused != nil && r.Paused.Reason == rollout.ReasonPrepareDeadline && (old == nil || old.ID != r.ID || old.Paused == nil)
	if !paused && !c.w.plan.BuildOnce {
		return
	}
	asked, failed := 0, ""
	for i := range c.state.Placements {
		p := &c.state.Placements[i]
		if p.App != a.Name || p.Prepare == "" || p.How == rollout.HowWait {
			continue
		}
		if p.How == rollout.HowShare && c.lost(p.Node) {
			c.w.fail("waits-in-vain", "%s waits for a build of %s, which is lost", r.ID, p.Node)
		}
		if asked++; p.Failed == p.Attempt && p.Tries > a.Policy.Retries {
			failed += " " + p.Node
			asked--
		}
	}
	if paused && asked == 0 && failed != "" {
		c.w.fail("waits-in-vain", "%s waited for these, and knows that they failed:%s", r.ID, failed)
	}
}

// lost tells whether the node was given up.
func (c *coordinator) lost(node string) bool {
	for i, n := range c.w.nodes {
		if n.name == node {
			return c.heard[i] < 0
		}
	}
	return false
}
