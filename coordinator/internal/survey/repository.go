package survey

import (
	"context"
	"sync"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
)

// repositories asks each for the branches that are deployed from it, and those of
// its submodules whether they can be read.
func (s *Survey) repositories(ctx context.Context) []api.DoctorCheck {
	each := make([][]api.DoctorCheck, len(s.cfg.Fleet.Apps))
	var wg sync.WaitGroup
	for i, a := range s.cfg.Fleet.Apps {
		wg.Go(func() {
			c := checks{area: areaRepository}
			sha, err := s.cfg.Head(ctx, a.Name)
			if err != nil {
				c.add(api.CheckProblem, a.Name, "%v", err)
			} else {
				c.add(api.CheckOK, a.Name, "branch %s is at %.7s", a.Branch, sha)
				s.modules(ctx, &c, a, sha)
			}
			each[i] = c.list
		})
	}
	wg.Wait()
	var all []api.DoctorCheck
	for _, list := range each {
		all = append(all, list...)
	}
	return all
}

// modules looks at the submodules of an app's commit.
func (s *Survey) modules(ctx context.Context, c *checks, a *config.App, sha string) {
	if s.cfg.Modules == nil {
		return
	}
	if a.Source.Via != config.ViaCoordinator {
		return // its nodes read them, each with credentials of its own
	}
	found, err := s.cfg.Modules(ctx, a.Name, sha)
	if err != nil {
		c.add(resultWithin(ctx), a.Name, "its submodules cannot be told: %v", err)
		return
	}
	fine := 0
	for _, m := range found {
		if m.Err != nil {
			c.add(resultWithin(ctx), a.Name+" submodule "+m.Path, "%s: %v; a commit that has it cannot be deployed", m.URL, m.Err)
			continue
		}
		fine++
	}
	if fine > 0 && fine == len(found) {
		c.add(api.CheckOK, a.Name, "%s can be read", count(fine, "submodule"))
	}
}

// resultWithin tells what went wrong from what there was no time for.
func resultWithin(ctx context.Context) api.CheckResult {
	if ctx.Err() != nil {
		return api.CheckUnknown
	}
	return api.CheckProblem
}
