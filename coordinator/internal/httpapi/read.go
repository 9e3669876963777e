package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// How much one answer holds.
const (
	maxRollouts   = 50
	maxEvents     = 500
	maxDeliveries = 100
)

func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	st := api.Status{At: time.Now().UTC(), Version: s.Version, Apps: []api.AppStatus{}}
	for _, a := range s.Apps {
		v, err := s.view(r.Context(), a.Name)
		if err != nil {
			return err
		}
		st.Apps = append(st.Apps, v.status())
	}
	return answer(w, http.StatusOK, st)
}

func (s *server) deliveries(w http.ResponseWriter, r *http.Request) error {
	ds, err := s.Store.Deliveries(r.Context(), maxDeliveries)
	if err != nil {
		return err
	}
	out := []api.Delivery{}
	for _, d := range ds {
		x := api.Delivery{
			ID: d.ID, Event: d.Event, Repository: d.Repository, Ref: d.Ref, After: d.After, Sender: d.Sender,
			Received: d.Received, Apps: d.Apps, Decision: string(d.Decision), Reason: d.Reason,
		}
		for _, id := range d.Rollouts {
			x.Rollouts = append(x.Rollouts, string(id))
		}
		out = append(out, x)
	}
	return answer(w, http.StatusOK, out)
}

func (s *server) rollouts(w http.ResponseWriter, r *http.Request) error {
	app := chi.URLParam(r, "app")
	list, err := s.Store.Rollouts(r.Context(), app, maxRollouts)
	if err != nil {
		return err
	}
	read := s.past
	if len(list) == 0 {
		read = s.view
	}
	v, err := read(r.Context(), app)
	if err != nil {
		return err
	}
	out := []api.Rollout{}
	for _, c := range list {
		out = append(out, *v.rollout(c))
	}
	return answer(w, http.StatusOK, out)
}

// find returns a rollout as it stands now.
func (s *server) find(ctx context.Context, id string) (*api.Rollout, error) {
	c, err := s.Store.Rollout(ctx, rollout.RolloutID(id))
	if err != nil {
		return nil, fmt.Errorf("there is no rollout %q; `deployctl rollouts APP` lists them: %w", id, err)
	}
	v, err := s.past(ctx, c.Rollout.App)
	if err != nil {
		return nil, err
	}
	return v.rollout(c), nil
}

func (s *server) rollout(w http.ResponseWriter, r *http.Request) error {
	ro, err := s.find(r.Context(), chi.URLParam(r, "rollout"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, ro)
}

// events answers with the timeline after a number. With ?wait= it answers once
// there is a new line or a target's step changed.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	ctx, id := r.Context(), chi.URLParam(r, "rollout")
	after, err := number(r, "after")
	if err != nil {
		return err
	}
	wait, err := waiting(r)
	if err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	state := r.URL.Query().Get("state")
	for {
		news := s.Runner.News()
		ro, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		lines, err := s.Store.Timeline(ctx, rollout.RolloutID(id), after, maxEvents)
		if err != nil {
			return err
		}
		now, err := standing(ro)
		if err != nil {
			return err
		}
		if len(lines) > 0 || (state != "" && state != now) || ro.Done || wait == 0 {
			return answer(w, http.StatusOK, api.EventPage{Rollout: *ro, State: now, Events: apiEvents(lines)})
		}
		state = now
		select {
		case <-news:
		case <-timer.C:
			wait = 0
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// standing stands for how a rollout stands.
func standing(ro *api.Rollout) (string, error) {
	b, err := json.Marshal(ro)
	if err != nil {
		return "", fmt.Errorf("cannot encode rollout %s: %w", ro.ID, err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

func apiEvents(lines []store.Line) []api.Event {
	events := []api.Event{}
	for _, l := range lines {
		events = append(events, api.Event{
			Number: l.Number, At: l.At, Rollout: string(l.Rollout), App: l.App, Target: string(l.Target),
			Kind: string(l.Kind), Reason: string(l.Reason), Text: l.Text,
		})
	}
	return events
}

func (s *server) readLogs(w http.ResponseWriter, r *http.Request) error {
	ctx, id := r.Context(), chi.URLParam(r, "rollout")
	q := store.LogQuery{Rollout: rollout.RolloutID(id), Node: r.URL.Query().Get("node"), Step: api.Step(r.URL.Query().Get("step"))}
	var err error
	if q.After, err = number(r, "after"); err != nil {
		return err
	}
	wait, err := waiting(r)
	if err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		news, arrived := s.Runner.News(), s.logs.Wait()
		ro, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		lines, err := s.Store.Logs(ctx, q)
		if err != nil {
			return err
		}
		if len(lines) > 0 || ro.Done || wait == 0 {
			if lines == nil {
				lines = []api.LogLine{}
			}
			return answer(w, http.StatusOK, api.LogPage{Lines: lines, Done: ro.Done && len(lines) == 0})
		}
		select {
		case <-news:
		case <-arrived:
		case <-timer.C:
			wait = 0
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
