package sim

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// hearsay is what the newest report said of a target.
type hearsay int

const (
	silent  hearsay = iota // nothing since the coordinator started, or given up
	serving                // in rotation, and not unhealthy
	outside                // not so
	unsure                 // the balancer could not be asked
)

// knowledge is what the engine can know of a target.
type knowledge struct {
	now    hearsay
	runs   rollout.ReleaseID // the release that it truly ran when that was sent
	missed bool              // it was said to serve since it was configured
	last   bool              // it asked to be last
	// own: something of a person's own serves there.
	own bool
	// lost: the turn that the report ended went wrong, and did not bring it back.
	lost bool
}

func (c *coordinator) knows(t *target) *knowledge { return &c.told[t.n.index*len(t.n.targets)+t.k] }

func (c *coordinator) forget() {
	for i := range c.told {
		c.told[i].now = silent
	}
}

// learn takes note of a report that is about to be given to the engine.
func (c *coordinator) learn(n *node, m message) {
	for _, pr := range m.report {
		for i, tr := range pr.Targets {
			k := c.knows(n.target(appIndex(pr.App), i))
			k.runs, k.last = tr.Release, tr.Last
			switch {
			case tr.Health == rollout.Unhealthy, tr.Rotation == rollout.RotationOut, tr.Rotation == rollout.RotationDraining:
				k.now = outside
			case tr.Rotation == rollout.RotationIn:
				k.now = serving
			default:
				k.now = unsure
			}
			k.own = k.now == serving && tr.Release == "" && tr.Health == rollout.Healthy
			st := c.state.Target(tr.Target)
			ended := st != nil && st.Turn != 0 && tr.Outcome != nil && tr.Outcome.Turn == st.Turn
			k.lost = ended && !tr.Outcome.OK && !tr.Outcome.Reverted
			k.missed = k.missed || tr.Rotation == rollout.RotationIn || (ended && tr.Outcome.OK)
		}
	}
}

// eachTarget visits the configured targets.
func (c *coordinator) eachTarget(do func(t *target)) {
	for _, n := range c.w.nodes {
		for _, t := range n.targets {
			if c.configured(t) {
				do(t)
			}
		}
	}
}

func (c *coordinator) configured(t *target) bool {
	return c.config[t.n.index] && c.instances[t.instance]
}

// check looks at the state after a step.
func (c *coordinator) check(before *rollout.State, ev rollout.Event, effects []rollout.Effect) {
	if len(effects) > 0 || c.w.plan.Seed%4 == 0 {
		c.checkGenerations(before, effects)
	}
	for i := range c.state.Apps {
		c.checkApp(before, &c.state.Apps[i])
		c.checkCommand(c.state.Apps[i].Live)
	}
	c.checkTurns(before, ev)
	c.checkBlamed(before)
	// Whatever is not recorded stays so until its next record is made.
	if len(c.events)%every == 0 || slices.ContainsFunc(effects, changes) {
		c.checkRecords()
	}
}

func changes(e rollout.Effect) bool {
	_, ok := e.(rollout.Changed)
	return ok
}

// said is what an assignment said when it was last looked at.
type said struct {
	generation uint64
	want       rollout.Wanted
}

// checkGenerations judges that what agents are to do is never told under an
// old number.
func (c *coordinator) checkGenerations(before *rollout.State, effects []rollout.Effect) {
	s := &c.state
	for i := range s.Placements {
		p := &s.Placements[i]
		key := [2]string{p.App, p.Node}
		old := before.Placement(p.App, p.Node)
		was, now := c.said[key], said{}
		now.want, now.generation, _ = s.Wanted(p.App, p.Node)
		switch {
		case old != nil && p.Generation < old.Generation, p.Generation > s.Generation, p.Generation == 0:
			c.w.fail("generation", "that of %s on %s is %d", p.App, p.Node, p.Generation)
		case was.generation == now.generation && !sameWanted(was.want, now.want):
			c.w.fail("generation", "the assignment of %s on %s changed under generation %d", p.App, p.Node, p.Generation)
		case (old == nil || p.Generation != old.Generation) && !slices.Contains(effects, rollout.Effect(rollout.Assign{App: p.App, Node: p.Node, Generation: p.Generation})):
			c.w.fail("generation", "nobody is told of generation %d of %s on %s", p.Generation, p.App, p.Node)
		}
		if c.w.plan.BuildOnce && now.want.Prepare != "" && !now.want.Share && now.want.Archive == "" {
			c.w.fail("one-build", "%s is to build %s, although one node builds for all", p.Node, now.want.Prepare)
		}
		c.said[key] = now
	}
}

func sameWanted(x, y rollout.Wanted) bool {
	if !slices.Equal(x.Keep, y.Keep) || !slices.Equal(x.Targets, y.Targets) {
		return false
	}
	x.Keep, x.Targets, y.Keep, y.Targets = nil, nil, nil, nil
	return reflect.DeepEqual(x, y)
}

