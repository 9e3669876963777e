package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// settlePreparing waits until every node that can be reached holds the release.
// Nothing is drained before.
func (m *machine) settlePreparing(a *App) {
	r := a.Live
	ready, waiting := 0, 0
	for _, t := range m.targets(r) {
		switch m.settlePrepare(a, t); {
		case a.Live == nil:
			return // it failed
		case t.Phase == TargetPrepared:
			ready++
		case t.Phase == TargetPreparing:
			waiting++
		}
	}
	if waiting == 0 && ready == 0 && r.Kind == CatchUp {
		m.finish(a, Failed, ReasonNodeFault, "nothing could catch up: "+strings.Join(m.left(r), "; "))
		return
	}
	if waiting > 0 || ready == 0 || r.Paused != nil {
		return
	}
	if r.Status == Preparing && !m.settleSkew(a) {
		return
	}
	if !m.settleCommand(a) {
		return
	}
	m.status(r, Rolling, "", "")
	r.Deadline = m.now.Add(a.Policy.ProgressTimeout)
	m.settleRolling(a)
}

// settlePrepare follows one target's node in fetching and building.
func (m *machine) settlePrepare(a *App, t *Target) {
	r := a.Live
	p := m.Placement(t.App, t.Node)
	switch {
	case t.Phase == TargetUnreachable && m.present(t):
		m.rest(t, TargetPreparing)
	case t.Phase == TargetPreparing && m.Node(t.Node).Reach == Unreachable:
		m.rest(t, TargetUnreachable)
		t.Reason, t.Text = ReasonUnreachable, "its agent is not heard of"
		if !m.beside(r, t, TargetUnreachable) {
			m.note(r, t, NoteLost, ReasonUnreachable, "%s cannot be reached; it catches up when it returns", t.Node)
		}
	}
	if t.Phase == TargetPrepared && !m.holds(t, r.Release) {
		m.rest(t, TargetPreparing) // the node has lost it
	}
	if t.Phase != TargetPreparing {
		return
	}
	// What a node held before it knew that it is to hold it is no proof.
	if p.Accepted >= p.Asked && m.holds(t, r.Release) {
		m.rest(t, TargetPrepared)
		if !m.beside(r, t, TargetPrepared) {
			m.note(r, t, NotePrepared, "", "%s is prepared on %s", a.short(r.Release), t.Node)
		}
		if r.Status != Preparing {
			m.refuseLateBuild(a, t)
		}
		return
	}
	m.retryPrepare(a, p)
}

// beside tells whether another of the rollout's targets on the same node is in
// the phase: what concerns the node is said once.
func (m *machine) beside(r *Rollout, t *Target, phase Phase) bool {
	return slices.ContainsFunc(m.targetsOn(r, t.Node), func(o *Target) bool { return o != t && o.Phase == phase })
}

// retryPrepare asks again for what failed, when its time has come.
func (m *machine) retryPrepare(a *App, p *Placement) {
	if p.Failed == p.Attempt && p.Tries <= a.Policy.Retries && !m.now.Before(p.RetryAt) && a.Live.Paused == nil {
		p.Attempt++
		p.RetryAt = time.Time{}
	}
}

// prepareFailed judges a failed attempt to prepare, for all targets on the node
// that wait for it.
func (m *machine) prepareFailed(a *App, p *Placement, f *PrepareReport) {
	r := a.Live
	p.Failed = f.Attempt
	p.Tries++
	if r == nil {
		return
	}
	on := m.targetsOn(r, p.Node)
	if p.How == HowShare && (f.Fault != ReleaseFault || len(on) == 0) {
		m.shareFailed(a, p, f)
		return
	}
	var waiting []*Target
	for _, t := range on {
		anew := t.Phase == TargetUnreachable || (t.Phase == TargetPrepared && !m.holds(t, p.Prepare))
		if anew && r.Status != RollingBack {
			m.rest(t, TargetPreparing) // the same report tells that it is back, or has lost the release
		}
		if t.Phase == TargetPreparing || t.Phase == TargetReverting {
			t.Reason, t.Text = f.Reason, f.Text
			waiting = append(waiting, t)
		}
	}
	if len(waiting) == 0 {
		return
	}
	t := waiting[0]
	m.note(r, t, NoteFailed, f.Reason, "cannot prepare %s on %s: %s", a.short(p.Prepare), p.Node, f.Text)
	switch {
	case r.Kind == CatchUp && (f.Fault == ReleaseFault || p.Tries > a.Policy.Retries):
		for _, t := range waiting {
			m.quarantine(a, t)
		}
	case f.Fault == ReleaseFault && r.Status == Preparing:
		if r.Kind == Deploy {
			m.markBad(a, r, r.Release, "lockstep", f.Reason, f.Text)
		}
		m.finish(a, Failed, f.Reason, fmt.Sprintf("cannot prepare %s on %s: %s; nothing was touched", a.short(r.Release), p.Node, f.Text))
	case p.Tries <= a.Policy.Retries:
		p.RetryAt = m.now.Add(a.Policy.RetryBackoff * time.Duration(p.Tries))
		m.note(r, t, NoteRetry, f.Reason, "%s tries again in %s", p.Node, p.RetryAt.Sub(m.now))
	default:
		m.pause(r, "lockstep", ReasonNodeFault, fmt.Sprintf("cannot prepare %s on %s: %s; mend the node, then `deployctl retry %s`", a.short(p.Prepare), p.Node, f.Text, a.Name))
	}
}

// targetsOn returns the rollout's targets on the node.
func (m *machine) targetsOn(r *Rollout, node string) []*Target {
	return slices.DeleteFunc(m.targets(r), func(t *Target) bool { return t.Node != node })
}
