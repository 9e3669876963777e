package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// balancer is one balancer with the providers of its targets.
type balancer struct {
	b      *Broker
	cfg    Balancer
	budget *rate.Limiter

	changing chan struct{} // held by the change under way
	// refused is what was last not done for each target, in short. It belongs to
	// who holds changing.
	refused map[string]string

	mu    sync.Mutex
	doing string // the change under way, in words
	seats map[string]*seat
	looks map[string]*look
	// version rises when a change begins and when it ends: a look of an earlier
	// version does not tell how things stand.
	version uint64
}

// seat is one target. Looks do not wait for the target's own change: each has a
// provider of its own. A provider may remember since when something holds, and the
// one that looks is not told what the other changed, so it is opened anew then:
// what it waited out for an earlier drain says nothing of this one.
type seat struct {
	server          string
	reader, changer lane
	described       atomic.Pointer[lbclient.Caps] // once there is a provider
}

// caps is what the seat's provider says of itself; false before there is one.
func (s *seat) caps() (lbclient.Caps, bool) {
	if c := s.described.Load(); c != nil {
		return *c, true
	}
	return lbclient.Caps{}, false
}

// lane is a provider, for one goroutine at a time.
type lane struct {
	free     chan struct{}
	open     func() (lbclient.Provider, error)
	stale    atomic.Bool // the provider is to be opened anew
	provider lbclient.Provider
	// panicked is told of a panic in the provider, and returns the error for it.
	panicked func(p any) error
}

func newBalancer(b *Broker, cfg Balancer) *balancer {
	if cfg.ReadsPerSecond <= 0 {
		cfg.ReadsPerSecond = DefaultReadsPerSecond
	}
	x := &balancer{
		b: b, cfg: cfg, budget: rate.NewLimiter(rate.Limit(cfg.ReadsPerSecond), max(2, int(2*cfg.ReadsPerSecond))),
		changing: make(chan struct{}, 1), seats: map[string]*seat{}, looks: map[string]*look{}, refused: map[string]string{},
	}
	return x
}

func (x *balancer) seat(server string) *seat {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.seats[server]
	if s == nil {
		s = &seat{server: server}
		open := func() (lbclient.Provider, error) {
			p, err := x.cfg.Open(server)
			if err == nil {
				caps := lbclient.CapsOf(p)
				s.described.Store(&caps)
			}
			return p, err
		}
		lane := func(class lbclient.Class) lane {
			return lane{free: make(chan struct{}, 1), open: open, panicked: func(p any) error { return x.panicked(server, class, p) }}
		}
		s.reader, s.changer = lane(lbclient.ClassTransient), lane(lbclient.ClassAmbiguous)
		x.seats[server] = s
	}
	return s
}

func (x *balancer) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for _, s := range x.seats {
		for _, l := range []*lane{&s.reader, &s.changer} {
			l.free <- struct{}{} // for good
			if l.provider != nil {
				errs = append(errs, l.provider.Close())
			}
		}
	}
	return errors.Join(errs...)
}

// use calls f with the lane's provider, once it is free.
// A provider that panics is forgotten, for nobody knows what state it is in, and
// the next call begins with a new one.
func (l *lane) use(ctx context.Context, f func(context.Context, lbclient.Provider) error) (err error) {
	select {
	case l.free <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.free }()
	defer func() {
		if p := recover(); p != nil {
			l.provider = nil
			err = l.panicked(p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.stale.Swap(false) && l.provider != nil {
		l.provider.Close() // of what it held nothing is needed
		l.provider = nil
	}
	if l.provider == nil {
		p, err := l.open()
		if err != nil {
			return err
		}
		l.provider = p
	}
	return f(ctx, l.provider)
}

// panicked writes down a panic with where it came from. The class says what is
// known then: of a change, that it may have been carried out.
func (x *balancer) panicked(server string, class lbclient.Class, p any) error {
	x.b.cfg.Log.Error("A provider panicked", "balancer", x.cfg.Name, "server", server, "panic", p, "stack", string(debug.Stack()))
	return &lbclient.Error{Class: class, Op: fmt.Sprintf("speak to balancer %s for %s", x.cfg.Name, server),
		Text: fmt.Sprintf("deploy-coordinator made a mistake (panic: %v), of which its log has the stack; please report it", p)}
}

// read takes a look that the budget has room for.
func (x *balancer) read(ctx context.Context, s *seat, f func(context.Context, lbclient.Provider) error) error {
	ctx, cancel := context.WithTimeout(ctx, x.b.cfg.AnswerWithin)
	defer cancel()
	if err := x.spend(ctx); err != nil {
		return err
	}
	return s.reader.use(ctx, f)
}

func (x *balancer) spend(ctx context.Context) error {
	if err := x.budget.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &lbclient.Error{Class: lbclient.ClassRateLimited, Op: "look at balancer " + x.cfg.Name,
			Text: fmt.Sprintf("the coordinator takes %.3g looks a second at it, and more are asked for", x.cfg.ReadsPerSecond)}
	}
	return nil
}

// change carries out one change, after those before it. It goes on when the
// request that asked for it is given up, so that none is left half done.
func (x *balancer) change(ctx context.Context, s *seat, req api.BalancerRequest, r lbclient.Restore) error {
	timer := time.NewTimer(x.b.cfg.AnswerWithin)
	defer timer.Stop()
	what := fmt.Sprintf("%s of %s", req.Op, req.Target)
	select {
	case x.changing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return &lbclient.Error{Class: lbclient.ClassBusy, Op: "begin the " + what,
			Text: fmt.Sprintf("another change of balancer %s is under way: %s", x.cfg.Name, x.underWay())}
	}
	begun := time.Now()
	if err := x.admit(ctx, req); err != nil {
		x.audit(req, begun, err)
		<-x.changing
		return err
	}
	x.turnOver(what)
	s.reader.stale.Store(true)
	done := make(chan error, 1)
	x.b.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
		defer cancel()
		err := s.changer.use(ctx, func(ctx context.Context, p lbclient.Provider) error { return x.apply(ctx, p, req, r) })
		x.audit(req, begun, err)
		s.reader.stale.Store(true)
		x.turnOver("")
		<-x.changing
		done <- err
	})
	unfinished := &lbclient.Error{Class: lbclient.ClassAmbiguous, Op: "see the end of the " + what,
		Text: "it is still being carried out; look again"}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return unfinished
	case <-timer.C:
		return unfinished
	}
}

