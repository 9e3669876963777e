// Package broker carries out the agents' operations on balancers to which only
// the coordinator speaks, so that no web server holds a cloud's credentials.
//
// An agent may act for the targets on its own node, and may drain one only while
// the engine gives it a turn. Changes to one balancer come one after the other,
// each is written to the log and to its rollout's timeline, and the number of
// others that must serve is the configuration's. Looks share a budget for each balancer, and equal ones that
// come close together are one.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Defaults of [Config] and [Balancer].
const (
	DefaultReadsPerSecond = 20
	DefaultFresh          = 500 * time.Millisecond
	// DefaultAnswerWithin is less than agents wait for an answer.
	DefaultAnswerWithin = 8 * time.Second
)

// changeTimeout bounds a change, which outlives the request that asked for it.
const changeTimeout = time.Minute

// Balancer is a balancer to which the coordinator speaks.
type Balancer struct {
	Name string
	// MinHealthy is how many others the balancer itself must see serving before
	// one is drained.
	MinHealthy int
	// Open makes the provider for a target, by the target's name in the balancer.
	// It holds the credentials. It is called several times for each target.
	Open func(server string) (lbclient.Provider, error)
	// Server is the name in the balancer of whatever runs on a node, as the
	// instance of that name, "" for the only one.
	Server func(node, instance string) string
	// WayBackOnly: agents speak to it themselves. It is here for those that began a
	// turn while the coordinator spoke to it, and must put their target back.
	WayBackOnly bool
	// SameView tells that Observe shows the same members by the same names
	// whichever target the provider is for, so that one look serves all.
	SameView bool
	// ReadsPerSecond is how many looks may be taken on average, and twice as many
	// at once; 0 means [DefaultReadsPerSecond].
	ReadsPerSecond float64
}

// App is where an app stands.
type App struct {
	Name     string
	Balancer string
	Servers  map[rollout.TargetID]string // the names in the balancer
}

// Engine tells which targets have a turn, and keeps the timelines of their
// rollouts; the runner is one.
type Engine interface {
	View(app string) (rollout.State, bool)
	Apply(ctx context.Context, app string, make func(at time.Time) rollout.Event) ([]rollout.Effect, error)
}

// Config is what a broker is made of.
type Config struct {
	Balancers []Balancer
	Apps      []App // behind one of Balancers
	Engine    Engine
	Log       *slog.Logger
	// Fresh is how old a look may be that is used for another Observe; 0 means
	// [DefaultFresh], and less than 0 that none is used twice.
	Fresh time.Duration
	// AnswerWithin is how long a request may take before it is told to ask again;
	// 0 means [DefaultAnswerWithin].
	AnswerWithin time.Duration
}

// Broker carries out operations. Its methods are safe for concurrent use.
type Broker struct {
	cfg       Config
	apps      map[string]App
	balancers map[string]*balancer
	orders    orders
	running   sync.WaitGroup // changes and looks, which outlive their requests
}

// New prepares a broker. It calls no balancer yet.
func New(cfg Config) *Broker {
	if cfg.Fresh == 0 {
		cfg.Fresh = DefaultFresh
	}
	if cfg.AnswerWithin == 0 {
		cfg.AnswerWithin = DefaultAnswerWithin
	}
	b := &Broker{cfg: cfg, apps: map[string]App{}, balancers: map[string]*balancer{}, orders: orders{last: map[string]order{}}}
	for _, x := range cfg.Balancers {
		b.balancers[x.Name] = newBalancer(b, x)
	}
	for _, a := range cfg.Apps {
		if x := b.balancers[a.Balancer]; x != nil && !x.cfg.WayBackOnly {
			b.apps[a.Name] = a
		}
	}
	return b
}

// Close waits for what is under way and closes the providers. There must be no
// request any more.
func (b *Broker) Close() error {
	b.running.Wait()
	var errs []error
	for _, x := range b.balancers {
		errs = append(errs, x.close())
	}
	return errors.Join(errs...)
}

// Do carries out an operation for the agent of node, to whom the request's
// token belongs. Its errors are of type [*api.Error].
func (b *Broker) Do(ctx context.Context, node string, req api.BalancerRequest) (api.BalancerAnswer, error) {
	x, s, err := b.place(node, req)
	if err != nil {
		return api.BalancerAnswer{}, err
	}
	out, err := b.carryOut(ctx, x, s, req)
	if err != nil {
		return api.BalancerAnswer{}, wireError(err)
	}
	return out, nil
}

