package broker

import (
	"sync"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// orders remembers each target's last change, so that a request which was held
// up on its way does not undo what came after it.
type orders struct {
	mu   sync.Mutex
	last map[string]order // by target
}

type order struct {
	session string
	number  uint64
	former  string // the session before
}

// take admits a change unless a later one of the same agent was admitted.
func (o *orders) take(req api.BalancerRequest) error {
	if req.Session == "" {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.last[req.Target]
	if req.Session == l.former || req.Session == l.session && req.Number <= l.number {
		return &lbclient.Error{Class: lbclient.ClassConflict, Op: string(req.Op) + " " + req.Target,
			Text: "the request was overtaken by a later one; look again"}
	}
	if req.Session != l.session {
		l.former = l.session
	}
	l.session, l.number = req.Session, req.Number
	o.last[req.Target] = l
	return nil
}
