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
package sim
