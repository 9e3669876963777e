package trigger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/agenttest"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store/sqlite"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/webhook"
)

const repoURL = "https://github.com/me/hello.git"

var errUnreachable = errors.New("no route to host")

// sha returns the commit of a letter.
func sha(letter string) string { return strings.Repeat(letter, 40) }

// repo is a repository of which a test decides what it shows.
type repo struct {
	mu      sync.Mutex
	parents map[string]string // of commits, by SHA
	shown   []string          // heads to be seen one after the other; the last one stays
	err     error
	looks   []time.Time // when the head was fetched, or could not be
	asked   int         // times the remote was asked, fetching or not
}

// newRepo returns a repository whose main branch is the line of commits.
func newRepo(line ...string) *repo {
	r := &repo{parents: map[string]string{}}
	for i, c := range line {
		if r.parents[sha(c)] = ""; i > 0 {
			r.parents[sha(c)] = sha(line[i-1])
		}
	}
	r.shown = []string{sha(line[len(line)-1])}
	return r
}

// push puts a commit on another, which becomes the head after the given ones
// were shown.
func (r *repo) push(c, parent string, lag ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parents[sha(c)] = sha(parent)
	r.shown = append(lag, sha(c))
}

// show moves the branch to a commit that is there.
func (r *repo) show(c string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shown = []string{sha(c)}
}

func (r *repo) cut(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *repo) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks = nil
}

func (r *repo) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *repo) times() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.looks)
}

func (r *repo) RemoteHead(_ context.Context, branch string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.err != nil {
		r.looks = append(r.looks, time.Now())
		return "", r.err
	}
	return r.shown[0], nil
}

func (r *repo) Head(_ context.Context, branch string) (mirror.Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	r.looks = append(r.looks, time.Now())
	if r.err != nil {
		return mirror.Commit{}, r.err
	}
	head := r.shown[0]
	if len(r.shown) > 1 {
		r.shown = r.shown[1:]
	}
	return commit(head), nil
}

func (r *repo) Resolve(_ context.Context, ref string) (mirror.Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.parents[ref]; !ok {
		return mirror.Commit{}, mirror.ErrUnknownRef
	}
	return commit(ref), r.err
}

func (r *repo) IsAncestor(_ context.Context, old, new string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range []string{old, new} {
		if _, ok := r.parents[c]; !ok {
			return false, mirror.ErrUnknownCommit
		}
	}
	for c := new; c != ""; c = r.parents[c] {
		if c == old {
			return true, nil
		}
	}
	return false, nil
}

func commit(sha string) mirror.Commit {
	return mirror.Commit{SHA: sha, Subject: "change " + sha[:1], Committed: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// stage is a coordinator without its HTTP interface, on a store on disk.
type stage struct {
	*Trigger
	t      *testing.T
	path   string
	store  *faulty
	engine *runner.Runner
	agents []*agenttest.Agent
	apps   []App
	stop   func()
}

// faulty is a store whose calls fail when they are told to.
type faulty struct {
	*sqlite.Store
	mu             sync.Mutex
	resolve        error  // of the next Resolve, without doing it
	receiveWritten error  // of the next Receive, after doing it
	received       func() // called once when the next Receive is done
}

func (f *faulty) take(err *error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := *err
	*err = nil
	return e
}

// failNext makes the next Resolve fail, or the next Receive once it is done.
func (f *faulty) failNext(resolve, receiveWritten error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolve, f.receiveWritten = resolve, receiveWritten
}

func (f *faulty) Resolve(ctx context.Context, id string, d store.Decision, reason string, rs []rollout.RolloutID) error {
	if err := f.take(&f.resolve); err != nil {
		return err
	}
	return f.Store.Resolve(ctx, id, d, reason, rs)
}

func (f *faulty) Receive(ctx context.Context, d store.Delivery) (store.Delivery, bool, error) {
	got, duplicate, err := f.Store.Receive(ctx, d)
	if meanwhile := f.received; meanwhile != nil {
		f.received = nil
		meanwhile()
	}
	if e := f.take(&f.receiveWritten); e != nil {
		return store.Delivery{}, false, e
	}
	return got, duplicate, err
}

func app(name string, r *repo) App {
	recipe := api.Recipe{Build: []string{"make"}}
	return App{
		Name: name, Repo: repoURL, Branch: "main", Recipe: recipe, Mirror: r,
		ReleaseID: func(sha string) string { return sha[:12] + "-" + name },
	}
}

// newStage opens a coordinator of apps on web1 and web2. Trigger.Run is not
// called yet.
func newStage(t *testing.T, apps ...App) *stage {
	t.Helper()
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "lockstep.db"), apps: apps}
	s.agents = []*agenttest.Agent{agenttest.New("web1"), agenttest.New("web2")}
	s.open()
	t.Cleanup(func() { s.close() })
	return s
}

