package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/agenttest"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/metrics"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store/sqlite"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/webhook"
)

const (
	adminToken = "admin-token"
	secret     = "webhook-secret"
)

// sha returns the commit of a letter.
func sha(letter string) string { return strings.Repeat(letter, 40) }

// line is a repository with one branch, whose commits are letters.
type line struct {
	mu      sync.Mutex
	commits string
	err     error
}

func (l *line) push(c string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits += c
}

func (l *line) cut(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *line) RemoteHead(ctx context.Context, branch string) (string, error) {
	c, err := l.Head(ctx, branch)
	return c.SHA, err
}

func (l *line) Head(_ context.Context, branch string) (mirror.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.commits[len(l.commits)-1:]
	return mirror.Commit{SHA: sha(c), Subject: "change " + c, Committed: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)}, l.err
}

func (l *line) Resolve(ctx context.Context, ref string) (mirror.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return mirror.Commit{}, l.err
	case ref == "twice":
		return mirror.Commit{}, fmt.Errorf("%q: %w", ref, mirror.ErrAmbiguous)
	case len(ref) < 7 || !strings.Contains(l.commits, ref[:1]):
		return mirror.Commit{}, fmt.Errorf("%q: %w", ref, mirror.ErrUnknownRef)
	}
	return mirror.Commit{SHA: sha(ref[:1]), Subject: "change " + ref[:1]}, nil
}

func (l *line) IsAncestor(_ context.Context, old, new string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, j := strings.Index(l.commits, old[:1]), strings.Index(l.commits, new[:1])
	if i < 0 || j < 0 {
		return false, mirror.ErrUnknownCommit
	}
	return i <= j, nil
}

// stage is a coordinator that answers on a port of its own.
type stage struct {
	t      testing.TB
	repo   *line
	store  *sqlite.Store
	engine *runner.Runner
	server *httptest.Server
	admin  *api.Client
	agents []*agenttest.Agent

	config  httpapi.Config
	path    string
	apps    []string
	watched func(*trigger.App) // changes how an app is watched; may be nil
	stop    func()
}

// newStage starts a coordinator of apps on web1 and web2. web3 has none.
func newStage(t testing.TB, apps ...string) *stage {
	t.Helper()
	if len(apps) == 0 {
		apps = []string{"hello"}
	}
	s := &stage{t: t, repo: &line{commits: "a"}, path: filepath.Join(t.TempDir(), "lockstep.db"), apps: apps}
	s.agents = []*agenttest.Agent{agenttest.New("web1"), agenttest.New("web2")}
	s.start(nil)
	t.Cleanup(func() { s.stop() })
	return s
}

