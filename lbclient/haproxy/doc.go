// Package haproxy drains and rejoins a target of HAProxy through its runtime
// API, the admin socket ("stats socket ... level admin"), with the standard
// library alone.
//
// A target is one server name that stands in one or several backends of one or
// several instances; each such spot is a place. All places must agree: one
// undrained place, or one instance that does not answer, means not drained.
//
// Targets are drained ("state drain") and never put into maintenance, because
// checks go on while drained, whereas a server that leaves maintenance gets work
// before its first check. HAProxy gives its answers no status, so every change
// is confirmed by reading the server's administrative state back.
//
// A reload makes HAProxy forget drains, and leaves the former process to finish
// its requests out of reach of the socket. The first is seen by reading back and
// through the epoch; the second, where HAProxy runs on the same machine, through
// /proc: while a former process lives the drain is busy, not idle.
package haproxy
