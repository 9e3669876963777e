package broker

import (
	"errors"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// wirePool is a pool as it travels.
func wirePool(p lbclient.Pool) *api.BalancerPool {
	out := &api.BalancerPool{Epoch: p.Epoch, At: p.At, Members: make([]api.BalancerMember, 0, len(p.Members))}
	for _, m := range p.Members {
		out.Members = append(out.Members, WireMember(m))
	}
	return out
}

// WireMember is a member as it travels.
func WireMember(m lbclient.Member) api.BalancerMember {
	return api.BalancerMember{Name: m.Name, Phase: string(m.Phase), InFlight: m.InFlight, Detail: m.Detail}
}

// wireError is a provider's error as it travels.
func wireError(err error) *api.Error {
	class := lbclient.ClassOf(err)
	e := &api.Error{Kind: kindOf(class), Reason: string(class), Text: err.Error(), After: api.Duration(lbclient.AfterOf(err))}
	var le *lbclient.Error
	// Wrapped in something else, its operation is no part of the sentence.
	if errors.As(err, &le) && le.Error() == err.Error() {
		e.Op = le.Op
	}
	return e
}

func kindOf(c lbclient.Class) api.ErrorKind {
	switch c {
	case lbclient.ClassConflict, lbclient.ClassUnsafe:
		return api.ErrorConflict
	case lbclient.ClassNotFound:
		return api.ErrorNotFound
	case lbclient.ClassDenied:
		return api.ErrorForbidden
	case lbclient.ClassUnsupported, lbclient.ClassInvalid:
		return api.ErrorInvalid
	}
	return api.ErrorUnavailable
}