// checkApp judges one app's rollouts.
func (c *coordinator) checkApp(before *rollout.State, a *rollout.App) {
	old := before.App(a.Name)
	if old == nil {
		return
	}
	if a.Live != nil && a.Live.Status.Final() {
		c.w.fail("one-live", "%s is live and %s", a.Live.ID, a.Live.Status)
	}
	if r := a.Live; r != nil && r.Automatic && a.Hold != nil && (old.Live == nil || old.Live.ID != r.ID) {
		c.w.fail("held", "%s begins while automation is on hold", r.ID)
	}
	if r := a.Live; r != nil && r.Status == rollout.Rolling {
		for _, id := range r.Order {
			t, o := c.state.Target(id), before.Target(id)
			if l := old.Live; l != nil && l.ID == r.ID && !slices.Contains(l.Order, id) {
				c.late[r.ID] = append(c.late[r.ID], id) // a person took it in
			}
			if o != nil && o.Phase == rollout.TargetUnreachable && t.Phase != o.Phase && !c.returned(id, r) {
				c.late[r.ID] = append(c.late[r.ID], id)
			}
			if o != nil && o.Phase == rollout.TargetQuarantined && t.Phase != o.Phase && !c.returned(id, r) {
				c.late[r.ID] = append(c.late[r.ID], id)
			}
		}
	}
	if r := a.Live; r != nil {
		if old.Live == nil || old.Live.ID != r.ID {
			c.checkBegan(before, a, r)
		}
		c.checkWaits(a, old.Live)
	}
	if r := a.Last; r != nil && (old.Last == nil || old.Last.ID != r.ID) {
		c.checkFinished(a, r)
	}
}

// checkFinished judges a rollout that has just ended.
func (c *coordinator) checkFinished(a *rollout.App, r *rollout.Rollout) {
	goal := r.Release
	switch {
	case r.Status == rollout.Succeeded:
	case r.Ending != "":
		goal = r.From
	default:
		return
	}
	if a.Current != goal {
		c.w.fail("finished-proved", "%s is %s, but the current release is %s, not %s", r.ID, r.Status, a.Current, goal)
	}
	c.eachTarget(func(t *target) {
		if k := c.knows(t); appName(t.app) != a.Name || !slices.Contains(r.Order, t.id) || (k.now == serving && k.runs == goal) {
			return
		}
		if !strings.Contains(r.Text, t.place()+" is ") && !strings.Contains(r.Text, t.place()+" was ") {
			c.w.fail("finished-proved", "%s is %s (%s), but %s is not known to serve %s, and is not named", r.ID, r.Status, r.Text, t.id, goal)
		}
	})
}

// checkChange judges how a rollout's record may change.
func (c *coordinator) checkChange(old *rollout.Rollout, ch *rollout.Changed) {
	r := &ch.Rollout
	switch {
	case old.Status.Final():
		c.w.fail("final", "%s was %s and is %s", r.ID, old.Status, r.Status)
	case r.Status == rollout.RollingBack && r.Kind != rollout.Deploy:
		c.w.fail("rollback-of-rollback", "%s is a %s and is rolled back", r.ID, r.Kind)
	case old.Status == rollout.RollingBack && r.Status != rollout.RollingBack && r.Status != old.Ending && r.Reason != rollout.ReasonRemoved:
		c.w.fail("rollback-of-rollback", "%s was rolling back to end %s and is %s", r.ID, old.Ending, r.Status)
	}
}

// checkRecords judges that no rollout is forgotten.
func (c *coordinator) checkRecords() {
	open := map[rollout.RolloutID]bool{}
	for i := range c.state.Apps {
		a := &c.state.Apps[i]
		for _, r := range []*rollout.Rollout{a.Live, a.Waiting} {
			if r != nil {
				open[r.ID] = true
				if k, ok := c.index[r.ID]; !ok || !reflect.DeepEqual(c.records[k], *r) {
					c.w.fail("recorded", "%s is not recorded as it is", r.ID)
				}
			}
		}
	}
	for i := range c.records {
		if r := &c.records[i]; !r.Status.Final() && !open[r.ID] {
			c.w.fail("recorded", "%s is forgotten while it is %s", r.ID, r.Status)
		}
	}
}

// checkAccepted judges that a request might be taken, and that there is a
// rollout for it.
func (c *coordinator) checkAccepted(ev rollout.DeployRequested, known int, was *rollout.App) {
	if ev.Automatic {
		if rel := was.Release(ev.Release.ID); rel != nil && rel.Bad != nil {
			c.w.fail("bad-release", "automation deploys %s, which is bad", rel.ID)
		}
		for _, id := range ev.ContainedIn {
			if rel := was.Release(id); id == was.Current || rel.Bad != nil {
				c.w.fail("older", "automation deploys %s, which is older than %s", ev.Release.ID, id)
			}
		}
		if ev.Diverged {
			c.w.fail("diverged", "automation deploys %s, which does not contain %s", ev.Release.ID, was.Current)
		}
	}
	for _, r := range c.records[known:] {
		if r.Release == ev.Release.ID {
			return
		}
	}
	c.w.fail("accepted", "%s was taken, but no rollout is recorded for it", ev.Release.ID)
}

func (c *coordinator) stats() Stats {
	s := Stats{Steps: len(c.events), Turns: c.turns, Rollouts: len(c.records), Statuses: map[rollout.Status]int{}}
	for i := range c.records {
		s.Statuses[c.records[i].Status]++
	}
	return s
}

func describe(s *rollout.State) string {
	var b strings.Builder
	for i := range s.Apps {
		a := &s.Apps[i]
		fmt.Fprintf(&b, "%s: current %q", a.Name, a.Current)
		if r := a.Live; r != nil {
			fmt.Fprintf(&b, ", %s %s to %s, blocked %q", r.ID, r.Status, r.Release, r.Blocked)
			if r.Paused != nil {
				fmt.Fprintf(&b, ", paused: %s", r.Paused.Text)
			}
		}
		for j := range s.Targets {
			if t := &s.Targets[j]; t.App == a.Name {
				fmt.Fprintf(&b, "\n  %s %s release %q turn %d seen %+v", t.ID, t.Phase, t.Release, t.Turn, t.Seen)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
