// Package store says what the coordinator keeps: the pools with their events
// and timelines, the releases, the webhook deliveries, and the step logs. The
// packages below it implement [Store]; storetest is the contract they share.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	// ErrConflict: the pool's version is no longer the one that the commit was
	// made from, so another writer came between. Load it again.
	ErrConflict = errors.New("changed by another writer")
	// ErrClosed: the store was closed before the call.
	ErrClosed = errors.New("the store is closed")
)

// DefaultLimit is how many rows a limit of 0 or less stands for.
const DefaultLimit = 1000

// Store keeps the coordinator's state. Every method is atomic and durable when
// it returns nil; after a crash at any instant each call has happened wholly or
// not at all. Methods are safe for concurrent use. Instants come back in UTC
// without a monotonic reading. When a writing call ends because its context
// did, whether it happened is not known: read again.
type Store interface {
	// Load returns a pool and its version; ErrNotFound before its first Commit.
	Load(ctx context.Context, pool string) (rollout.State, int64, error)
	// Pools returns the names of all pools that were ever committed, sorted.
	Pools(ctx context.Context) ([]string, error)
	// Commit stores one step of a pool in one transaction: its state under the
	// next version, the event, the changed rollouts, and the timeline. It
	// returns the new version, or ErrConflict.
	Commit(ctx context.Context, c Commit) (int64, error)

	// Rollouts returns an app's rollouts, newest first.
	Rollouts(ctx context.Context, app string, limit int) ([]rollout.Changed, error)
	// Rollout returns one rollout as of its last change, or ErrNotFound.
	Rollout(ctx context.Context, id rollout.RolloutID) (rollout.Changed, error)
	// Timeline returns lines of a rollout with a higher number than after, oldest first.
	Timeline(ctx context.Context, id rollout.RolloutID, after int64, limit int) ([]Line, error)

	// PutRelease records a release of an app; one that is recorded is left as it is.
	PutRelease(ctx context.Context, app string, r Release) error
	// Releases returns the named releases of an app that are recorded; all when
	// none is named, newest first.
	Releases(ctx context.Context, app string, ids ...string) ([]Release, error)

	// Receive records a delivery unless its id is recorded already; then it
	// returns the recorded one and true.
	Receive(ctx context.Context, d Delivery) (Delivery, bool, error)
	// Resolve records what became of a delivery, or ErrNotFound.
	Resolve(ctx context.Context, id string, decision Decision, reason string, rollouts []rollout.RolloutID) error
	// Pending returns the deliveries with decision Accepted, oldest first.
	Pending(ctx context.Context) ([]Delivery, error)
	// Deliveries returns the newest deliveries, newest first.
	Deliveries(ctx context.Context, limit int) ([]Delivery, error)

	// AppendLogs stores chunks of a node's step output. A chunk that is stored
	// already (same node, app, rollout, step, number) is left as it is.
	AppendLogs(ctx context.Context, node string, chunks []api.LogChunk) error
	// Logs returns stored chunks in the order in which they arrived.
	Logs(ctx context.Context, q LogQuery) ([]api.LogLine, error)

	// Prune deletes events, resolved deliveries, and finished rollouts older than
	// before; timelines and logs go with their rollout, and by their own age when
	// they belong to none. It never deletes a pool, a release, or the newest
	// rollout of an app. The age of a log is that of its arrival: nodes' clocks
	// are not to be trusted with it.
	Prune(ctx context.Context, before time.Time) error
	// Ping tells whether the store can be read and written.
	Ping(ctx context.Context) error
	Close() error
}

// Commit is one step of a pool.
type Commit struct {
	Version int64 // that the step was made from; 0 for a new pool
	State   rollout.State
	Event   rollout.Event
	Effects []rollout.Effect
}

// Line is one line of a rollout's timeline. Numbers rise over all rollouts.
type Line struct {
	Number int64
	rollout.Noted
}

// Release is one commit built by one recipe.
type Release struct {
	ID        string
	SHA       string
	Subject   string
	Committed time.Time // author's clock; zero when unknown
	Recipe    api.Recipe
	Recorded  time.Time
}

// Decision is what became of a delivery.
type Decision string

// Decisions. Accepted is the only one that is not final.
const (
	Accepted Decision = "accepted" // recorded, branch head to be read
	Ignored  Decision = "ignored"  // concerns no app, with the reason
	Deployed Decision = "deployed" // led to the rollouts named
	Refused  Decision = "refused"  // by the engine, with the reason
)

// Delivery is one webhook delivery.
type Delivery struct {
	ID         string // X-GitHub-Delivery
	Event      string
	Repository string // full name
	Ref        string
	After      string
	Sender     string
	Received   time.Time
	Apps       []string // that it concerns
	Decision   Decision
	Reason     string
	Rollouts   []rollout.RolloutID
}

// LogQuery selects step output.
type LogQuery struct {
	Rollout rollout.RolloutID
	Node    string   // "" for all
	Step    api.Step // "" for all
	After   int64    // position
	Limit   int      // chunks; 0 for 1000
}
