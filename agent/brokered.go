package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Broker carries out operations on balancers for the agent; [api.Client] is one.
type Broker interface {
	Balancer(ctx context.Context, rq api.BalancerRequest) (api.BalancerAnswer, error)
}

// Changes are numbered within a run of the agent, for the coordinator to tell a
// late one from the latest.
var (
	session = rand.Text()
	number  atomic.Uint64
)

// brokered is a provider whose operations the coordinator carries out, which has
// the credentials.
type brokered struct {
	broker Broker
	place  api.BalancerRequest // node, app, target, and balancer
	caps   lbclient.Caps       // of the last answer that told
}

// NewBrokered returns the provider for a node's own target of an app that is
// behind a balancer of the given name, spoken to through the coordinator.
func NewBrokered(b Broker, balancer, node, app, target string) lbclient.Provider {
	return &brokered{broker: b, place: api.BalancerRequest{Node: node, App: app, Target: target, Balancer: balancer}}
}

func (p *brokered) ask(ctx context.Context, op api.BalancerOp, r *lbclient.Restore, minHealthy int) (api.BalancerAnswer, error) {
	rq := p.place
	rq.Op, rq.MinHealthy = op, minHealthy
	rq.Restore = (*api.BalancerRestore)(r)
	if op.Changes() {
		rq.Session, rq.Number = session, number.Add(1)
	}
	out, err := p.broker.Balancer(ctx, rq)
	if err != nil {
		return out, p.rebuild(op, err)
	}
	if out.Caps != nil {
		p.caps = lbclient.Caps(*out.Caps)
	}
	return out, nil
}

// Caps implements [lbclient.Describer]. It claims nothing before the first
// answer, which carries what the coordinator's provider says of itself.
func (p *brokered) Caps() lbclient.Caps { return p.caps }

// Timing implements [lbclient.Timed].
func (p *brokered) Timing(ctx context.Context) (lbclient.Timing, error) {
	out, err := p.ask(ctx, api.OpTiming, nil, 0)
	if err != nil {
		return lbclient.Timing{}, err
	}
	c := out.Check
	if c == nil {
		return lbclient.Timing{}, p.missing(api.OpTiming, "check")
	}
	return lbclient.Timing{Interval: c.Interval.D(), Timeout: c.Timeout.D(), Fall: c.Fall, Rise: c.Rise}, nil
}

// op names an operation, for messages.
func (p *brokered) op(op api.BalancerOp) string {
	return fmt.Sprintf("do %s of %s at balancer %s through the coordinator", op, p.place.Target, p.place.Balancer)
}

// rebuild makes a provider's error of a refusal that the coordinator passed on,
// and of no answer at all.
func (p *brokered) rebuild(op api.BalancerOp, err error) error {
	e := &lbclient.Error{Class: lbclient.ClassTransient, Op: p.op(op), Err: err}
	var refused *api.Error
	var unreachable *api.UnreachableError
	switch {
	case errors.As(err, &refused):
		e.Err, e.After = nil, refused.After.D()
		if e.Class = classOf(refused, op); refused.Op == "" {
			e.Text = refused.Text
			break
		}
		e.Op = refused.Op
		e.Text = strings.TrimPrefix(strings.TrimPrefix(refused.Text, "cannot "+refused.Op), ": ")
	case op.Changes() && !(errors.As(err, &unreachable) && unreachable.Refused()):
		e.Class, e.Text = lbclient.ClassAmbiguous, "whether it was carried out is not known"
	}
	return e
}

// classOf is the class of a refusal: the balancer's own, or what the kind of the
// coordinator's tells.
func classOf(e *api.Error, op api.BalancerOp) lbclient.Class {
	switch c := lbclient.Class(e.Reason); c {
	case lbclient.ClassTransient, lbclient.ClassBusy, lbclient.ClassRateLimited, lbclient.ClassConflict, lbclient.ClassAmbiguous,
		lbclient.ClassNotFound, lbclient.ClassDenied, lbclient.ClassUnsupported, lbclient.ClassUnsafe, lbclient.ClassInvalid:
		return c
	}
	switch e.Kind {
	case api.ErrorUnauthorized, api.ErrorForbidden:
		return lbclient.ClassDenied
	case api.ErrorNotFound:
		return lbclient.ClassUnsupported // a coordinator of before there was a broker
	case api.ErrorInvalid, api.ErrorTooLarge:
		return lbclient.ClassInvalid
	}
	if op.Changes() {
		return lbclient.ClassAmbiguous
	}
	return lbclient.ClassTransient
}