// start starts the coordinator; change may replace parts of it.
func (s *stage) start(change func(*httpapi.Config)) {
	s.t.Helper()
	st, err := sqlite.Open(s.t.Context(), s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	pool := rollout.Configured{Pool: "edge", MaxUnavailable: 1}
	var watched []trigger.App
	recipe := api.Recipe{Build: []string{"make"}}
	s.config = httpapi.Config{Store: st, Tokens: &httpapi.Tokens{}, Version: "1.2.3", Log: log}
	for _, name := range s.apps {
		pool.Apps = append(pool.Apps, rollout.AppConfig{Name: name, Nodes: []string{"web1", "web2"}, Revision: "r1", Policy: rollout.Policy{
			Soak: time.Second, Canary: "web2", CanarySoak: time.Minute,
			TargetTimeout: time.Hour, ProgressTimeout: time.Hour, PrepareTimeout: time.Hour, AutoRollback: true, KeepReleases: 5,
		}})
		watched = append(watched, trigger.App{
			Name: name, Repo: "https://github.com/me/hello.git", Branch: "main", Recipe: recipe, Mirror: s.repo,
			ReleaseID: func(sha string) string { return sha[:12] + "-111111" },
		})
		if s.watched != nil {
			s.watched(&watched[len(watched)-1])
		}
		place := func(node string) httpapi.Place {
			return httpapi.Place{Spec: api.Spec{Repo: "https://github.com/me/hello.git", Unit: name + ".service"}, Goals: map[string]api.Goal{"": {Server: node + "-server"}}}
		}
		s.config.Apps = append(s.config.Apps, httpapi.App{
			Name: name, KeepReleases: 5, Recipe: recipe, Places: map[string]httpapi.Place{"web1": place("web1"), "web2": place("web2")},
		})
	}
	m := metrics.New("1.2.3")
	s.store = st
	s.engine, err = runner.New(s.t.Context(), runner.Config{
		Store: st, Pools: []rollout.Configured{pool}, NodeTimeout: time.Hour, Log: log, Committed: m.Committed,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	m.Watch(s.engine.Views)
	trig := trigger.New(trigger.Config{Apps: watched, Engine: s.engine, Store: st, PollInterval: time.Hour, Log: log})
	hook, err := webhook.New(webhook.Options{Secrets: [][]byte{[]byte(secret)}, Sink: trig, Log: log})
	if err != nil {
		s.t.Fatal(err)
	}
	s.config.Runner, s.config.Trigger, s.config.Webhook, s.config.Metrics = s.engine, trig, hook, m.Handler()
	s.config.Tokens.AddAdmin("an older admin-token")
	s.config.Tokens.AddAdmin(adminToken)
	for _, node := range []string{"web1", "web2", "web3"} {
		s.config.Tokens.AddNode(node, "token-of-"+node)
	}
	if change != nil {
		change(&s.config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.server = httptest.NewUnstartedServer(httpapi.New(s.config))
	s.server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.server.Start()
	s.admin = s.client(adminToken)
	s.stop = func() {
		cancel()
		s.server.Close()
		if err := st.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// restart starts the coordinator anew, on the same store.
func (s *stage) restart(change func(*httpapi.Config)) {
	s.t.Helper()
	s.stop()
	s.start(change)
}

func (s *stage) client(token string) *api.Client {
	s.t.Helper()
	c, err := api.NewClient(s.server.URL, token, api.WithRetries(0))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// agent is the client of a node's agent.
func (s *stage) agent(node string) *api.Client { return s.client("token-of-" + node) }

// sync reports for an agent and carries out what it is told.
func (s *stage) sync(a *agenttest.Agent) bool {
	s.t.Helper()
	resp, err := s.agent(a.Node).Sync(s.t.Context(), a.Report(false))
	if err != nil {
		s.t.Fatal(err)
	}
	return a.Take(resp.Assignments)
}

// work lets the agents do whatever is assigned, until there is no more.
func (s *stage) work() {
	s.t.Helper()
	for quiet, i := 0, 0; quiet < 2; i++ {
		if i == 100 {
			s.t.Fatal("the agents find no end")
		}
		changed := false
		for _, a := range s.agents {
			changed = s.sync(a) || changed
		}
		if quiet++; changed {
			quiet = 0
		}
	}
}

// workUntil lets the agents work only until the rollout is that far.
func (s *stage) workUntil(id string, done func(api.Rollout) bool) api.Rollout {
	s.t.Helper()
	for range 50 {
		for _, a := range s.agents {
			r, err := s.admin.Rollout(s.t.Context(), id)
			if err != nil {
				s.t.Fatal(err)
			}
			if done(r) {
				return r
			}
			s.sync(a)
		}
	}
	s.t.Fatalf("%s does not come that far", id)
	return api.Rollout{}
}

func (s *stage) deploy(app, ref string) api.Rollout {
	s.t.Helper()
	r, err := s.admin.Deploy(s.t.Context(), app, api.DeployRequest{Ref: ref, By: "ann"})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *stage) rollout(id string) api.Rollout {
	s.t.Helper()
	r, err := s.admin.Rollout(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *stage) status(app string) api.AppStatus {
	s.t.Helper()
	st, err := s.admin.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(st.Apps, func(a api.AppStatus) bool { return a.App == app })
	if i < 0 {
		s.t.Fatalf("there is no %s in %+v", app, st.Apps)
	}
	return st.Apps[i]
}

// expectError fails unless err is the coordinator's refusal of the kind, with
// the words.
func expectError(t *testing.T, err error, kind api.ErrorKind, words string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Text, words) {
		t.Errorf("error %v, expected %s with %q", err, kind, words)
	}
}

// ask does a raw request and returns the status and the body's kind.
func (s *stage) ask(method, path, token, body string) (int, api.Error) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := s.server.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, errorOf(s.t, resp)
}
