// Package hetznertest is a Hetzner Cloud of one project on loopback: the part of
// its API that has to do with load balancers and their servers, and load
// balancers that really balance.
//
// A balancer listens on real ports and forwards HTTP or TCP to its targets. It
// probes them as its services say, and reports what it found. Changes are
// actions that take their time; while one runs, the balancer is locked. What
// goes wrong in a real cloud can be asked for with [Cloud.Inject] and the
// options: refusals, lost answers, actions that fail, stick or vanish, a
// data plane that lags behind the API, a rate limit that others have used up.
//
// The names of fields and of errors are those of Hetzner's API, which the
// package speaks under the path /v1. It is meant for tests and demonstrations;
// it listens on 127.0.0.1 only.
package hetznertest
