package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Where one node builds for all (see [Policy]), the others wait until its files
// are at the coordinator and take them from there. Which files a release
// consists of is settled by the first node that was asked to share it; a node
// that holds others does not hold the release.

// settleBuild decides who builds what the live rollout needs, and who takes it.
func (m *machine) settleBuild(a *App) {
	r := a.Live
	id := r.Release
	if r.Status == RollingBack {
		id = r.From
	}
	rel := a.Release(id)
	if rel == nil {
		return
	}
	mine, _ := m.asked(a, id)
	if !a.Policy.BuildOnce {
		for _, p := range mine {
			p.become(HowBuild, "")
		}
		return
	}
	if s := sharing(mine); s != nil {
		m.learnDigest(a, rel, s)
	} else if rel.Digest == "" && r.Kind == Deploy && r.Status == Preparing && a.Current != id {
		m.chooseDigest(rel, mine)
	}
	_, lacking := m.asked(a, id)
	var sharer *Placement
	archive := ""
	switch {
	case len(lacking) == 0:
	case rel.Digest != "" && slices.Contains(a.Archives, rel.Digest):
		archive = rel.Digest
	default:
		sharer = m.chooseSharer(a, rel)
	}
	if sharer != nil && (sharer.Prepare != id || sharer.How != HowShare) {
		m.askToShare(a, rel, sharer)
	}
	for _, p := range mine {
		switch {
		case p == sharer:
			m.retryPrepare(a, p)
		case !slices.Contains(lacking, p):
			if p.How != HowTake {
				p.become(HowWait, "") // nothing more to do, if it still has it
			}
		case archive != "":
			if p.How != HowTake {
				m.note(r, nil, NoteBuilt, "", "%s takes the files of %s that were built for all (%s)", p.Node, a.short(id), shortDigest(archive))
			}
			p.become(HowTake, archive)
		default:
			p.become(HowWait, "")
		}
	}
	m.watchBuilder(a, len(lacking) > 0 && archive == "" && sharer == nil)
}

// asked returns the placements that are to hold the release, and those of them
// that do not.
func (m *machine) asked(a *App, id ReleaseID) (mine, lacking []*Placement) {
	for i := range m.Placements {
		p := &m.Placements[i]
		if p.App != a.Name || p.Prepare != id {
			continue
		}
		mine = append(mine, p)
		if !m.held(p, id) {
			lacking = append(lacking, p)
		}
	}
	return mine, lacking
}

func sharing(ps []*Placement) *Placement {
	for _, p := range ps {
		if p.How == HowShare {
			return p
		}
	}
	return nil
}

// held tells whether the release is on the placement's disk, with the files
// that all are to have.
func (s *State) held(p *Placement, id ReleaseID) bool {
	if !slices.Contains(p.Present, id) {
		return false
	}
	rel, has := s.App(p.App).Release(id), p.Digests[id]
	return rel == nil || rel.Digest == "" || has == "" || has == rel.Digest
}

// chooseSharer returns the node that is to hand the release's files to the
// coordinator: one that has them, or else one that is to build them. It is nil
// while nobody can.
func (m *machine) chooseSharer(a *App, rel *Release) *Placement {
	r := a.Live
	fit := func(p *Placement) bool {
		return p != nil && m.Node(p.Node).Reach == Reachable && !slices.Contains(r.Unfit, p.Node)
	}
	mine, lacking := m.asked(a, rel.ID)
	now := sharing(mine)
	if fit(now) && m.held(now, rel.ID) {
		return now
	}
	for i := range m.Placements {
		if p := &m.Placements[i]; p.App == a.Name && fit(p) && m.held(p, rel.ID) {
			return p
		}
	}
	if fit(now) {
		return now
	}
	if a.Policy.Builder != "" {
		if p := m.Placement(a.Name, a.Policy.Builder); fit(p) {
			return p
		}
		if r.Kind == Deploy && r.Status != RollingBack {
			return nil
		}
		// It would build what served before; for that, any node is good.
	}
	for _, t := range m.targets(r) {
		if p := m.Placement(t.App, t.Node); fit(p) && slices.Contains(lacking, p) {
			return p
		}
	}
	return nil
}

