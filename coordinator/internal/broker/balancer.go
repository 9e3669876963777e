package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// balancer is one balancer with the providers of its targets.
type balancer struct {
	b      *Broker
	cfg    Balancer
	budget *rate.Limiter

	changing chan struct{} // held by the change under way

	mu    sync.Mutex
	doing string // the change under way, in words
	seats map[string]*seat
	looks map[string]*look
	// version rises when a change begins and when it ends: a look of an earlier
	// version does not tell how things stand.
	version uint64
}

// seat is one target. Looks do not wait for the target's own change: each has a
// provider of its own, since what there is to remember is in the Restore.
type seat struct {
	server          string
	reader, changer lane
}

// lane is a provider, for one goroutine at a time.
type lane struct {
	free     chan struct{}
	open     func() (lbclient.Provider, error)
	provider lbclient.Provider
}

func newBalancer(b *Broker, cfg Balancer) *balancer {
	if cfg.ReadsPerSecond <= 0 {
		cfg.ReadsPerSecond = DefaultReadsPerSecond
	}
	x := &balancer{
		b: b, cfg: cfg, budget: rate.NewLimiter(rate.Limit(cfg.ReadsPerSecond), max(2, int(2*cfg.ReadsPerSecond))),
		changing: make(chan struct{}, 1), seats: map[string]*seat{}, looks: map[string]*look{},
	}
	return x
}

func (x *balancer) seat(server string) *seat {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.seats[server]
	if s == nil {
		open := func() (lbclient.Provider, error) { return x.cfg.Open(server) }
		s = &seat{
			server:  server,
			reader:  lane{free: make(chan struct{}, 1), open: open},
			changer: lane{free: make(chan struct{}, 1), open: open},
		}
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
func (l *lane) use(ctx context.Context, f func(context.Context, lbclient.Provider) error) error {
	select {
	case l.free <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.free }()
	if err := ctx.Err(); err != nil {
		return err
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
	done := make(chan error, 1)
	x.b.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
		defer cancel()
		err := s.changer.use(ctx, func(ctx context.Context, p lbclient.Provider) error { return x.apply(ctx, p, req, r) })
		x.audit(req, begun, err)
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

// audit writes down every change and every refusal of one.
func (x *balancer) audit(req api.BalancerRequest, begun time.Time, err error) {
	log := x.b.cfg.Log.With("balancer", x.cfg.Name, "node", req.Node, "app", req.App, "target", req.Target, "op", req.Op,
		"took", time.Since(begun).Round(time.Millisecond))
	if err != nil {
		log.Warn("Balancer not changed as asked", "class", lbclient.ClassOf(err), "error", err)
		return
	}
	log.Info("Balancer changed")
}
