// Package survey looks over the whole fleet for people: how every balancer
// stands, and everything that a deploy would need. It changes nothing.
package survey

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Engine is the runner.
type Engine interface {
	View(app string) (rollout.State, bool)
	Contact(node string) runner.Contact
}

// Broker speaks to the balancers with via: coordinator.
type Broker interface {
	Observe(ctx context.Context, balancer, server string) (lbclient.Pool, error)
	Preflight(ctx context.Context, balancer, server string) (broker.Checked, error)
	Caps(balancer, server string) lbclient.Caps
}

// Config is what a survey looks at.
type Config struct {
	Fleet  *config.Fleet // that the coordinator runs with
	Engine Engine
	Broker Broker
	// Head asks an app's repository for its branch's commit.
	Head func(ctx context.Context, app string) (string, error)
	// Modules tries the repository of each submodule of an app's commit; nil tries
	// none.
	Modules func(ctx context.Context, app, sha string) ([]Module, error)
	// Recipe returns that of a release.
	Recipe func(ctx context.Context, app string, id rollout.ReleaseID) (api.Recipe, error)
	// Reload reads the fleet file again.
	Reload  func() (*config.Fleet, error)
	Version string
}

// Survey looks over a fleet. Its methods are safe for concurrent use.
type Survey struct{ cfg Config }

// New returns a survey.
func New(cfg Config) *Survey { return &Survey{cfg} }

// Balancers returns every balancer as it is seen now, or the one of a name. The
// error is an [*api.Error] when there is none of that name.
func (s *Survey) Balancers(ctx context.Context, name string) (api.Balancers, error) {
	all := s.cfg.Fleet.Balancers
	if name != "" {
		b := s.cfg.Fleet.Balancer(name)
		if b == nil {
			return api.Balancers{}, &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("there is no balancer %q: %s", name, s.names())}
		}
		all = []*config.Balancer{b}
	}
	out := api.Balancers{Balancers: make([]api.BalancerStatus, len(all))}
	var wg sync.WaitGroup
	for i, b := range all {
		wg.Go(func() { out.Balancers[i] = s.balancer(ctx, b) })
	}
	wg.Wait()
	out.At = time.Now().UTC()
	return out, nil
}

func (s *Survey) names() string {
	var names []string
	for _, b := range s.cfg.Fleet.Balancers {
		names = append(names, b.Name)
	}
	if len(names) == 0 {
		return "fleet.yaml names none"
	}
	return "there is " + strings.Join(names, ", ")
}

// place is a target where it stands in its balancer.
type place struct {
	target rollout.TargetID
	app    string
	node   string
	server string
}

// places are the targets behind a balancer, in the order of the file.
func (s *Survey) places(b *config.Balancer) []place {
	var out []place
	for _, a := range s.cfg.Fleet.Apps {
		if a.Balancer != b {
			continue
		}
		for _, p := range a.Places() {
			out = append(out, place{rollout.TargetName(a.Name, p.Node, p.Instance), a.Name, p.Node, b.Server(p)})
		}
	}
	return out
}

func (s *Survey) balancer(ctx context.Context, b *config.Balancer) api.BalancerStatus {
	st := api.BalancerStatus{
		Name: b.Name, Type: b.Type, Via: string(b.Via), MinHealthy: b.MinHealthy,
		Apps: []string{}, Members: []api.BalancerMemberStatus{},
	}
	places := s.places(b)
	for _, p := range places {
		if !slices.Contains(st.Apps, p.app) {
			st.Apps = append(st.Apps, p.app)
		}
	}
	if len(places) == 0 {
		st.Problem = "no app is behind it"
		return st
	}
	var members []api.BalancerMember
	if b.Via == config.ViaCoordinator {
		members = s.look(ctx, &st, places)
		if b.Gate != nil {
			members = s.withGates(members, places)
		}
	} else {
		members = s.reported(&st, places)
	}
	s.join(&st, members, places)
	return st
}

// look asks the balancer itself.
func (s *Survey) look(ctx context.Context, st *api.BalancerStatus, places []place) []api.BalancerMember {
	st.Source = "coordinator"
	pool, err := s.cfg.Broker.Observe(ctx, st.Name, places[0].server)
	if err != nil {
		st.Problem = err.Error()
		return nil
	}
	at := pool.At.UTC()
	st.Seen = &at
	var members []api.BalancerMember
	for _, m := range pool.Members {
		members = append(members, broker.WireMember(m))
	}
	return members
}