// askToShare makes the placement the one that shares the release.
func (m *machine) askToShare(a *App, rel *Release, p *Placement) {
	r := a.Live
	if p.Prepare != rel.ID {
		m.prepareOn(p, rel.ID)
	}
	p.become(HowShare, "")
	if m.held(p, rel.ID) {
		m.note(r, nil, NoteBuilder, "", "%s shares %s with the others", p.Node, a.short(rel.ID))
		return
	}
	m.note(r, nil, NoteBuilder, "", "%s builds %s for all", p.Node, a.short(rel.ID))
	if r.Kind == Deploy && r.Status == Preparing && a.Current != rel.ID {
		rel.Digest = "" // nothing serves it, so nothing has to match
	}
}

// learnDigest takes what the node that shares has built.
func (m *machine) learnDigest(a *App, rel *Release, p *Placement) {
	has := p.Digests[rel.ID]
	if has == "" || p.Accepted < p.Asked || !slices.Contains(p.Present, rel.ID) || has == rel.Digest {
		return
	}
	for i := range m.Placements {
		// Who cannot be reached may serve it: what was heard last counts.
		o := &m.Placements[i]
		if rel.Digest == "" || o.App != a.Name || o == p || o.Digests[rel.ID] != rel.Digest {
			continue
		}
		if p.Failed != p.Attempt {
			m.prepareFailed(a, p, &PrepareReport{
				Release: rel.ID, Attempt: p.Attempt, Fault: NodeFault, Reason: ReasonBuildSkew,
				Text: fmt.Sprintf("what it built (%s) is not what %s has (%s)", shortDigest(has), o.Node, shortDigest(rel.Digest)),
			})
		}
		return
	}
	if rel.Digest != "" {
		m.note(a.Live, nil, NoteBuildSkew, ReasonBuildSkew, "%s built %s again, as %s; it was %s, which no node has any more",
			p.Node, a.short(rel.ID), shortDigest(has), shortDigest(rel.Digest))
	}
	rel.Digest = has
}

// chooseDigest settles the files of a release that nothing serves yet and nobody
// shares: several nodes may have built it, each for a while the one that was to.
func (m *machine) chooseDigest(rel *Release, mine []*Placement) {
	for _, p := range mine {
		if has := p.Digests[rel.ID]; has != "" && m.Node(p.Node).Reach == Reachable && p.Accepted >= p.Asked && slices.Contains(p.Present, rel.ID) {
			rel.Digest = has
			return
		}
	}
}

// shareFailed judges a node that could not build for the others.
func (m *machine) shareFailed(a *App, p *Placement, f *PrepareReport) {
	r, on := a.Live, m.targetsOn(a.Live, p.Node)
	var t *Target
	if len(on) > 0 {
		t = on[0]
	}
	m.note(r, t, NoteFailed, f.Reason, "%s cannot hand %s to the others: %s", p.Node, a.short(p.Prepare), f.Text)
	again := f.Fault != ReleaseFault && f.Reason != ReasonBuildSkew // the same would come of it
	if again && p.Tries <= a.Policy.Retries {
		p.RetryAt = m.now.Add(a.Policy.RetryBackoff * time.Duration(p.Tries))
		m.note(r, t, NoteRetry, f.Reason, "%s tries again in %s", p.Node, p.RetryAt.Sub(m.now))
		return
	}
	r.Unfit = append(r.Unfit, p.Node)
	left := false
	for _, t := range on {
		if t.Phase == TargetPreparing && r.Kind == CatchUp {
			t.Reason, t.Text = f.Reason, f.Text
			m.quarantine(a, t)
			left = true
		}
	}
	if left {
		return
	}
	if m.chooseSharer(a, a.Release(p.Prepare)) == nil && r.Kind != CatchUp {
		m.pause(r, "lockstep", ReasonNodeFault, fmt.Sprintf("%s cannot build %s for all: %s; mend the node, then `deployctl retry %s`", p.Node, a.short(p.Prepare), f.Text, a.Name))
	}
}

// watchBuilder pauses a rollout whose only builder is lost, and lets it go on
// when that is back.
func (m *machine) watchBuilder(a *App, nobody bool) {
	r, b := a.Live, a.Policy.Builder
	switch {
	case r.Paused != nil && r.Paused.Reason == ReasonBuilderLost:
		if !nobody || b == "" {
			m.unpause(a, r, "lockstep")
		}
	case !nobody || b == "" || r.Status != Preparing || r.Kind == CatchUp:
	case m.Placement(a.Name, b) == nil || m.Node(b).Reach == Unreachable:
		m.pause(r, "lockstep", ReasonBuilderLost, fmt.Sprintf("%s builds for all and is not heard of; it goes on when %s is back", b, b))
	}
}

