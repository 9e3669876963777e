package gate

import (
	"context"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider]: it opens the gate. Another hand's
// hold stays.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	op := p.op("open")
	if err := p.decode(ctx, op, r); err != nil {
		return err
	}
	// A gate that does not answer is opened all the same, for when it does again.
	st, err := p.look(ctx, op)
	if err != nil && lbclient.ClassOf(err) != lbclient.ClassTransient {
		return err
	}
	if err := p.open(ctx, op, st); err != nil {
		return err
	}
	if st.Held {
		return p.foreign(op, st)
	}
	return nil
}

// open writes the state file, unless it says so already, and looks.
func (p *provider) open(ctx context.Context, op string, st Status) error {
	if s, err := loadState(p.cfg.File, p.cfg.Server); err != nil || s.Drained {
		if err := p.write(op, false, st); err != nil {
			return err
		}
	}
	now, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	if now.Drained || now.Unreadable != "" {
		return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
			Text: "the state file was written but the gate is not open by it: another hand changed it; " + now.words()}
	}
	return nil
}

// RejoinStatus implements [lbclient.Provider]. The target serves when its app
// is healthy and everybody who polls has been told so often enough.
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	op := p.op("look at")
	if err := p.decode(ctx, op, r); err != nil {
		return lbclient.RejoinStatus{}, err
	}
	st, err := p.look(ctx, op)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	out := lbclient.RejoinStatus{Stage: lbclient.RejoinPending, Evidence: st.words()}
	switch st.Phase() {
	case lbclient.PhaseUnknown, lbclient.PhaseForeignOut, lbclient.PhaseDraining, lbclient.PhaseAbsent:
		out.Stage = lbclient.RejoinNotAsked
	case lbclient.PhaseUnhealthy:
		out.Stage = lbclient.RejoinUnhealthy
	case lbclient.PhaseServing:
		out.Stage = lbclient.RejoinServing
	case lbclient.PhasePending:
	}
	return out, nil
}
