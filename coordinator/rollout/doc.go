// Package rollout is the engine that walks a pool of targets to a release, one
// turn at a time. It is a pure state machine: [Step] takes a [State] and an
// [Event] and returns the next state and the [Effect]s to carry out. It reads
// no clock, draws no random number, and does no I/O; time arrives in events,
// and [State.NextDeadline] says when to send the next [Tick].
//
// One state is one pool: all apps behind one balancer, so that a single writer
// decides who may be out of rotation.
//
// # A rollout
//
//	queued ─► preparing ─► migrating ─► rolling ─► succeeded
//	             │            │            │
//	             │            │            └─► rolling_back ─► rolled_back, or aborted
//	             └────────────┴─► failed, superseded, aborted: no traffic was touched
//
// A rollout is migrating while the release command of its release runs, once and
// on one node; only a deployment of a release that has one ever is. Of a command
// whose end is unknown a person decides whether it is run again.
//
// A rollout that cannot go on without a person is paused in the phase it has
// reached. Failures are of two kinds. A reason that condemns the release (it
// does not start, is not healthy) rolls every touched target back to the release
// that was current before, or the last stable one if that is bad, and marks the
// release bad. A return that takes too long is paused as an alarm, and goes on by
// itself as soon as it can. A reason that condemns the node
// (no disk space, a balancer that refuses) is tried again a few times on that
// node, then the target is left and named, and the rollout goes on if the pool
// can spare it or pauses.
//
// # A turn
//
// A turn is a target's leave to be out of rotation. [State] holds at most
// MaxUnavailable of them, and none is given while so many other targets are
// down, unknown, or out that one more would exceed it. A turn ends only when
// the agent reports its outcome: a lost agent keeps its turn, because its
// target may be out. What the engine can know of a target is what its agent has
// reported since the coordinator started; anything else counts as out, but is
// not drained as if it were. A target that never served is not missed.
//
// # Order
//
// Targets go in configured order: node by node, and on each node instance by
// instance. The canary is the first instance of the canary's node; it goes first
// and soaks longer, its node's other instances go in their place. A target whose
// node asks that it be last goes when every other one of the rollout has gone,
// canary or not, on the way there and on the way back. It is asked again and
// again, so that what counts is who asks when the turn is given.
package rollout
