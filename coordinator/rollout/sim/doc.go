// Package sim is a made world that tries to break the rollout engine. It runs
// the real [rollout.Step] against nodes that lose power, agents that crash
// between any two steps, links that are cut, messages that are lost, late,
// repeated, and reordered, balancers that refuse, forget, and lie, releases
// that are bad everywhere or somewhere, and people who pause, abort, roll back,
// and change the configuration in the middle of it.
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
//   - one-build: where one node builds for all, all get turns to the same files.
//   - command-once, command-after-prepared, command-first: a release command runs
//     once in a rollout, and again only if a person asks for it; when every node
//     that takes part holds the release, and before the first turn.
//   - finished-proved: what ends well serves the right release everywhere, by the
//     newest reports, or names where it does not.
//   - rejoin-unproved: nothing rejoins on what was not found healthy.
//   - bad-release, older, diverged, held: what automation must not deploy.
//   - rollback-of-rollback, undone-by-itself, bad-undone: how a bad release goes.
//   - nobody-in-charge: with the faults over, what should serve does, or is
//     quarantined, or belongs to a paused rollout.
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
