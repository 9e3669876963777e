// Package httpapi serves the coordinator's HTTP interface: the agents' sync and
// logs, what deployctl asks for, the webhook, /healthz, and /metrics.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/bell"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/depot"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Bounds of what is taken in.
const (
	maxAdminBody = 1 << 20
	// Deliveries may have 25 MiB each, so only a few large ones may be read at
	// once. Nearly all are small; many of those share the cost of being stored.
	smallWebhook  = 256 << 10
	smallWebhooks = 256
	largeWebhooks = 4
	// How many more may wait for the others, and for how long.
	webhookBacklog = 1024
	// GitHub gives up on an answer after 10 s and does not try again.
	webhookWait = 8 * time.Second
)

// App is what the interface must know of an app's configuration.
type App struct {
	Name         string
	KeepReleases int
	Recipe       api.Recipe
	Places       map[string]Place // by node
	LastIf       string           // as in [api.Spec]
	// RecipeFile is what a commit may set MaySet of the recipe by; "" for nothing.
	RecipeFile string
	MaySet     []string
}

// Place is an app on one node.
type Place struct {
	Spec api.Spec
	// Goals are what tells its targets there apart, by instance; that of the only
	// one is "".
	Goals map[string]api.Goal
}

// Config is what the interface is made of.
type Config struct {
	Apps    []App
	Runner  *runner.Runner
	Trigger *trigger.Trigger
	Store   store.Store
	Webhook http.Handler
	Metrics http.Handler
	Broker  Broker
	Depot   *depot.Depot
	// Archived tells the engine that archives of the app came or went.
	Archived func(ctx context.Context, app string) error
	Survey   Survey
	Sources  Sources
	Tokens   *Tokens
	Version  string
	Log      *slog.Logger
}

type server struct {
	Config
	apps map[string]App
	logs *bell.Bell // rung when step output arrives
}

// New returns the handler of everything.
func New(cfg Config) http.Handler {
	s := &server{Config: cfg, apps: map[string]App{}, logs: bell.New()}
	for _, a := range cfg.Apps {
		s.apps[a.Name] = a
	}
	r := chi.NewRouter()
	r.Use(s.recoverer)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &api.Error{Kind: api.ErrorNotFound, Text: fmt.Sprintf("there is nothing at %s", r.URL.Path)})
	})
	r.Get("/healthz", s.serve(s.healthz))
	r.Method(http.MethodGet, "/metrics", cfg.Metrics)
	r.Method(http.MethodPost, "/webhook/github", throttled(cfg.Webhook))
	r.Route("/agent/v1", func(r chi.Router) {
		r.Use(s.asAgent)
		r.Post("/sync", s.serve(s.sync))
		r.Post("/logs", s.serve(s.appendLogs))
		r.Post("/balancer", s.serve(s.balancer))
		r.Get("/archives/{digest}/state", s.serve(s.archiveState))
		r.Group(func(r chi.Router) {
			r.Use(middleware.ThrottleBacklog(archivePieces, archiveBacklog, archiveWait))
			r.Get("/archives/{digest}", s.serve(s.archive))
			r.Put("/archives/{digest}", s.serve(s.putArchive))
		})
		r.Get("/source/{app}/{release}", s.serve(s.source))
		r.Get("/source/{app}/{release}/large", s.serve(s.largeFile))
	})
	r.Route("/v1", func(r chi.Router) {
		r.Use(s.asAdmin)
		r.Get("/status", s.serve(s.status))
		r.Get("/deliveries", s.serve(s.deliveries))
		r.Get("/balancers", s.serve(s.balancers))
		r.Get("/doctor", s.serve(s.doctor))
		r.Route("/apps/{app}", func(r chi.Router) {
			r.Get("/rollouts", s.serve(s.rollouts))
			r.Get("/plan", s.serve(s.plan))
			r.Post("/deploy", s.serve(s.deploy))
			r.Post("/rollback", s.serve(s.rollback))
			r.Post("/retry", s.serve(s.action(func(a actionRequest) rollout.Event {
				return rollout.RetryRequested{At: a.at, App: a.app, By: a.By}
			})))
			r.Post("/pause", s.serve(s.action(func(a actionRequest) rollout.Event {
				return rollout.PauseRequested{At: a.at, App: a.app, By: a.By, Reason: a.Reason}
			})))
			r.Post("/resume", s.serve(s.action(func(a actionRequest) rollout.Event {
				return rollout.ResumeRequested{At: a.at, App: a.app, By: a.By}
			})))
			r.Post("/abort", s.serve(s.action(func(a actionRequest) rollout.Event {
				return rollout.AbortRequested{At: a.at, App: a.app, By: a.By, Reason: a.Reason}
			})))
			r.Post("/hold", s.serve(s.hold))
			r.Post("/unhold", s.serve(s.unhold))
		})
		r.Get("/rollouts/{rollout}", s.serve(s.rollout))
		r.Get("/rollouts/{rollout}/events", s.serve(s.events))
		r.Get("/rollouts/{rollout}/logs", s.serve(s.readLogs))
	})
	return r
}

