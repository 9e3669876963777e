package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// Pieces of archives that are carried at one time; the others take turns.
const (
	archivePieces  = 4
	archiveBacklog = 256
	archiveWait    = 20 * time.Second
)

// archiveOf returns which archive of which app an agent asks for. It must be of
// an app that the node has a part in.
func (s *server) archiveOf(r *http.Request) (app, digest string, err error) {
	app, digest = r.URL.Query().Get("app"), chi.URLParam(r, "digest")
	if !archive.IsDigest(digest) {
		return "", "", &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf("%.100q is not a digest", digest)}
	}
	node := nodeOf(r.Context())
	if _, ok := s.wanted(app, node); !ok {
		return "", "", &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("node %s has no part in app %.100q", node, app)}
	}
	return app, digest, nil
}

// wanted is what is wanted of the app on a node; false where it has no part in it.
func (s *server) wanted(app, node string) (rollout.Wanted, bool) {
	state, ok := s.Runner.View(app)
	if !ok {
		return rollout.Wanted{}, false
	}
	w, _, ok := state.Wanted(app, node)
	return w, ok
}

func (s *server) archiveState(w http.ResponseWriter, r *http.Request) error {
	app, digest, err := s.archiveOf(r)
	if err != nil {
		return err
	}
	state, err := s.Depot.State(app, digest)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, state)
}

func (s *server) archive(w http.ResponseWriter, r *http.Request) error {
	app, digest, err := s.archiveOf(r)
	if err != nil {
		return err
	}
	f, err := s.Depot.Open(app, digest)
	if errors.Is(err, fs.ErrNotExist) {
		err = &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("the coordinator does not have the archive %s of %s any more", digest, app)}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// putArchive takes a piece of an archive, and with the last one verifies it.
func (s *server) putArchive(w http.ResponseWriter, r *http.Request) error {
	app, digest, err := s.archiveOf(r)
	if err != nil {
		return err
	}
	node, release := nodeOf(r.Context()), r.URL.Query().Get("release")
	if want, _ := s.wanted(app, node); !want.Share || string(want.Prepare) != release {
		return &api.Error{Kind: api.ErrorForbidden, Text: fmt.Sprintf("node %s was not asked to share release %.100q of %s", node, release, app)}
	}
	offset, err := number(r, "offset")
	if err != nil {
		return err
	}
	state, err := s.Depot.Append(app, digest, offset, api.ArchivePiece, http.MaxBytesReader(w, r.Body, api.ArchivePiece))
	if err == nil && r.URL.Query().Get("last") != "" && !state.Complete {
		// It goes on when the agent hangs up: the call that comes again finds it done.
		if state, err = s.Depot.Finish(context.WithoutCancel(r.Context()), app, digest); err == nil {
			err = s.Archived(r.Context(), app)
		}
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, state)
}