// place finds what the request is about, if that is the node's to ask for.
func (b *Broker) place(node string, req api.BalancerRequest) (*balancer, *seat, error) {
	refuse := func(format string, args ...any) error {
		return &api.Error{Kind: api.ErrorForbidden, Reason: string(lbclient.ClassDenied), Text: fmt.Sprintf(format, args...)}
	}
	if req.Node != node {
		return nil, nil, refuse("the token belongs to node %s, not to %q", node, req.Node)
	}
	a, ok := b.apps[req.App]
	instance, own := instanceOf(req, node)
	server, placed := a.Servers[rollout.TargetID(req.Target)]
	elsewhere := own && (!placed || req.Balancer != "" && req.Balancer != a.Balancer)
	if x := b.balancers[req.Balancer]; elsewhere && x != nil && x.cfg.Server != nil && wayBack(req.Op) {
		return x, x.seat(x.cfg.Server(node, instance)), nil
	}
	switch {
	case elsewhere && placed && wayBack(req.Op) && b.balancers[req.Balancer] == nil:
		return nil, nil, refuse("there is no balancer %q in fleet.yaml any more, so %s cannot be put back there; put it back into the file and restart deploy-coordinator", req.Balancer, req.Target)
	case !ok:
		return nil, nil, refuse("app %q is behind no balancer that the coordinator speaks to", req.App)
	case !own:
		return nil, nil, refuse("node %s may act only for its own targets of %s, not for %q", node, req.App, req.Target)
	case !placed:
		return nil, nil, refuse("app %s has no target %s", req.App, req.Target)
	}
	x := b.balancers[a.Balancer]
	return x, x.seat(server), nil
}

// instanceOf tells which instance of the app on the node the request's target
// is, "" for the only one, and whether it is one of the node's at all.
func instanceOf(req api.BalancerRequest, node string) (instance string, own bool) {
	rest, ok := strings.CutPrefix(req.Target, string(rollout.TargetName(req.App, node, "")))
	instance, several := strings.CutPrefix(rest, ":")
	return instance, ok && (rest == "" || several && instance != "")
}

// wayBack tells whether the operation belongs to a target's way back into
// rotation. An agent may finish that also when in mid-turn its app was taken out
// of the configuration or put behind another balancer, or the balancer was left
// to the agents, for else nobody would.
func wayBack(op api.BalancerOp) bool {
	return op == api.OpDrainStatus || op == api.OpBeginRejoin || op == api.OpRejoinStatus
}

// carryOut does what the request asks for. Its errors are those of providers.
func (b *Broker) carryOut(ctx context.Context, x *balancer, s *seat, req api.BalancerRequest) (out api.BalancerAnswer, err error) {
	var r lbclient.Restore
	switch req.Op {
	case api.OpPreflight, api.OpObserve, api.OpSnapshot, api.OpTiming:
	case api.OpBeginDrain, api.OpDrainStatus, api.OpForceIdle, api.OpBeginRejoin, api.OpRejoinStatus:
		if req.Restore == nil {
			return out, &lbclient.Error{Class: lbclient.ClassInvalid, Op: fmt.Sprintf("%s %s", req.Op, req.Target), Text: "the request has no restore"}
		}
		r = lbclient.Restore(*req.Restore)
	default:
		return out, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: fmt.Sprintf("do %q for %s", req.Op, req.Target),
			Text: "this coordinator knows no such operation; update deploy-coordinator"}
	}
	switch req.Op {
	case api.OpObserve:
		pool, err := x.observe(ctx, s)
		if err != nil {
			return out, err
		}
		out.Pool = wirePool(pool)
	case api.OpPreflight:
		err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) error { return p.Preflight(ctx) })
	case api.OpTiming:
		err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) error {
			t, err := timing(ctx, p)
			out.Check = &api.BalancerCheck{Interval: api.Duration(t.Interval), Timeout: api.Duration(t.Timeout), Fall: t.Fall, Rise: t.Rise}
			return err
		})
	case api.OpSnapshot:
		err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) error {
			r, err := p.Snapshot(ctx)
			if err == nil {
				out.Restore = (*api.BalancerRestore)(&r)
			}
			return err
		})
	case api.OpDrainStatus:
		err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) error {
			st, err := p.DrainStatus(ctx, r)
			out.Drain = &api.BalancerDrain{Stage: string(st.Stage), InFlight: st.InFlight, Epoch: st.Epoch, Evidence: st.Evidence}
			return err
		})
	case api.OpRejoinStatus:
		err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) error {
			st, err := p.RejoinStatus(ctx, r)
			out.Rejoin = &api.BalancerRejoin{Stage: string(st.Stage), Evidence: st.Evidence}
			return err
		})
	default:
		err = x.change(ctx, s, req, r)
	}
	if caps, known := s.caps(); known {
		out.Caps = (*api.BalancerCaps)(&caps)
	}
	return out, err
}

// mayLeave refuses with ClassUnsafe unless the engine gives the target a turn.
func (b *Broker) mayLeave(req api.BalancerRequest) error {
	state, ok := b.cfg.Engine.View(req.App)
	if t := state.Target(rollout.TargetID(req.Target)); ok && t != nil && t.Turn != 0 {
		return nil
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: "drain " + req.Target,
		Text: "no rollout gives it a turn to be out of rotation"}
}
