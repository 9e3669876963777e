package httpapi

import (
	"context"
	"net/http"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Broker carries out agents' operations on balancers.
type Broker interface {
	Do(ctx context.Context, node string, req api.BalancerRequest) (api.BalancerAnswer, error)
}

// Survey looks over the fleet for people.
type Survey interface {
	// Balancers returns every balancer, or the one of a name.
	Balancers(ctx context.Context, name string) (api.Balancers, error)
	Doctor(ctx context.Context) api.Doctor
	// Notes says what is good to know of a deploy behind the app's balancer.
	Notes(app string) []string
}

func (s *server) balancer(w http.ResponseWriter, r *http.Request) error {
	var req api.BalancerRequest
	if err := read(w, r, maxAdminBody, &req); err != nil {
		return err
	}
	out, err := s.Broker.Do(r.Context(), nodeOf(r.Context()), req)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, out)
}

func (s *server) balancers(w http.ResponseWriter, r *http.Request) error {
	out, err := s.Survey.Balancers(r.Context(), r.URL.Query().Get("name"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, out)
}

func (s *server) doctor(w http.ResponseWriter, r *http.Request) error {
	return answer(w, http.StatusOK, s.Survey.Doctor(r.Context()))
}
