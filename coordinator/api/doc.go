// Package api is the wire contract of the coordinator: what agents and
// deployctl send and receive, and the typed client that carries it.
//
// # The agent protocol
//
// One call carries it: POST /agent/v1/sync. The agent sends its report (what
// is); the coordinator answers with the node's assignments (what should be) as
// soon as one of them has another generation than the agent holds, or after
// [LongPoll]. An assignment is state, not a message: a lost, repeated, or late
// answer changes nothing, and after a restart of either side the next sync
// brings both up to date.
//
// Rules that the agent keeps:
//
//   - It ignores an assignment whose generation is lower than the highest that
//     it has journaled for the app.
//   - Without a turn it never takes a target out of rotation, never switches a
//     release, and never restarts a unit.
//   - A turn is one attempt to activate a target. The agent journals a turn
//     before its first change, finishes it with exactly one [Outcome], also
//     journaled, and never works on a finished turn again.
//   - An assignment that carries another turn (or none) than the one in
//     progress ends the one in progress: the agent undoes it to its fallback,
//     records its outcome as [ReasonRevoked], and goes on with the new one.
//   - It prepares (fetches and builds) whatever release is asked for, at any
//     time; an attempt that failed is not repeated until its number rises.
//   - It keeps working on a journaled turn when the coordinator is away.
//
// # Times and sizes
//
// Durations travel as [Duration] strings ("30s"); instants as RFC 3339.
package api