func (s *stage) open() {
	s.t.Helper()
	st, err := sqlite.Open(s.t.Context(), s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.store = &faulty{Store: st}
	pool := rollout.Configured{Pool: "edge", MaxUnavailable: 1}
	for _, a := range s.apps {
		pool.Apps = append(pool.Apps, rollout.AppConfig{Name: a.Name, Nodes: []string{"web1", "web2"}, Revision: "r1", Policy: rollout.Policy{
			TargetTimeout: time.Hour, ProgressTimeout: time.Hour, PrepareTimeout: time.Hour, AutoRollback: true, KeepReleases: 5,
		}})
	}
	s.engine, err = runner.New(s.t.Context(), runner.Config{
		Store: s.store, Pools: []rollout.Configured{pool}, NodeTimeout: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Trigger = New(Config{Apps: s.apps, Engine: s.engine, Store: s.store, PollInterval: time.Minute, Log: slog.New(slog.DiscardHandler)})
	s.stop = func() {}
}

func (s *stage) close() {
	s.stop()
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *stage) reopen() {
	s.t.Helper()
	s.close()
	s.open()
}

// run begins to watch the branches.
func (s *stage) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	trigger := s.Trigger
	go func() { done <- trigger.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	synctest.Wait()
}

// deliver hands in the delivery of a push to main.
func (s *stage) deliver(id, after string) webhook.Answer {
	s.t.Helper()
	a, err := s.Receive(s.t.Context(), push(id, after))
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func push(id, after string) webhook.Delivery {
	return webhook.Delivery{
		ID: id, Event: "push", Ref: "refs/heads/main", Branch: "main", After: sha(after), Sender: "ann", Received: time.Now().UTC(),
		Repository: webhook.Repository{FullName: "me/hello", CloneURL: repoURL, Canonical: "github.com/me/hello"},
	}
}

// work lets the agents do whatever is assigned, until there is no more.
func (s *stage) work() {
	s.t.Helper()
	synctest.Wait()
	// What one agent reports may be news to the one before it.
	for quiet, i := 0, 0; quiet < 2; i++ {
		if i == 100 {
			s.t.Fatal("the agents find no end")
		}
		changed := false
		for _, a := range s.agents {
			req := a.Report(false)
			ps, err := s.engine.Sync(s.t.Context(), a.Node, &req, 0)
			if err != nil {
				s.t.Fatal(err)
			}
			changed = a.Take(agenttest.Assignments(ps)) || changed
		}
		if quiet++; changed {
			quiet = 0
		}
		synctest.Wait()
	}
}

// bad makes the releases of a commit fail on every node.
func (s *stage) bad(c string) {
	for _, a := range s.agents {
		for _, app := range s.apps {
			a.Bad[app.ReleaseID(sha(c))] = true
		}
	}
}

func (s *stage) app(name string) *rollout.App {
	s.t.Helper()
	st, ok := s.engine.View(name)
	if !ok {
		s.t.Fatalf("there is no app %s", name)
	}
	return st.App(name)
}

// expectCurrent fails unless the app converged on the commit.
func (s *stage) expectCurrent(name, c string) {
	s.t.Helper()
	st, _ := s.engine.View(name)
	a := st.App(name)
	if r := a.Release(a.Current); r == nil || r.SHA != sha(c) || !st.Converged(name) {
		s.t.Errorf("%s runs %q (live %+v), expected to have converged on %s", name, a.Current, a.Live, c)
	}
}

func (s *stage) expectRollouts(name string, want int) {
	s.t.Helper()
	if n := s.app(name).Number; n != want {
		s.t.Errorf("%s had %d rollouts, expected %d", name, n, want)
	}
}

// became returns what is recorded of a delivery: "deployed hello-1", or the
// decision with its reason.
func (s *stage) became(id string) string {
	s.t.Helper()
	synctest.Wait()
	ds, err := s.store.Deliveries(s.t.Context(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range ds {
		if d.ID == id {
			line := string(d.Decision)
			for _, r := range d.Rollouts {
				line += " " + string(r)
			}
			if d.Reason != "" {
				line += ": " + d.Reason
			}
			return line
		}
	}
	return "not recorded"
}

func (s *stage) expect(id, want string) {
	s.t.Helper()
	got := s.became(id)
	if strings.HasSuffix(want, ": ") { // whatever the words
		got = got[:min(len(got), len(want))]
	}
	if got != want {
		s.t.Errorf("delivery %s: %q, expected %q", id, s.became(id), want)
	}
}

// gaps renders the times between looks.
func gaps(times []time.Time) string {
	var out []string
	for i := 1; i < len(times); i++ {
		out = append(out, fmt.Sprint(times[i].Sub(times[i-1]).Round(time.Millisecond)))
	}
	return strings.Join(out, " ")
}

// apply steps the pool with an event of the present instant.
func (s *stage) apply(ev rollout.Event) []rollout.Effect {
	s.t.Helper()
	effects, err := s.engine.Apply(s.t.Context(), s.apps[0].Name, func(at time.Time) rollout.Event {
		switch ev := ev.(type) {
		case rollout.DeployRequested:
			ev.At = at
			return ev
		case rollout.HoldRequested:
			ev.At = at
			return ev
		}
		return ev
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return effects
}

func (s *stage) deploy(app string, release rollout.ReleaseID) {
	s.t.Helper()
	s.apply(rollout.DeployRequested{App: app, Release: rollout.Release{ID: release, SHA: sha(string(release))}, By: "ann"})
}