// become changes how the placement is to come to its release.
func (p *Placement) become(how How, archive string) {
	if p.How == how && p.Archive == archive {
		return
	}
	if how != HowWait {
		p.Attempt++
		p.Tries, p.RetryAt = 0, time.Time{}
	}
	p.How, p.Archive = how, archive
}

// settleSkew compares what nodes built each for itself, and tells whether the
// rollout may go on.
func (m *machine) settleSkew(a *App) bool {
	r := a.Live
	text := m.BuildSkew(a.Name, r.Release)
	if a.Policy.BuildOnce || text == "" {
		return true
	}
	m.note(r, nil, NoteBuildSkew, ReasonBuildSkew, "the builds of %s differ: %s", a.short(r.Release), text)
	switch {
	case !a.Policy.RefuseSkew || r.Kind == Rollback:
		return true
	case r.Kind == Deploy:
		text = fmt.Sprintf("the builds of %s differ: %s", a.short(r.Release), text)
		m.markBad(a, r, r.Release, "lockstep", ReasonBuildSkew, text)
		m.finish(a, Failed, ReasonBuildSkew, text+"; nothing was touched")
		return false
	}
	for _, t := range m.targets(r) {
		if t.Phase == TargetPrepared {
			t.Reason, t.Text = ReasonBuildSkew, "its build is not that of the others: "+text
			m.quarantine(a, t)
		}
	}
	return true
}

// refuseLateBuild leaves a target for a person whose node is prepared when those of
// the others were compared already, and made other files of the release than they did.
func (m *machine) refuseLateBuild(a *App, t *Target) {
	r := a.Live
	if a.Policy.BuildOnce || !a.Policy.RefuseSkew || r.Kind != Deploy {
		return
	}
	has := m.Placement(t.App, t.Node).Digests[r.Release]
	for _, o := range m.targets(r) {
		switch theirs := m.Placement(o.App, o.Node).Digests[r.Release]; o.Phase {
		case TargetPrepared, TargetActivating, TargetActive:
			if has == "" || theirs == "" || has == theirs {
				continue
			}
			t.Reason = ReasonBuildSkew
			t.Text = fmt.Sprintf("its build (%s) is not what %s has (%s)", shortDigest(has), o.Node, shortDigest(theirs))
			m.quarantine(a, t)
			return
		}
	}
}

// BuildSkew says which nodes hold which build of the release, or "" when all
// that hold it have the same files, as far as they told.
func (s *State) BuildSkew(app string, id ReleaseID) string {
	var order []string
	nodes := map[string][]string{}
	for i := range s.Placements {
		p := &s.Placements[i]
		d := p.Digests[id]
		if p.App != app || d == "" || !slices.Contains(p.Present, id) {
			continue
		}
		if nodes[d] == nil {
			order = append(order, d)
		}
		nodes[d] = append(nodes[d], p.Node)
	}
	if len(order) < 2 {
		return ""
	}
	for i, d := range order {
		order[i] = shortDigest(d) + " on " + strings.Join(nodes[d], ", ")
	}
	return strings.Join(order, "; ")
}

// KeepArchives returns the digests of the built files that the coordinator
// should keep for the app's nodes.
func (s *State) KeepArchives(app string) []string {
	a := s.App(app)
	if a == nil {
		return nil
	}
	var keep []string
	for _, id := range s.Keep(app) {
		if rel := a.Release(id); rel != nil && rel.Digest != "" {
			keep = append(keep, rel.Digest)
		}
	}
	slices.Sort(keep)
	return slices.Compact(keep)
}

func (e Archived) apply(m *machine) error {
	a := m.App(e.App)
	if a == nil {
		return nil
	}
	a.Archives = nil
	if len(e.Digests) > 0 {
		a.Archives = slices.Compact(slices.Sorted(slices.Values(e.Digests)))
	}
	return nil
}

// shortDigest is enough of a digest for a sentence.
func shortDigest(d string) string {
	hex := strings.TrimPrefix(d, "sha256:")
	return hex[:min(12, len(hex))]
}
