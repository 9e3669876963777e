package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// Sources are the repositories of the apps whose commits agents get from the
// coordinator.
type Sources interface {
	// Send returns a commit of the app for one who has the commits haves.
	// [ErrNoSource] tells that the app's agents are to ask the repository.
	Send(ctx context.Context, app, sha string, haves []string) (*snapshot.Sending, error)
}

// ErrNoSource tells that the coordinator sends no commits of an app.
var ErrNoSource = errors.New("the coordinator does not send the commits of this app")

// source sends a release's commit to an agent that is to prepare it. It names a
// release rather than a commit, so that a node gets only what was meant for it.
func (s *server) source(w http.ResponseWriter, r *http.Request) {
	app, id, node := chi.URLParam(r, "app"), chi.URLParam(r, "release"), nodeOf(r.Context())
	if _, ok := s.apps[app].Places[node]; !ok {
		s.fail(w, r, &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("app %q is not one of node %s", app, node)})
		return
	}
	releases, err := s.Store.Releases(r.Context(), app, id)
	if err == nil && len(releases) != 1 {
		err = &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("app %s has no release %q", app, id)}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sending, err := s.Sources.Send(r.Context(), app, releases[0].SHA, r.URL.Query()["have"])
	if err != nil {
		s.fail(w, r, sourceError(err))
		return
	}
	defer sending.Close()
	w.Header().Set("Content-Type", "application/x-git-pack")
	if _, err := sending.WriteTo(w); err != nil {
		// The answer has begun; only cutting it off tells that it is not whole.
		s.Log.Warn("Cannot send a commit", "app", app, "release", id, "node", node, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// sourceError keeps for the agent what went wrong.
func sourceError(err error) error {
	if errors.Is(err, ErrNoSource) {
		return &api.Error{Kind: api.ErrorNotFound, Text: err.Error()}
	}
	if errors.Is(err, snapshot.ErrBad) {
		return &api.Error{Kind: api.ErrorConflict, Reason: api.SourceBad, Text: err.Error()}
	}
	var f *gitremote.Failure
	if !errors.As(err, &f) {
		return err
	}
	e := &api.Error{Kind: api.ErrorUnavailable, Text: err.Error()}
	for reason, kind := range map[string]error{
		api.SourceUnknownCommit: gitremote.ErrUnknownCommit, api.SourceDenied: gitremote.ErrDenied,
		api.SourceNoRepository: gitremote.ErrNoRepository, api.SourceHostKey: gitremote.ErrHostKey,
		api.SourceUnreachable: gitremote.ErrUnreachable,
	} {
		if errors.Is(f.Kind, kind) {
			e.Reason = reason
		}
	}
	return e
}