// throttled bounds the memory that deliveries take together, whoever sends them.
func throttled(webhook http.Handler) http.Handler {
	small := middleware.ThrottleBacklog(smallWebhooks, webhookBacklog, webhookWait)(webhook)
	large := middleware.ThrottleBacklog(largeWebhooks, webhookBacklog, webhookWait)(webhook)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength >= 0 && r.ContentLength <= smallWebhook {
			small.ServeHTTP(w, r)
			return
		}
		large.ServeHTTP(w, r)
	})
}

func (s *server) healthz(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.Ping(r.Context()); err != nil {
		return &api.Error{Kind: api.ErrorUnavailable, Text: fmt.Sprintf("the database does not answer: %v", err)}
	}
	return answer(w, http.StatusOK, map[string]string{"status": "ok", "version": s.Version})
}

// recoverer turns a panic of one request into an answer; the others go on.
func (s *server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler {
					panic(v)
				}
				s.Log.Error("A request panicked", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				s.fail(w, r, errors.New("the coordinator made a mistake; its log tells more"))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// endpoint answers a request, or returns what went wrong before it has.
type endpoint func(w http.ResponseWriter, r *http.Request) error

// serve answers also what went wrong.
func (s *server) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := e(w, r); err != nil {
			s.fail(w, r, err)
		}
	}
}

// answer sends v as JSON. An error is of the coordinator's own making, and nothing
// was sent then.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client is gone when this fails; there is nobody left to tell.
	_, _ = w.Write(append(body, '\n'))
	return nil
}

// fail answers with what went wrong; what is nobody's mistake is also logged.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	if e.Kind == api.ErrorInternal {
		s.Log.Error("Cannot answer a request", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	_ = answer(w, statusOf(e.Kind), e) // which can always be encoded
}

// asError is the one place where errors become answers.
func asError(err error) *api.Error {
	var (
		e       *api.Error
		refused *rollout.Refused
		large   *http.MaxBytesError
		remote  *mirror.RemoteError
	)
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &refused) && refused.Code == rollout.RefusedUnknownApp:
		return &api.Error{Kind: api.ErrorNotFound, Reason: string(refused.Code), Text: refused.Text}
	case errors.As(err, &refused):
		return &api.Error{Kind: api.ErrorConflict, Reason: string(refused.Code), Text: refused.Text}
	case errors.As(err, &large):
		return &api.Error{Kind: api.ErrorTooLarge, Text: fmt.Sprintf("the request is larger than %d bytes", large.Limit)}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, mirror.ErrUnknownRef):
		return &api.Error{Kind: api.ErrorNotFound, Text: err.Error()}
	case errors.As(err, &remote):
		// It is the repository that does not answer, for whatever reason.
		return &api.Error{Kind: api.ErrorUnavailable, Text: err.Error()}
	case errors.Is(err, mirror.ErrAmbiguous):
		return &api.Error{Kind: api.ErrorInvalid, Text: err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Kind: api.ErrorUnavailable, Text: "the coordinator is stopping or the request was given up"}
	}
	return &api.Error{Kind: api.ErrorInternal, Text: err.Error()}
}

func statusOf(k api.ErrorKind) int {
	switch k {
	case api.ErrorInvalid:
		return http.StatusBadRequest
	case api.ErrorUnauthorized:
		return http.StatusUnauthorized
	case api.ErrorForbidden:
		return http.StatusForbidden
	case api.ErrorNotFound:
		return http.StatusNotFound
	case api.ErrorConflict:
		return http.StatusConflict
	case api.ErrorTooLarge:
		return http.StatusRequestEntityTooLarge
	case api.ErrorUnavailable:
		return http.StatusServiceUnavailable
	case api.ErrorNoSpace:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// read decodes a JSON body of at most limit bytes.
func read(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	if err := dec.Decode(v); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return err
		}
		return &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf("the request is not the JSON that %s expects: %v", r.URL.Path, err)}
	}
	return nil
}

// number reads a query parameter that is a whole number, 0 when it is absent.
func number(r *http.Request, name string) (int64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf("?%s=%s is not a whole number", name, v)}
	}
	return n, nil
}

// waiting reads ?wait=, a duration of at most one long poll.
func waiting(r *http.Request) (time.Duration, error) {
	v := r.URL.Query().Get("wait")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, &api.Error{Kind: api.ErrorInvalid, Text: fmt.Sprintf("?wait=%s is not a duration such as 25s", v)}
	}
	return min(d, api.LongPoll), nil
}
