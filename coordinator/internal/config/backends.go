package config

import "slices"

// readBackends reads which of its HAProxy's backends are the app's own, where
// other apps of the pool have others.
func (a *App) readBackends(v value) {
	b := a.Balancer
	switch {
	case b == nil || b.HAProxy == nil:
		v.fail("only an app behind a balancer of type haproxy has backends; leave it out")
		return
	case b.Via != ViaAgent:
		v.fail("a balancer with via: coordinator is drained in all of its backends at once; leave it out, or write via: agent at balancers.%s", b.Name)
		return
	}
	const write = "backends of the app's balancer"
	for _, item := range v.items("[web]") {
		s, ok := item.text(write)
		switch {
		case !ok:
		case !slices.Contains(b.HAProxy.Backends, s):
			item.fail("%s is no backend of balancers.%s; write %s, or add it there", quoted(s), b.Name, either(b.HAProxy.Backends))
		case slices.Contains(a.Backends, s):
			item.fail("%s is given twice; remove one", quoted(s))
		default:
			a.Backends = append(a.Backends, s)
		}
	}
}
