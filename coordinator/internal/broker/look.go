package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// scarce is how old a look may be while the budget is more than half spent.
const scarce = 5 * time.Second

// look is one Observe that several requests may share.
type look struct {
	version uint64
	done    chan struct{}
	// Set before done is closed.
	pool lbclient.Pool
	err  error
}

func (l *look) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// observe returns a look at the members, a recent one if there is one that no
// change came after.
func (x *balancer) observe(ctx context.Context, s *seat) (lbclient.Pool, error) {
	ctx, cancel := context.WithTimeout(ctx, x.b.cfg.AnswerWithin)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return lbclient.Pool{}, err
	}
	l := x.join(ctx, s)
	select {
	case <-l.done:
	case <-ctx.Done():
		return lbclient.Pool{}, ctx.Err()
	}
	pool := l.pool
	pool.Members = slices.Clone(pool.Members)
	return pool, l.err
}

// join returns the look under way or a recent one, or begins one.
func (x *balancer) join(ctx context.Context, s *seat) *look {
	key := s.server
	if x.cfg.SameView {
		key = ""
	}
	fresh := x.b.cfg.Fresh
	if fresh > 0 && x.budget.Tokens() < float64(x.budget.Burst())/2 {
		fresh = max(fresh, scarce)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if l := x.looks[key]; l != nil && fresh > 0 && l.version == x.version {
		if !l.over() || l.err == nil && time.Since(l.pool.At) < fresh {
			return l
		}
	}
	l := &look{version: x.version, done: make(chan struct{})}
	x.looks[key] = l
	// Not the first asker's alone: it goes on when that one is gone.
	ctx = context.WithoutCancel(ctx)
	x.b.running.Go(func() {
		defer close(l.done)
		l.err = x.read(ctx, s, func(ctx context.Context, p lbclient.Provider) (err error) {
			l.pool, err = p.Observe(ctx)
			return err
		})
	})
	return l
}

// Observe looks at the members of a balancer for the coordinator itself, as
// target server's provider sees them.
func (b *Broker) Observe(ctx context.Context, balancer, server string) (lbclient.Pool, error) {
	x := b.balancers[balancer]
	if x == nil {
		return lbclient.Pool{}, fmt.Errorf("the coordinator does not speak to a balancer %q", balancer)
	}
	return x.observe(ctx, x.seat(server))
}

// Checked is what a preflight brought.
type Checked struct {
	Timing *lbclient.Timing // nil where the balancer does not tell
	Caps   lbclient.Caps
}

// Preflight checks for the coordinator itself that a target could be drained,
// and how its balancer checks its health, where that tells.
func (b *Broker) Preflight(ctx context.Context, balancer, server string) (Checked, error) {
	x := b.balancers[balancer]
	if x == nil {
		return Checked{}, fmt.Errorf("the coordinator does not speak to a balancer %q", balancer)
	}
	var out Checked
	err := x.read(ctx, x.seat(server), func(ctx context.Context, p lbclient.Provider) error {
		if err := p.Preflight(ctx); err != nil {
			return err
		}
		switch t, err := timing(ctx, p); {
		case err == nil:
			out.Timing = &t
		case lbclient.ClassOf(err) != lbclient.ClassUnsupported:
			return err
		}
		return nil
	})
	out.Caps = b.Caps(balancer, server)
	return out, err
}

// Caps is what the provider for a target says of itself. It asks nobody.
func (b *Broker) Caps(balancer, server string) lbclient.Caps {
	x := b.balancers[balancer]
	if x == nil {
		return lbclient.Caps{}
	}
	s := x.seat(server)
	if c, known := s.caps(); known {
		return c
	}
	// One that cannot be opened claims nothing; a use of it says why.
	ctx, cancel := context.WithTimeout(context.Background(), x.b.cfg.AnswerWithin)
	defer cancel()
	_ = s.reader.use(ctx, func(context.Context, lbclient.Provider) error { return nil })
	c, _ := s.caps()
	return c
}

// timing is how the balancer checks, ClassUnsupported where it does not tell.
func timing(ctx context.Context, p lbclient.Provider) (lbclient.Timing, error) {
	if timed, ok := p.(lbclient.Timed); ok {
		return timed.Timing(ctx)
	}
	return lbclient.Timing{}, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: "read the timing of checks", Text: "the balancer cannot say"}
}
