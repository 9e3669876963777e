package exec

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginDrain implements [lbclient.Provider]. Who else serves is counted before
// and after, because two agents may ask at the same time.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	const verb = "drain"
	rec, err := p.decode(verb, r)
	if err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op(verb),
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	st, err := p.drainStatus(ctx, rec)
	if err != nil {
		return err
	}
	if st.Stage != lbclient.DrainNotAsked {
		return nil
	}
	counts, err := p.mayLeave(ctx, minHealthy)
	if err != nil {
		return err
	}
	a, told := p.with(ctx, stageDrain, rec, "LB_MIN_HEALTHY="+strconv.Itoa(minHealthy))
	if told == nil && a.notYet {
		told = busy(p.op(verb), a)
	}
	if told != nil && lbclient.ClassOf(told) != lbclient.ClassAmbiguous {
		return p.undo(ctx, rec, told)
	}
	st, err = p.drainStatus(ctx, rec)
	if err == nil && st.Stage == lbclient.DrainNotAsked {
		if told != nil {
			return told
		}
		return &lbclient.Error{Class: lbclient.ClassConflict, Op: p.op(verb),
			Text: "it says that it drained the target, and then that the balancer does not hold the drain: " + st.Evidence}
	}
	if err == nil && counts {
		err = p.enough(ctx, minHealthy)
	}
	if err != nil {
		return p.undo(ctx, rec, err)
	}
	return nil
}

// mayLeave refuses a target that is no member, that another hand holds out, or
// that would leave too few. It tells whether the others must be counted again.
func (p *provider) mayLeave(ctx context.Context, minHealthy int) (counts bool, err error) {
	const verb = "drain"
	pool, err := p.Observe(ctx)
	if unsupported(err) {
		if minHealthy == 0 {
			return false, nil
		}
		return false, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: p.op(verb),
			Text: fmt.Sprintf("%d others must serve and the program does not observe; let it, or write min_healthy: 0", minHealthy), Err: err}
	}
	if err != nil {
		return false, err
	}
	m, err := p.member(pool, verb)
	if err != nil {
		return false, err
	}
	switch m.Phase {
	case lbclient.PhaseForeignOut:
		return false, p.foreign(verb, m)
	case lbclient.PhaseUnhealthy:
		return false, nil // it gets no work, so nothing is taken away
	}
	return minHealthy > 0, p.count(pool, minHealthy)
}

func (p *provider) enough(ctx context.Context, minHealthy int) error {
	pool, err := p.Observe(ctx)
	if err != nil {
		return err
	}
	return p.count(pool, minHealthy)
}

// count refuses with ClassUnsafe when too few others serve.
func (p *provider) count(pool lbclient.Pool, minHealthy int) error {
	n := 0
	var out []string
	for _, m := range pool.Members {
		switch {
		case m.Name == p.cfg.Server:
		case m.Phase == lbclient.PhaseServing:
			n++
		default:
			out = append(out, fmt.Sprintf("%s is %s (%s)", m.Name, m.Phase, m.Detail))
		}
	}
	if n >= minHealthy {
		return nil
	}
	if len(out) == 0 {
		out = []string{"there are no more"}
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: p.op("drain"),
		Text: fmt.Sprintf("%d other members serve and %d must: %s", n, minHealthy, strings.Join(out, "; "))}
}

// undo puts the target back if the balancer holds the drain, and returns cause
// with what became of it. It works on after ctx has ended, within the timeout of
// each run, for a drain half done has nobody in charge.
func (p *provider) undo(ctx context.Context, rec record, cause error) error {
	ctx = context.WithoutCancel(ctx)
	st, err := p.drainStatus(ctx, rec)
	if err == nil && st.Stage == lbclient.DrainNotAsked {
		return cause
	}
	if err == nil {
		err = p.rejoin(ctx, rec)
	}
	note := "the drain was undone"
	if err != nil {
		note = fmt.Sprintf("it may still be drained (%v), so a rejoin must follow", err)
	}
	return lbclient.Noted(cause, note)
}

// DrainStatus implements [lbclient.Provider].
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	rec, err := p.decode("look at the drain of", r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	return p.drainStatus(ctx, rec)
}

func (p *provider) drainStatus(ctx context.Context, rec record) (lbclient.DrainStatus, error) {
	a, err := p.with(ctx, stageDrainStatus, rec)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	st, err := drainStatusOf(a)
	if err != nil {
		return lbclient.DrainStatus{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op(string(stageDrainStatus)), Err: err}
	}
	return st, nil
}

// drainStatusOf reads an answer to drain-status. Without a stage the exit code
// speaks: done is idle, not yet is busy.
func drainStatusOf(a answer) (lbclient.DrainStatus, error) {
	out := lbclient.DrainStatus{Stage: lbclient.DrainStage(a.Stage), InFlight: -1, Epoch: epoch(a.line), Evidence: evidence(a)}
	if a.InFlight != nil {
		out.InFlight = *a.InFlight
	}
	switch out.Stage {
	case "":
		out.Stage = lbclient.DrainIdle
		if a.notYet {
			out.Stage = lbclient.DrainBusy
		}
	case lbclient.DrainIdle:
		if a.notYet {
			return out, contradicts(a)
		}
	case lbclient.DrainNotAsked, lbclient.DrainAccepted, lbclient.DrainBusy:
	default:
		return out, fmt.Errorf("%q is no stage of a drain", a.Stage)
	}
	if out.Stage == lbclient.DrainIdle {
		if out.InFlight > 0 {
			return out, fmt.Errorf("it says idle with %d in flight", out.InFlight)
		}
		out.InFlight = 0
	}
	return out, nil
}

func contradicts(a answer) error {
	return fmt.Errorf("it says %s and not yet (exit code %d) at once", a.Stage, exitNotYet)
}

// evidence is a sentence for people.
func evidence(a answer) string {
	switch {
	case a.Evidence != "":
		return printable(a.Evidence)
	case a.said != "":
		return a.said
	case a.Stage != "":
		return "the program says " + a.Stage
	case a.notYet:
		return "the program says not yet"
	}
	return "the program says that it is done"
}

// ForceIdle implements [lbclient.Forcer] by the stage "force", which a program
// may leave out.
func (p *provider) ForceIdle(ctx context.Context, r lbclient.Restore) error {
	rec, err := p.decode(string(stageForce), r)
	if err != nil {
		return err
	}
	st, err := p.drainStatus(ctx, rec)
	if err != nil {
		return err
	}
	op := p.op(string(stageForce))
	if st.Stage == lbclient.DrainNotAsked {
		return &lbclient.Error{Class: lbclient.ClassConflict, Op: op, Text: "the balancer does not hold the drain: " + st.Evidence}
	}
	a, err := p.with(ctx, stageForce, rec)
	if err == nil && a.notYet {
		err = busy(op, a)
	}
	return err
}
