package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

func (s *server) deploy(w http.ResponseWriter, r *http.Request) error {
	var req api.DeployRequest
	if err := read(w, r, maxAdminBody, &req); err != nil {
		return err
	}
	by, err := person(req.By)
	if err != nil {
		return err
	}
	id, err := s.Trigger.Deploy(r.Context(), chi.URLParam(r, "app"), req.Ref, by)
	if err != nil {
		return err
	}
	return s.accepted(w, r, id, nil)
}

// person is who asks; the audit needs a name.
func person(by string) (string, error) {
	by = strings.TrimSpace(by)
	switch {
	case by == "":
		return "", &api.Error{Kind: api.ErrorInvalid, Text: `"by" is missing: say who asks`}
	case by == trigger.Automation || len(by) > 100:
		return "", &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf(`"by" may not be %.100q: give a person's name of at most 100 characters`, by)}
	}
	return by, nil
}

// accepted answers with the rollout that a request began or was about, and what
// whoever asked should know.
func (s *server) accepted(w http.ResponseWriter, r *http.Request, id rollout.RolloutID, warnings []string) error {
	ro, err := s.find(r.Context(), string(id))
	if err != nil {
		return err
	}
	ro.Warnings = warnings
	return answer(w, http.StatusAccepted, api.Accepted{Rollout: *ro})
}

func (s *server) rollback(w http.ResponseWriter, r *http.Request) error {
	var req api.RollbackRequest
	if err := read(w, r, maxAdminBody, &req); err != nil {
		return err
	}
	by, err := person(req.By)
	if err != nil {
		return err
	}
	app := chi.URLParam(r, "app")
	v, err := s.view(r.Context(), app)
	if err != nil {
		return err
	}
	to, err := v.match(req.To)
	if err != nil {
		return err
	}
	effects, err := s.Runner.Apply(r.Context(), app, func(at time.Time) rollout.Event {
		return rollout.RollbackRequested{At: at, App: app, To: to, By: by}
	})
	if err != nil {
		return err
	}
	return s.accepted(w, r, trigger.Concerned(app, effects), missing(effects))
}

// match finds the release that a person names by id or by the start of its commit.
func (v *view) match(name string) (rollout.ReleaseID, error) {
	if name == "" {
		return "", nil
	}
	var found []rollout.ReleaseID
	for _, r := range v.app.Releases {
		if string(r.ID) == name {
			return r.ID, nil
		}
		if len(name) >= 7 && strings.HasPrefix(r.SHA, strings.ToLower(name)) {
			found = append(found, r.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("%s has no release %q; `deployctl rollouts %s` shows what it had (a release id, or 7 digits or more of the commit)", v.app.Name, name, v.app.Name)}
	case 1:
		return found[0], nil
	}
	// The same commit under several recipes: the newest that served.
	for i := len(found) - 1; i >= 0; i-- {
		if v.app.Release(found[i]).Stable {
			return found[i], nil
		}
	}
	return found[len(found)-1], nil
}

// actionRequest is one of the requests that only need a name and a reason.
type actionRequest struct {
	api.ActionRequest
	app string
	at  time.Time
}

// action serves a request about the app's live rollout.
func (s *server) action(event func(actionRequest) rollout.Event) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		a := actionRequest{app: chi.URLParam(r, "app")}
		if err := read(w, r, maxAdminBody, &a.ActionRequest); err != nil {
			return err
		}
		by, err := person(a.By)
		if err != nil {
			return err
		}
		a.By = by
		effects, err := s.Runner.Apply(r.Context(), a.app, func(at time.Time) rollout.Event {
			a.at = at
			return event(a)
		})
		if err != nil {
			return err
		}
		return s.accepted(w, r, trigger.Concerned(a.app, effects), nil)
	}
}

func (s *server) hold(w http.ResponseWriter, r *http.Request) error {
	var req api.HoldRequest
	if err := read(w, r, maxAdminBody, &req); err != nil {
		return err
	}
	by, err := person(req.By)
	switch {
	case err != nil:
	case strings.TrimSpace(req.Reason) == "":
		err = &api.Error{Kind: api.ErrorInvalid, Text: "a hold needs a reason, for whoever finds it"}
	case req.For < 0:
		err = &api.Error{Kind: api.ErrorInvalid, Text: "a hold cannot last less than nothing"}
	}
	if err != nil {
		return err
	}
	return s.held(w, r, func(app string, at time.Time) rollout.Event {
		ev := rollout.HoldRequested{At: at, App: app, By: by, Reason: req.Reason}
		if req.For > 0 {
			ev.Until = at.Add(req.For.D())
		}
		return ev
	})
}

func (s *server) unhold(w http.ResponseWriter, r *http.Request) error {
	var req api.ActionRequest
	if err := read(w, r, maxAdminBody, &req); err != nil {
		return err
	}
	by, err := person(req.By)
	if err != nil {
		return err
	}
	return s.held(w, r, func(app string, at time.Time) rollout.Event {
		return rollout.UnholdRequested{At: at, App: app, By: by}
	})
}

func (s *server) held(w http.ResponseWriter, r *http.Request, event func(app string, at time.Time) rollout.Event) error {
	app := chi.URLParam(r, "app")
	if _, err := s.Runner.Apply(r.Context(), app, func(at time.Time) rollout.Event { return event(app, at) }); err != nil {
		return err
	}
	v, err := s.view(r.Context(), app)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, v.status())
}
