package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const adminToken = "the-admin-token"

// noon is when everything in these tests happens.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time {
	t := noon.Add(-d)
	return &t
}

// fake speaks the contract for deployctl: it answers what the test set, and
// goes one step of the script further whenever somebody has seen all events.
type fake struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	status   api.Status
	rollouts []api.Rollout // newest first; the first one is live
	events   []api.Event
	logs     []api.LogLine
	plan     api.Plan
	lbs      api.Balancers
	doctor   api.Doctor
	script   []func(*fake)
	refusal  *api.Error // of actions
	fault    func(http.ResponseWriter) bool
	calls    []string      // actions, with their bodies
	idle     chan struct{} // closed when the script is over and a call is held
	idleOnce sync.Once
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, idle: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", f.reading(func(r *http.Request) any { return f.status }))
	mux.HandleFunc("GET /v1/balancers", f.reading(func(r *http.Request) any {
		name, out := r.URL.Query().Get("name"), api.Balancers{At: f.lbs.At}
		for _, b := range f.lbs.Balancers {
			if name == "" || b.Name == name {
				out.Balancers = append(out.Balancers, b)
			}
		}
		if name != "" && len(out.Balancers) == 0 {
			return &api.Error{Kind: api.ErrorNotFound, Text: "there is no balancer " + name}
		}
		return out
	}))
	mux.HandleFunc("GET /v1/doctor", f.reading(func(*http.Request) any { return f.doctor }))
	mux.HandleFunc("GET /v1/apps/{app}/rollouts", f.reading(func(r *http.Request) any {
		list := []api.Rollout{}
		for _, ro := range f.rollouts {
			if ro.App == r.PathValue("app") {
				list = append(list, ro)
			}
		}
		return list
	}))
	mux.HandleFunc("GET /v1/apps/{app}/plan", f.reading(func(r *http.Request) any {
		p := f.plan
		for _, key := range []string{"ref", "to"} {
			if name := r.URL.Query().Get(key); name != "" {
				p.Notes = append(p.Notes, "asked for "+name)
			}
		}
		if kind := r.URL.Query().Get("kind"); kind != "" && kind != p.Kind {
			return &api.Error{Kind: api.ErrorInvalid, Text: "the test has no plan of a " + kind}
		}
		return p
	}))
	mux.HandleFunc("GET /v1/rollouts/{id}", f.reading(func(r *http.Request) any {
		if ro := f.rollout(r.PathValue("id")); ro != nil {
			return *ro
		}
		return &api.Error{Kind: api.ErrorNotFound, Text: "there is no rollout " + r.PathValue("id")}
	}))
	mux.HandleFunc("GET /v1/rollouts/{id}/events", f.serveEvents)
	mux.HandleFunc("GET /v1/rollouts/{id}/logs", f.serveLogs)
	mux.HandleFunc("POST /v1/apps/{app}/{verb}", f.act)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		fault := f.fault
		f.mu.Unlock()
		switch {
		case fault != nil && fault(w):
		case r.Header.Get("Authorization") != "Bearer "+adminToken:
			reply(w, 401, &api.Error{Kind: api.ErrorUnauthorized, Text: "the token is not known"})
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (f *fake) reading(get func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		v := get(r)
		if _, failed := v.(*api.Error); failed {
			reply(w, 404, v)
			return
		}
		reply(w, 200, v)
	}
}

func (f *fake) rollout(id string) *api.Rollout {
	for i := range f.rollouts {
		if f.rollouts[i].ID == id {
			return &f.rollouts[i]
		}
	}
	return nil
}

// advance takes one step of the script, or waits for the caller to hang up when
// there is none. It is called with the lock held.
func (f *fake) advance(r *http.Request) {
	if len(f.script) > 0 {
		step := f.script[0]
		f.script = f.script[1:]
		step(f)
		return
	}
	f.idleOnce.Do(func() { close(f.idle) })
	f.mu.Unlock()
	<-r.Context().Done()
	f.mu.Lock()
}

func (f *fake) serveEvents(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	newer := func() []api.Event {
		list := []api.Event{}
		for _, e := range f.events {
			if e.Number > after && e.Rollout == r.PathValue("id") {
				list = append(list, e)
			}
		}
		return list
	}
	ro := f.rollout(r.PathValue("id"))
	if ro == nil {
		reply(w, 404, &api.Error{Kind: api.ErrorNotFound, Text: "there is no rollout " + r.PathValue("id")})
		return
	}
	if r.URL.Query().Get("wait") != "" && len(newer()) == 0 && !ro.Done {
		f.advance(r)
		ro = f.rollout(r.PathValue("id"))
	}
	reply(w, 200, api.EventPage{Rollout: *ro, Events: newer()})
}