// admit refuses what may not be done now. It is asked when the change's time has
// come, for what the engine says may be another thing by then.
func (x *balancer) admit(ctx context.Context, req api.BalancerRequest) error {
	if err := ctx.Err(); err != nil {
		return err // nobody waits for it
	}
	if req.Op != api.OpBeginRejoin {
		if err := x.b.mayLeave(req); err != nil {
			return err
		}
	}
	return x.b.orders.take(req)
}

func (x *balancer) apply(ctx context.Context, p lbclient.Provider, req api.BalancerRequest, r lbclient.Restore) error {
	switch req.Op {
	case api.OpBeginDrain:
		if req.MinHealthy < 0 {
			return p.BeginDrain(ctx, r, req.MinHealthy) // which says what is wrong with it
		}
		return p.BeginDrain(ctx, r, max(x.cfg.MinHealthy, req.MinHealthy))
	case api.OpBeginRejoin:
		return p.BeginRejoin(ctx, r)
	}
	f, ok := p.(lbclient.Forcer)
	if !ok {
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: "end by force the work of " + req.Target,
			Text: fmt.Sprintf("balancer %s has no means to", x.cfg.Name)}
	}
	return f.ForceIdle(ctx, r)
}

// turnOver makes looks that were taken before be taken again.
func (x *balancer) turnOver(doing string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.version++
	x.doing = doing
}

func (x *balancer) underWay() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.doing == "" {
		return "it has just ended"
	}
	return x.doing
}

// audit writes down every change and every refusal of one, in the log and in the
// timeline of the target's rollout. There, what an agent asks for again and again
// while it is refused for one reason stands once. The caller holds x.changing.
func (x *balancer) audit(req api.BalancerRequest, begun time.Time, err error) {
	took := time.Since(begun).Round(time.Millisecond)
	log := x.b.cfg.Log.With("balancer", x.cfg.Name, "node", req.Node, "app", req.App, "target", req.Target, "op", req.Op, "took", took)
	note := rollout.BalancerAsked{App: req.App, Target: rollout.TargetID(req.Target)}
	asked := fmt.Sprintf("%s asked for %s of %s at %s", req.Node, req.Op, req.Target, x.cfg.Name)
	if err != nil {
		class := lbclient.ClassOf(err)
		log.Warn("Balancer not changed as asked", "class", class, "error", err)
		short := fmt.Sprintf("%s %s", req.Op, class)
		if x.refused[req.Target] == short {
			return
		}
		x.refused[req.Target] = short
		note.Class, note.Text = rollout.Reason(class), fmt.Sprintf("%s: not done (%s): %v", asked, class, err)
	} else {
		log.Info("Balancer changed")
		delete(x.refused, req.Target)
		note.Text = fmt.Sprintf("%s: done in %s", asked, took)
	}
	_, failed := x.b.cfg.Engine.Apply(context.Background(), req.App, func(at time.Time) rollout.Event {
		note.At = at
		return note
	})
	var unknown *rollout.Refused // the app is gone, and with it its timeline
	if failed != nil && !errors.As(failed, &unknown) {
		log.Error("Cannot write a change of a balancer to the timeline", "error", failed)
	}
}
