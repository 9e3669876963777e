package exec

import (
	"context"
	"fmt"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider].
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	const verb = "rejoin"
	rec, err := p.decode(verb, r)
	if err != nil {
		return err
	}
	pool, err := p.Observe(ctx)
	if err != nil && !unsupported(err) {
		return err
	}
	for _, m := range pool.Members {
		if m.Name == p.cfg.Server && m.Phase == lbclient.PhaseForeignOut {
			return p.foreign(verb, m)
		}
	}
	return p.rejoin(ctx, rec)
}

// rejoin tells the program, and reads back. A lost answer is no failure yet.
func (p *provider) rejoin(ctx context.Context, rec record) error {
	op := p.op(string(stageRejoin))
	a, told := p.with(ctx, stageRejoin, rec)
	if told == nil && a.notYet {
		told = busy(op, a)
	}
	if told != nil && lbclient.ClassOf(told) != lbclient.ClassAmbiguous {
		return told
	}
	st, err := p.rejoinStatus(ctx, rec)
	switch {
	case err != nil:
		return err
	case st.Stage != lbclient.RejoinNotAsked:
		return nil
	case told != nil:
		return told
	}
	return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
		Text: "it says that it put the target back, and then that the balancer holds it out: " + st.Evidence}
}

// RejoinStatus implements [lbclient.Provider].
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	rec, err := p.decode("look at the rejoin of", r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	return p.rejoinStatus(ctx, rec)
}

func (p *provider) rejoinStatus(ctx context.Context, rec record) (lbclient.RejoinStatus, error) {
	a, err := p.with(ctx, stageRejoinStatus, rec)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	st, err := rejoinStatusOf(a)
	if err != nil {
		return lbclient.RejoinStatus{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op(string(stageRejoinStatus)), Err: err}
	}
	return st, nil
}

// rejoinStatusOf reads an answer to rejoin-status. Without a stage the exit code
// speaks: done is serving, not yet is pending.
func rejoinStatusOf(a answer) (lbclient.RejoinStatus, error) {
	out := lbclient.RejoinStatus{Stage: lbclient.RejoinStage(a.Stage), Evidence: evidence(a)}
	switch out.Stage {
	case "":
		out.Stage = lbclient.RejoinServing
		if a.notYet {
			out.Stage = lbclient.RejoinPending
		}
	case lbclient.RejoinServing:
		if a.notYet {
			return out, contradicts(a)
		}
	case lbclient.RejoinNotAsked, lbclient.RejoinPending, lbclient.RejoinUnhealthy:
	default:
		return out, fmt.Errorf("%q is no stage of a rejoin", a.Stage)
	}
	return out, nil
}