// withGates adds what each target's gate says of itself, as its agent last told:
// a balancer that checks a closed gate finds the target unhealthy, and only the
// node knows why.
func (s *Survey) withGates(members []api.BalancerMember, places []place) []api.BalancerMember {
	for _, p := range places {
		i := slices.IndexFunc(members, func(m api.BalancerMember) bool { return m.Name == p.server })
		if i < 0 {
			continue
		}
		phase, detail := s.gate(p)
		m := &members[i]
		if m.Phase == string(lbclient.PhaseUnhealthy) && (phase == lbclient.PhaseDraining || phase == lbclient.PhaseForeignOut) {
			m.Phase = string(phase)
		}
		if detail != "" {
			m.Detail += "; " + detail
		}
	}
	return members
}

// gate is how the gate at a place stands. An agent that works on a turn looks at
// nothing else, and tells how far it is instead.
func (s *Survey) gate(p place) (phase lbclient.Phase, detail string) {
	for _, a := range s.cfg.Engine.Contact(p.node).Apps {
		if a.App != p.app {
			continue
		}
		for _, t := range a.Targets {
			if t.Target != string(p.target) || t.Turn == 0 {
				continue
			}
			if t.Rotation == api.RotationDraining || t.Rotation == api.RotationOut {
				return lbclient.PhaseDraining, t.Detail
			}
			return lbclient.PhaseUnknown, t.Detail
		}
		r := a.Balancer
		if r == nil {
			continue
		}
		if r.Failed != nil {
			return lbclient.PhaseUnknown, "its gate: " + r.Failed.Text
		}
		for _, m := range r.Members {
			if m.Name == p.server {
				return lbclient.Phase(m.Phase), m.Detail
			}
		}
	}
	return lbclient.PhaseUnknown, ""
}

// reported takes the newest look of the agents that speak to the balancer.
func (s *Survey) reported(st *api.BalancerStatus, places []place) []api.BalancerMember {
	var newest *api.BalancerReport
	var failed []string
	for _, p := range places {
		r := s.report(p)
		if r == nil {
			continue
		}
		if r.Failed != nil {
			if text := p.node + ": " + r.Failed.Text; !slices.Contains(failed, text) {
				failed = append(failed, text)
			}
		}
		if !r.At.IsZero() && (newest == nil || r.At.After(newest.At)) {
			newest, st.Source = r, p.node
		}
	}
	st.Problem = strings.Join(failed, "; ")
	if newest == nil {
		if st.Problem == "" {
			st.Problem = "no agent has told yet how it stands"
		}
		return nil
	}
	if newest.Omitted > 0 {
		st.Problem = strings.TrimPrefix(st.Problem+fmt.Sprintf("; %d more members are not shown", newest.Omitted), "; ")
	}
	at := newest.At.UTC()
	st.Seen = &at
	return newest.Members
}

// report is what the agent at a place last told of its balancer.
func (s *Survey) report(p place) *api.BalancerReport {
	for _, a := range s.cfg.Engine.Contact(p.node).Apps {
		if a.App == p.app {
			return a.Balancer
		}
	}
	return nil
}

// join says which targets the members are, and adds those that are none.
func (s *Survey) join(st *api.BalancerStatus, members []api.BalancerMember, places []place) {
	index := map[string]int{}
	for _, m := range members {
		index[m.Name] = len(st.Members)
		st.Members = append(st.Members, api.BalancerMemberStatus{BalancerMember: m, Targets: []string{}})
	}
	for _, p := range places {
		i, known := index[p.server]
		if !known {
			i = len(st.Members)
			index[p.server] = i
			m := api.BalancerMember{Name: p.server, Phase: string(lbclient.PhaseAbsent), InFlight: -1, Detail: "the balancer has no member of this name"}
			if st.Seen == nil {
				m.Phase, m.Detail = string(lbclient.PhaseUnknown), "not seen"
			}
			st.Members = append(st.Members, api.BalancerMemberStatus{BalancerMember: m, Targets: []string{}})
		}
		m := &st.Members[i]
		m.Targets = append(m.Targets, string(p.target))
		if state, ok := s.cfg.Engine.View(p.app); ok {
			if t := state.Target(p.target); t != nil && t.Turn != 0 {
				m.Turn = true
			}
		}
	}
}