// missing is an answer without what was asked for.
func (p *brokered) missing(op api.BalancerOp, what string) error {
	return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: p.op(op),
		Text: "the coordinator's answer has no " + what + "; are it and this agent of versions that know each other?"}
}

// Preflight implements [lbclient.Provider].
func (p *brokered) Preflight(ctx context.Context) error {
	_, err := p.ask(ctx, api.OpPreflight, nil, 0)
	return err
}

// Observe implements [lbclient.Provider]. The coordinator may answer with a look
// that it took a moment before, as the pool's time tells.
func (p *brokered) Observe(ctx context.Context) (lbclient.Pool, error) {
	out, err := p.ask(ctx, api.OpObserve, nil, 0)
	if err != nil {
		return lbclient.Pool{}, err
	}
	if out.Pool == nil {
		return lbclient.Pool{}, p.missing(api.OpObserve, "pool")
	}
	pool := lbclient.Pool{Epoch: out.Pool.Epoch, At: out.Pool.At}
	for _, m := range out.Pool.Members {
		pool.Members = append(pool.Members, lbclient.Member{Name: m.Name, Phase: knownPhase(m.Phase), InFlight: m.InFlight, Detail: m.Detail})
	}
	return pool, nil
}

// knownPhase keeps a word of a later coordinator from passing for anything good.
func knownPhase(s string) lbclient.Phase {
	p := lbclient.Phase(s)
	return lbclient.Worst(p, p)
}

// Snapshot implements [lbclient.Provider].
func (p *brokered) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	out, err := p.ask(ctx, api.OpSnapshot, nil, 0)
	if err != nil {
		return lbclient.Restore{}, err
	}
	if out.Restore == nil {
		return lbclient.Restore{}, p.missing(api.OpSnapshot, "restore")
	}
	return lbclient.Restore(*out.Restore), nil
}

// BeginDrain implements [lbclient.Provider].
func (p *brokered) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	_, err := p.ask(ctx, api.OpBeginDrain, &r, minHealthy)
	return err
}

// DrainStatus implements [lbclient.Provider].
func (p *brokered) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	out, err := p.ask(ctx, api.OpDrainStatus, &r, 0)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	if out.Drain == nil {
		return lbclient.DrainStatus{}, p.missing(api.OpDrainStatus, "drain")
	}
	st := lbclient.DrainStatus{Stage: lbclient.DrainStage(out.Drain.Stage), InFlight: out.Drain.InFlight, Epoch: out.Drain.Epoch, Evidence: out.Drain.Evidence}
	switch st.Stage {
	case lbclient.DrainNotAsked, lbclient.DrainAccepted, lbclient.DrainBusy, lbclient.DrainIdle:
		return st, nil
	}
	return lbclient.DrainStatus{}, p.missing(api.OpDrainStatus, "stage that is known")
}

// ForceIdle implements [lbclient.Forcer].
func (p *brokered) ForceIdle(ctx context.Context, r lbclient.Restore) error {
	_, err := p.ask(ctx, api.OpForceIdle, &r, 0)
	return err
}

// BeginRejoin implements [lbclient.Provider].
func (p *brokered) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	_, err := p.ask(ctx, api.OpBeginRejoin, &r, 0)
	return err
}

// RejoinStatus implements [lbclient.Provider].
func (p *brokered) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	out, err := p.ask(ctx, api.OpRejoinStatus, &r, 0)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	if out.Rejoin == nil {
		return lbclient.RejoinStatus{}, p.missing(api.OpRejoinStatus, "rejoin")
	}
	st := lbclient.RejoinStatus{Stage: lbclient.RejoinStage(out.Rejoin.Stage), Evidence: out.Rejoin.Evidence}
	switch st.Stage {
	case lbclient.RejoinNotAsked, lbclient.RejoinPending, lbclient.RejoinUnhealthy, lbclient.RejoinServing:
		return st, nil
	}
	return lbclient.RejoinStatus{}, p.missing(api.OpRejoinStatus, "stage that is known")
}

// Close implements [lbclient.Provider]. The connection is the agent's.
func (p *brokered) Close() error { return nil }
