// Package sim is a made world that tries to break the rollout engine. It runs
// the real [rollout.Step] against nodes that lose power, agents that crash
// between any two steps, links that are cut, messages that are lost, late,
// repeated, and reordered, balancers that refuse, forget, and lie, releases
// that are bad everywhere or somewhere, or go bad later, hooks and release
// commands that fail or hang, people who pause, abort, roll back, and change the
// configuration in the middle of it, and people on the nodes, who move a current
// link, restart, stop, or run something of their own.
//
// Everything follows from a seed. A [Plan] made from it is the world's
// configuration and a list of timed operations; [Run] plays it in virtual time,
// with one event queue, no goroutine, and no wall clock. After every step the
// promises are checked; the first one that is broken ends the run as a
// [*Violation]. [Shrink] then drops operations while the same check still fails.
//
// # What the engine can know
//
// A drain is judged by two standards at once.
//
//   - By what the engine was told. The world keeps its own record of the reports
//     that reached the engine since the coordinator started: a target is spared
//     only if the newest said that it is in rotation and not unhealthy. A target
//     that was never said to be in rotation since it was configured is not
//     missed. Whoever holds a turn is out. A turn may be given only when the
//     target, and all others that are out by this record, are together no more
//     than MaxUnavailable; a target that is known to be out already costs nothing.
//   - By what is. When an agent drains a target that truly serves, the others
//     that agents took out, and have not brought back, must be fewer than
//     MaxUnavailable. Here no delay of messages is an excuse: nothing leaves
//     without a turn, and a turn ends only with its outcome.
//
// A target that crashes by itself after its last report is not the engine's
// fault; it counts from the report on, or from the moment its node is given up.
//
// # Checks
//
//   - max-unavailable, turn-number, turn-held: turns, by both standards above.
//   - asked-to-be-last: who asks for it leaves after all others, unless it is out.
//   - prepared-first: no turn before every node that takes part holds the release.
//   - one-build: where one node builds for all, no other is asked to, and all get
//     turns to the same files; so they do where differing builds are refused.
//   - waits-in-vain: no rollout waits for the build of a node that is lost, or runs
//     out of time waiting for what it knows to have failed.
//   - command-once, command-after-prepared, command-first: a release command runs
//     once in a rollout, and again only if a person asks for it; when every node
//     that takes part holds the release, and before the first turn.
//   - finished-proved: what ends well serves the right release everywhere, by the
//     newest reports, or names where it does not.
//   - rejoin-unproved: nothing rejoins on what was not found healthy.
//   - bad-release, older, diverged, held: what automation must not deploy.
//   - rollback-of-rollback, undone-by-itself, bad-undone: how a bad release goes.
//   - nobody-in-charge: with the faults over, what should serve does, or is
//     quarantined, or belongs to a paused rollout; and whatever a failed turn leaves
//     out is at once quarantined, or its rollout's to bring back.
//   - drift-shown: what a person changed on a node is shown, and nothing is said to be
//     well while it is not, or will not be after the next start.
//   - by-hand: that is brought back once, and again when a person asks for it; what is
//     no release is left alone; and nothing else is taken for another hand's work.
//   - accepted, push-lost, recorded, final, one-live: no request and no rollout is
//     forgotten, and none changes once it is over.
//   - generation: no assignment changes under its number; numbers only rise.
//   - plain-data, replay: the state is plain data, and the stored events make it.
//   - busy-clock, liveness: time moves on, and every rollout ends or says what it
//     waits for.
//   - recovers: in the end a person deploys a good release, and it serves everywhere.
//
// The runs of one schedule marshal the state at every 64th commit and whenever
// the coordinator starts; every eighth seed replays all its events.
package sim
