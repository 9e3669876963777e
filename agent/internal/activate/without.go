package activate

import (
	"context"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// NoBalancer is the provider of a target that has no balancer: nothing sends it
// work that could be drained, so every operation is done at once.
func NoBalancer(server string) lbclient.Provider { return none{server} }

type none struct{ server string }

func (n none) Preflight(context.Context) error { return nil }

func (n none) Observe(context.Context) (lbclient.Pool, error) {
	m := lbclient.Member{Name: n.server, Phase: lbclient.PhaseServing, InFlight: -1, Detail: "no balancer"}
	return lbclient.Pool{Members: []lbclient.Member{m}, At: time.Now()}, nil
}

func (n none) Snapshot(context.Context) (lbclient.Restore, error) {
	return lbclient.Restore{Provider: "none", Target: n.server, Version: 1, WasServing: true}, nil
}

func (none) BeginDrain(context.Context, lbclient.Restore, int) error { return nil }

func (none) DrainStatus(context.Context, lbclient.Restore) (lbclient.DrainStatus, error) {
	return lbclient.DrainStatus{Stage: lbclient.DrainIdle, InFlight: -1, Evidence: "no balancer"}, nil
}

func (none) BeginRejoin(context.Context, lbclient.Restore) error { return nil }

func (none) RejoinStatus(context.Context, lbclient.Restore) (lbclient.RejoinStatus, error) {
	return lbclient.RejoinStatus{Stage: lbclient.RejoinServing, Evidence: "no balancer"}, nil
}

func (none) Close() error { return nil }

// Broken is the provider of a target whose balancer cannot be spoken to at all,
// as when its settings are wrong: every operation fails with err.
func Broken(err error) lbclient.Provider {
	return broken{&lbclient.Error{Class: lbclient.ClassInvalid, Op: "use the balancer", Err: err}}
}

type broken struct{ err *lbclient.Error }

func (b broken) Preflight(context.Context) error { return b.err }
func (b broken) Observe(context.Context) (lbclient.Pool, error) {
	return lbclient.Pool{}, b.err
}
func (b broken) Snapshot(context.Context) (lbclient.Restore, error) {
	return lbclient.Restore{}, b.err
}
func (b broken) BeginDrain(context.Context, lbclient.Restore, int) error { return b.err }
func (b broken) DrainStatus(context.Context, lbclient.Restore) (lbclient.DrainStatus, error) {
	return lbclient.DrainStatus{}, b.err
}
func (b broken) BeginRejoin(context.Context, lbclient.Restore) error { return b.err }
func (b broken) RejoinStatus(context.Context, lbclient.Restore) (lbclient.RejoinStatus, error) {
	return lbclient.RejoinStatus{}, b.err
}
func (b broken) Close() error { return nil }
