package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// Sources are the repositories of the apps whose commits agents get from the
// coordinator.
type Sources interface {
	// Send returns a commit of the app for one who has the commits haves.
	// [ErrNoSource] tells that the app's agents are to ask the repository.
	Send(ctx context.Context, app, sha string, haves []string) (*snapshot.Sending, error)
	// SendLarge returns the file in Git LFS at a path of a commit of the app.
	SendLarge(ctx context.Context, app, sha, path string) (*os.File, error)
}

// ErrNoSource tells that the coordinator sends no commits of an app.
var ErrNoSource = errors.New("the coordinator does not send the commits of this app")

// sourceOf returns the release whose commit, or a part of it, an agent asks for in
// order to prepare it. It names a release rather than a commit, so that a node gets
// only what was meant for it.
func (s *server) sourceOf(r *http.Request) (app, sha string, err error) {
	app, id, node := chi.URLParam(r, "app"), chi.URLParam(r, "release"), nodeOf(r.Context())
	if _, ok := s.apps[app].Places[node]; !ok {
		return "", "", &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("app %q is not one of node %s", app, node)}
	}
	releases, err := s.Store.Releases(r.Context(), app, id)
	if err == nil && len(releases) != 1 {
		err = &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("app %s has no release %q", app, id)}
	}
	if err != nil {
		return "", "", err
	}
	return app, releases[0].SHA, nil
}

func (s *server) source(w http.ResponseWriter, r *http.Request) error {
	app, sha, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	sending, err := s.Sources.Send(r.Context(), app, sha, r.URL.Query()["have"])
	if err != nil {
		return sourceError(err)
	}
	defer sending.Close()
	w.Header().Set("Content-Type", "application/x-git-pack")
	if _, err := sending.WriteTo(w); err != nil {
		// The answer has begun; only cutting it off tells that it is not whole.
		s.Log.Warn("Cannot send a commit", "app", app, "commit", sha, "node", nodeOf(r.Context()), "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// largeFile sends a file in Git LFS of a release's commit, or the rest of it.
func (s *server) largeFile(w http.ResponseWriter, r *http.Request) error {
	app, sha, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	f, err := s.Sources.SendLarge(r.Context(), app, sha, r.URL.Query().Get("path"))
	if err != nil {
		return sourceError(err)
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// sourceError keeps for the agent what went wrong.
func sourceError(err error) error {
	if errors.Is(err, ErrNoSource) {
		return &api.Error{Kind: api.ErrorNotFound, Text: err.Error()}
	}
	switch {
	case errors.Is(err, snapshot.ErrBad), errors.Is(err, lfs.ErrTooLarge):
		return &api.Error{Kind: api.ErrorConflict, Reason: api.SourceBad, Text: err.Error()}
	case errors.Is(err, lfs.ErrNoProgram):
		return &api.Error{Kind: api.ErrorConflict, Reason: api.SourceBad, Text: "the coordinator cannot download it: install git-lfs (and git) on its machine"}
	case errors.Is(err, snapshot.ErrNotLarge):
		return &api.Error{Kind: api.ErrorNotFound, Text: err.Error()}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &api.Error{Kind: api.ErrorNoSpace, Reason: string(api.ReasonDiskFull), Text: fmt.Sprintf("the coordinator has no room for it: %v; free some of its disk", err)}
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