func (f *fake) serveLogs(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := r.URL.Query()
	after, _ := strconv.ParseInt(q.Get("after"), 10, 64)
	page := func() []api.LogLine {
		list := []api.LogLine{}
		for _, l := range f.logs {
			fits := (q.Get("node") == "" || l.Node == q.Get("node")) && (q.Get("step") == "" || string(l.Step) == q.Get("step"))
			if l.Position > after && fits && len(list) < 2 { // in small pages
				list = append(list, l)
			}
		}
		return list
	}
	ro := f.rollout(r.PathValue("id"))
	if q.Get("wait") != "" && len(page()) == 0 && !ro.Done {
		f.advance(r)
	}
	lines := page()
	reply(w, 200, api.LogPage{Lines: lines, Done: ro.Done && len(lines) == 0})
}

func (f *fake) act(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	verb := r.PathValue("verb")
	f.calls = append(f.calls, strings.TrimSpace(r.PathValue("app")+" "+verb+" "+string(body)))
	switch {
	case f.refusal != nil:
		reply(w, 409, f.refusal)
	case verb == "hold" || verb == "unhold":
		for _, a := range f.status.Apps {
			if a.App == r.PathValue("app") {
				if verb == "hold" {
					var rq api.HoldRequest
					_ = json.Unmarshal(body, &rq)
					a.Hold = &api.Hold{By: rq.By, Reason: rq.Reason, At: noon}
					if rq.For > 0 {
						until := noon.Add(rq.For.D())
						a.Hold.Until = &until
					}
				}
				reply(w, 200, a)
			}
		}
	default:
		reply(w, 202, api.Accepted{Rollout: f.rollouts[0]})
	}
}

// happen returns a script's step: a line of the timeline, and what changes.
func happen(target, text string, change func(*api.Rollout)) func(*fake) {
	return func(f *fake) {
		n := int64(len(f.events) + 1)
		r := &f.rollouts[0]
		e := api.Event{Number: n, At: noon.Add(time.Duration(n) * time.Second), Rollout: r.ID, App: r.App, Kind: "status", Text: text}
		if target != "" {
			e.Target = r.App + "@" + target
		}
		f.events = append(f.events, e)
		if change != nil {
			change(r)
		}
	}
}

// phase returns a change of one target.
func phase(i int, phase, step string) func(*api.Rollout) {
	return func(r *api.Rollout) {
		targets := append([]api.RolloutTarget(nil), r.Targets...)
		targets[i].Phase, targets[i].Step, targets[i].Since = phase, step, nil
		if step != "" {
			targets[i].Since = ago(12 * time.Second)
		}
		r.Targets = targets
	}
}

// end returns a change that ends the rollout.
func end(status, reason, text string, phases ...string) func(*api.Rollout) {
	return func(r *api.Rollout) {
		r.Status, r.Reason, r.Text, r.Done, r.Finished = status, reason, text, true, ago(0)
		for i, p := range phases {
			phase(i, p, "")(r)
		}
	}
}

var (
	oldRelease = api.ReleaseRef{ID: "3f2a91c0d4e5-a1b2c3", SHA: "3f2a91c0d4e5f60718293a4b5c6d7e8f90123456", Subject: "Fix the login page", Committed: ago(26 * time.Hour), Stable: true}
	newRelease = api.ReleaseRef{ID: "9c1d2e3f4a5b-a1b2c3", SHA: "9c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f60718293", Subject: "Add search", Committed: ago(5 * time.Minute)}
)

// liveRollout is hello-3, which has just begun on three nodes.
func liveRollout() api.Rollout {
	r := api.Rollout{
		ID: "hello-3", App: "hello", Kind: "deploy", Status: "preparing", Release: newRelease, From: &oldRelease,
		By: "ann", Cause: "push to main", Created: noon.Add(-2 * time.Minute), Started: ago(90 * time.Second),
	}
	for i := 1; i <= 3; i++ {
		node := fmt.Sprintf("web%d", i)
		r.Targets = append(r.Targets, api.RolloutTarget{Target: "hello@" + node, Node: node, Phase: "preparing"})
	}
	return r
}
