package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

func (s *server) sync(w http.ResponseWriter, r *http.Request) error {
	var req api.SyncRequest
	if err := read(w, r, api.MaxSyncBytes, &req); err != nil {
		return err
	}
	node := nodeOf(r.Context())
	if req.Node != node {
		return &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("the token belongs to node %s, but the agent calls itself %q; set name: %s in agent.yaml or give it its own token", node, req.Node, node)}
	}
	wait := api.LongPoll
	if !req.Wait {
		wait = 0
	}
	placements, err := s.Runner.Sync(r.Context(), node, &req, wait)
	if err != nil {
		return err
	}
	resp := api.SyncResponse{Assignments: make([]api.Assignment, 0, len(placements))}
	for _, p := range placements {
		a, err := s.assignment(r.Context(), node, p)
		if err != nil {
			return err
		}
		resp.Assignments = append(resp.Assignments, a)
	}
	return answer(w, http.StatusOK, resp)
}

// assignment joins what the engine wants with the app's configuration and the
// releases that it names.
func (s *server) assignment(ctx context.Context, node string, p runner.Placement) (api.Assignment, error) {
	app := s.apps[p.App]
	place := app.Places[node]
	a := api.Assignment{
		App: p.App, Generation: p.Generation, Spec: place.Spec, KeepReleases: app.KeepReleases,
		Rollout: string(p.Wanted.Rollout), Keep: []string{}, Releases: []api.Release{}, Targets: []api.Goal{},
	}
	for _, id := range p.Wanted.Keep {
		a.Keep = append(a.Keep, string(id))
	}
	named := a.Keep
	if p.Wanted.Prepare != "" {
		a.Prepare = &api.Prepare{Release: string(p.Wanted.Prepare), Attempt: p.Wanted.Attempt, Archive: p.Wanted.Archive, Share: p.Wanted.Share}
		named = append(named[:len(named):len(named)], a.Prepare.Release)
	}
	if c := p.Wanted.Command; c.Number != 0 {
		a.Command = &api.Command{Release: string(c.Release), Number: c.Number, Go: c.Go}
	}
	for _, t := range p.Wanted.Targets {
		g := place.Goals[t.Instance]
		g.Target, g.Release, g.Fallback = string(t.Target), string(t.Release), string(t.Fallback)
		g.Turn, g.Soak = t.Turn, api.Duration(t.Soak)
		a.Targets = append(a.Targets, g)
	}
	if len(named) == 0 {
		return a, nil
	}
	rels, err := s.Store.Releases(ctx, p.App, named...)
	if err != nil {
		return a, fmt.Errorf("cannot read the releases of %s: %w", p.App, err)
	}
	for _, rel := range rels {
		a.Releases = append(a.Releases, apiRelease(rel))
	}
	return a, nil
}

func apiRelease(r store.Release) api.Release {
	return api.Release{ID: r.ID, SHA: r.SHA, Subject: r.Subject, Recipe: r.Recipe}
}

func (s *server) appendLogs(w http.ResponseWriter, r *http.Request) error {
	var req api.LogRequest
	if err := read(w, r, api.MaxSyncBytes, &req); err != nil {
		return err
	}
	node := nodeOf(r.Context())
	if req.Node != node {
		return &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("the token belongs to node %s, not to %q", node, req.Node)}
	}
	for _, c := range req.Chunks {
		if len(c.Data) > api.MaxLogChunk {
			return &api.Error{Kind: api.ErrorTooLarge, Text: fmt.Sprintf("log chunk %d of %s is larger than %d bytes", c.Number, c.Step, api.MaxLogChunk)}
		}
	}
	if err := s.Store.AppendLogs(r.Context(), node, req.Chunks); err != nil {
		return err
	}
	s.logs.Ring()
	w.WriteHeader(http.StatusNoContent)
	return nil
}
