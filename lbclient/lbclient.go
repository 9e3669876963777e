// Package lbclient is the vocabulary in which Lockstep speaks to load
// balancers: one small interface, implemented once for each product.
//
// A [Provider] acts for one target. Its operations are single, non-blocking,
// idempotent, and confirmed by reading back; the caller owns waits and
// deadlines. What could not be read is [PhaseUnknown], which is never good.
package lbclient

import (
	"context"
	"encoding/json"
	"time"
)

// Phase is how a target stands in its balancer.
type Phase string

// Phases, from the worst to the best of what is known.
const (
	PhaseUnknown    Phase = "unknown"     // unreadable or contradictory; never treated as good
	PhaseAbsent     Phase = "absent"      // not a member
	PhaseForeignOut Phase = "foreign_out" // out by another hand: maintenance, weight 0
	PhaseUnhealthy  Phase = "unhealthy"   // admitted, but the balancer finds it down
	PhasePending    Phase = "pending"     // admitted, no verdict yet
	PhaseDraining   Phase = "draining"    // told to get nothing new
	PhaseServing    Phase = "serving"     // admitted and healthy
)

// Member is one member of a pool as its balancer sees it. A target with several
// places (backends, instances) stands as its worst place does.
type Member struct {
	Name     string
	Phase    Phase
	InFlight int64  // requests and connections; -1 when the balancer cannot say
	Detail   string // the balancer's own words
}

// Pool is what a fresh look at the balancer shows.
type Pool struct {
	Members []Member
	// Epoch changes when the balancer may have forgotten what it was told:
	// a reload, a restart, a failover.
	Epoch string
	At    time.Time
}

// Restore is everything needed to put a target back exactly as it stood. The
// caller journals it before the first change. It holds no secret.
type Restore struct {
	Provider   string          `json:"provider"`
	Target     string          `json:"target"`
	Version    int             `json:"version"`
	WasServing bool            `json:"was_serving"`
	Data       json.RawMessage `json:"data,omitempty"`
}

// DrainStage is how far a drain has come.
type DrainStage string

// Drain stages, in order.
const (
	DrainNotAsked DrainStage = "not_asked" // the balancer does not hold the drain (any more): ask again
	DrainAccepted DrainStage = "accepted"  // told, not yet effective everywhere
	DrainBusy     DrainStage = "busy"      // nothing new arrives, work in flight remains
	DrainIdle     DrainStage = "idle"      // nothing new, nothing in flight
)

// DrainStatus is one look at a drain.
type DrainStatus struct {
	Stage    DrainStage
	InFlight int64 // -1 when the balancer cannot say
	Epoch    string
	Evidence string // one sentence for people
}

// RejoinStage is how far a rejoin has come.
type RejoinStage string

// Rejoin stages.
const (
	RejoinNotAsked  RejoinStage = "not_asked" // the balancer still (or again) holds it out: ask again
	RejoinPending   RejoinStage = "pending"   // admitted, not yet called healthy
	RejoinUnhealthy RejoinStage = "unhealthy" // admitted, called unhealthy
	RejoinServing   RejoinStage = "serving"   // admitted and healthy by the balancer's own word
)

// RejoinStatus is one look at a rejoin.
type RejoinStatus struct {
	Stage    RejoinStage
	Evidence string
}

// Provider drains and rejoins one target of one balancer. All methods may be
// called again after any failure or restart and are safe for use by one
// goroutine at a time. Errors are of type [*Error].
type Provider interface {
	// Preflight checks, without changing anything, that the balancer can be
	// reached and that the target is a member of a kind that can be drained.
	Preflight(ctx context.Context) error
	// Observe takes a fresh look at every member of the target's pool.
	Observe(ctx context.Context) (Pool, error)
	// Snapshot records how the target stands. ClassUnsafe when it is out by
	// another hand, ClassNotFound when it is no member.
	Snapshot(ctx context.Context) (Restore, error)
	// BeginDrain asks for no new work and confirms by reading back that the
	// balancer holds the drain. It refuses with ClassUnsafe, changing nothing,
	// when the target serves and fewer than minHealthy others do.
	BeginDrain(ctx context.Context, r Restore, minHealthy int) error
	// DrainStatus looks at how far the drain is.
	DrainStatus(ctx context.Context, r Restore) (DrainStatus, error)
	// BeginRejoin puts back every attribute of r and confirms by reading back.
	BeginRejoin(ctx context.Context, r Restore) error
	// RejoinStatus looks at how far the rejoin is.
	RejoinStatus(ctx context.Context, r Restore) (RejoinStatus, error)
	// Close releases connections. It changes nothing at the balancer.
	Close() error
}
