// Package quiesce adds the kernel's word to a balancer that cannot count what
// is in flight: who is connected to the target's ports, and who spoke last.
//
// [Wrap] turns a drain that is "busy, nobody knows how much" into an idle one
// when no connection works any more. A connection works while the peer spoke
// last and waits for an answer, while bytes wait to be read or sent, and until
// it has been silent for a quiet window. Connections that appear after nothing
// new was promised mean that the target is not drained at all.
//
// The evidence comes from INET_DIAG, which any user may ask, of the network
// namespace that this process is in: it must run on the target's own node, and
// sees nothing of a container with a network of its own.
package quiesce
