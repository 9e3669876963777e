// Package gate takes a target out of rotation at any balancer that checks its
// members over HTTP, without a word to the balancer: the balancer polls the
// target's gate, and the gate answers 200 only while the target is meant to be
// in rotation and its app is healthy.
//
// Two parts share one small state file, so that they may live in one process or
// in two. The [Gate] answers polls, and keeps count of who polled and what was
// answered. The provider made by [New] is a [lbclient.Provider]: it closes and
// opens the gate by writing the file, and takes the gate's count of polls as
// evidence of what the balancer knows.
//
// The state survives: a gate that starts while the file says drained answers
// that it is, and one that finds no file answers as the app is. A file that
// cannot be understood counts as drained.
package gate
