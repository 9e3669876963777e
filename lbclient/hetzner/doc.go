// Package hetzner drains and rejoins a target of a Hetzner Cloud Load Balancer
// through the cloud's API, on hcloud-go.
//
// The product knows no drain. A target leaves rotation in one of two ways. In
// [ModeGate] nothing is changed at the cloud: the target's own health endpoint
// fails (another provider's work, joined to this one by [lbclient.Multi]), and
// this package tells when the balancer has noticed. In [ModeRemove] the target's
// membership is removed and later put back with every attribute it had.
//
// A target is a server, an IP address, or a server that a label selector picks.
// A selector picks many servers, so it is never removed: such a target can be
// drained in gate mode only. Neither can a target that is a member both by
// itself and through a selector, for its removal would change nothing.
//
// A change is an action that the cloud carries out later. It counts as done when
// the action has succeeded and the balancer, read back, says so. What neither
// the API nor Hetzner's documentation tells is what becomes of connections in
// flight; the provider never claims that a target is idle.
package hetzner
