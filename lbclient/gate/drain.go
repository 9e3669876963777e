package gate

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// undoTimeout bounds how long a drain is undone after its caller left.
const undoTimeout = 10 * time.Second

// BeginDrain implements [lbclient.Provider]: it closes the gate. Peers are
// counted before and after, because two agents may ask at the same time.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	op := p.op("close")
	if err := p.decode(ctx, op, r); err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	st, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	if st.Held {
		return p.foreign(op, st)
	}
	if st.Drained && st.Unreadable == "" {
		return nil
	}
	// A target that may get work takes something away, even one that the balancer
	// has no verdict on yet.
	phase := st.Phase()
	counts := !p.cfg.CapacityElsewhere && (phase == lbclient.PhaseServing || phase == lbclient.PhasePending)
	if counts {
		if err := p.enough(ctx, op, minHealthy); err != nil {
			return err
		}
	}
	if err := p.write(op, true, st); err != nil {
		return err
	}
	st, err = p.look(ctx, op)
	if err == nil && (!st.Drained || st.Unreadable != "") {
		err = &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
			Text: "the state file was written but the gate is not closed by it: another hand changed it; " + st.words()}
	}
	if err == nil && counts {
		err = p.enough(ctx, op, minHealthy)
	}
	if err != nil {
		return p.undo(ctx, st, err)
	}
	return nil
}

// enough refuses with ClassUnsafe when too few peers serve.
func (p *provider) enough(ctx context.Context, op string, minHealthy int) error {
	if minHealthy == 0 {
		return nil
	}
	serving := 0
	var out []string
	for _, m := range p.peers(ctx) {
		if m.Phase == lbclient.PhaseServing {
			serving++
			continue
		}
		out = append(out, fmt.Sprintf("%s is %s (%s)", m.Name, m.Phase, m.Detail))
	}
	if serving >= minHealthy {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	slices.Sort(out)
	if len(out) == 0 {
		out = []string{"no more peers are known"}
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
		Text: fmt.Sprintf("%d other members serve and %d must: %s", serving, minHealthy, strings.Join(out, "; "))}
}

// write writes the state file. Whoever polls now must be told.
func (p *provider) write(op string, drained bool, st Status) error {
	var who []netip.Addr
	for _, poller := range st.Pollers {
		if st.At.Sub(poller.Last) <= silence(st.Check) {
			who = append(who, poller.Address)
		}
	}
	s := state{Server: p.cfg.Server, Drained: drained, At: time.Now(), Pollers: who}
	if err := s.save(p.cfg.File); err != nil {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Text: "the state file cannot be written", Err: err}
	}
	return nil
}

// undo opens the gate that was closed when cause came up. It works on after ctx
// has ended, for a drain half done has nobody in charge.
func (p *provider) undo(ctx context.Context, st Status, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	note := "the drain was undone"
	if err := p.open(ctx, p.op("open"), st); err != nil {
		note = fmt.Sprintf("it may still be closed (%v), so a rejoin must follow", err)
	}
	return lbclient.Noted(cause, note)
}

// DrainStatus implements [lbclient.Provider]. It is never idle: what the app
// still works on is not the gate's to know.
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	op := p.op("look at")
	if err := p.decode(ctx, op, r); err != nil {
		return lbclient.DrainStatus{}, err
	}
	st, err := p.look(ctx, op)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	out := lbclient.DrainStatus{Stage: lbclient.DrainAccepted, InFlight: -1, Epoch: st.Epoch, Evidence: st.words()}
	switch {
	case !st.Drained || st.Unreadable != "":
		out.Stage = lbclient.DrainNotAsked
	case st.Refused.Done:
		out.Stage = lbclient.DrainBusy
	}
	return out, nil
}
