package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const patience = 30 * time.Second

// coordinator is a coordinator that holds what it is told to want and remembers
// what it was told of the node.
type coordinator struct {
	mu      sync.Mutex
	away    bool
	want    map[string]api.Assignment
	reports map[string]api.AppReport
	seen    []api.SyncRequest
	logs    map[string]string // by step, in order of the numbers
	chunks  map[string]bool
	posted  []api.LogChunk
	changed chan struct{} // closed and replaced at every change
}

func newCoordinator() *coordinator {
	return &coordinator{
		want: map[string]api.Assignment{}, reports: map[string]api.AppReport{},
		logs: map[string]string{}, chunks: map[string]bool{}, changed: make(chan struct{}),
	}
}

func (c *coordinator) broadcast() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *coordinator) Sync(ctx context.Context, rq api.SyncRequest) (api.SyncResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return api.SyncResponse{}, errors.New("connection refused")
	}
	c.seen = append(c.seen, rq)
	clear(c.reports)
	for _, r := range rq.Apps {
		c.reports[r.App] = r
	}
	c.broadcast()
	for rq.Wait && !c.news(rq) {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if ctx.Err() != nil {
			return api.SyncResponse{}, ctx.Err()
		}
		if c.away {
			return api.SyncResponse{}, errors.New("connection reset")
		}
	}
	var out api.SyncResponse
	for _, a := range c.want {
		out.Assignments = append(out.Assignments, a)
	}
	return out, nil
}

// news tells whether an assignment has another generation than the agent holds.
func (c *coordinator) news(rq api.SyncRequest) bool {
	for app, a := range c.want {
		i := slices.IndexFunc(rq.Apps, func(r api.AppReport) bool { return r.App == app })
		if i < 0 || rq.Apps[i].Generation != a.Generation {
			return true
		}
	}
	return slices.ContainsFunc(rq.Apps, func(r api.AppReport) bool { _, ok := c.want[r.App]; return !ok })
}

func (c *coordinator) PostLogs(_ context.Context, rq api.LogRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errors.New("connection refused")
	}
	for _, k := range rq.Chunks {
		id := fmt.Sprint(k.App, k.Rollout, k.Step, k.Number)
		if !c.chunks[id] {
			c.chunks[id] = true
			c.logs[string(k.Step)] += k.Data
			c.posted = append(c.posted, k)
		}
	}
	c.broadcast()
	return nil
}

// set changes what the coordinator wants of an app, in a new generation.
func (c *coordinator) set(app string, change func(*api.Assignment)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.want[app]
	a.App = app
	a.Generation++
	a.Targets = slices.Clone(a.Targets)
	change(&a)
	c.want[app] = a
	c.broadcast()
}

func (c *coordinator) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.broadcast()
}

// await waits until what the agent told makes ok true.
func (c *coordinator) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		if ok() {
			c.mu.Unlock()
			return
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Fatalf("waited %s in vain until %s; the last report: %+v", patience, what, c.reports)
		}
	}
}

// awaitApp waits until the report of an app makes ok true, and returns it.
func (c *coordinator) awaitApp(t *testing.T, app, what string, ok func(api.AppReport) bool) (r api.AppReport) {
	t.Helper()
	c.await(t, what, func() bool {
		var found bool
		r, found = c.reports[app]
		return found && ok(r)
	})
	return r
}

// awaitTurn waits for the outcome of a turn and for the next look at the target.
func (c *coordinator) awaitTurn(t *testing.T, app string, turn uint64) (o api.Outcome, target api.TargetReport) {
	t.Helper()
	r := c.awaitApp(t, app, fmt.Sprintf("turn %d is over", turn), func(r api.AppReport) bool {
		return len(r.Targets) == 1 && r.Targets[0].Outcome != nil && r.Targets[0].Outcome.Turn == turn
	})
	return *r.Targets[0].Outcome, r.Targets[0]
}

func (c *coordinator) awaitPresent(t *testing.T, app, release string) {
	t.Helper()
	c.awaitApp(t, app, release+" is prepared", func(r api.AppReport) bool {
		if p := r.Prepare; p != nil && p.Failed {
			t.Fatalf("preparing failed: %s", p.Text)
		}
		return slices.Contains(r.Present, release)
	})
}

// node is an agent with its configuration, to be started several times.
type node struct {
	cfg  agent.Config
	deps agent.Deps
	stop func() // ends the running agent and waits for it
}

func newNode(t *testing.T, c agent.Coordinator, units activate.Units) *node {
	t.Helper()
	dir := t.TempDir()
	return &node{
		cfg: agent.Config{
			Coordinator: "http://127.0.0.1:0", Name: "web1",
			State: filepath.Join(dir, "state"), Apps: filepath.Join(dir, "apps"), Units: []string{"*.service"},
		},
		deps: agent.Deps{Coordinator: c, Units: units, Version: "test", Log: logger(t)},
	}
}

func logger(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// start starts the agent; it is stopped at the end of the test at the latest.
func (n *node) start(t *testing.T) {
	t.Helper()
	a, err := agent.New(n.cfg, n.deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	once := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the agent does not stop")
		}
	})
	n.stop = once
	t.Cleanup(once)
}

// repo is a real git repository.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	r := repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// release commits files and describes the release of that commit.
func (r repo) release(files map[string]string, build ...string) api.Release {
	r.t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "a commit")
	sha := r.git("rev-parse", "HEAD")
	return api.Release{
		ID: sha[:12] + "-abc123", SHA: sha,
		Recipe: api.Recipe{Build: build, Timeout: api.Duration(time.Minute)},
	}
}

// fakeUnits is a service manager in which a unit runs from the app's current
// directory as soon as it is restarted.
type fakeUnits struct {
	apps string

	mu       sync.Mutex
	runs     map[string]string // by unit: resolved directory
	restarts int
	hold     chan struct{} // while not nil, restarts wait for it to be closed
}

func (u *fakeUnits) Status(_ context.Context, name string) (unit.Status, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := unit.Status{LoadState: "loaded", ActiveState: "inactive"}
	if u.runs[name] != "" {
		st.ActiveState, st.InvocationID, st.MainPID = "active", fmt.Sprint(u.restarts), 100+u.restarts
	}
	return st, nil
}

func (u *fakeUnits) Restart(ctx context.Context, name string) (unit.Status, error) {
	u.mu.Lock()
	hold := u.hold
	u.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return unit.Status{}, ctx.Err()
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(u.apps, strings.TrimSuffix(name, ".service"), "current"))
	if err != nil {
		return unit.Status{}, err
	}
	u.mu.Lock()
	u.restarts++
	u.runs[name] = dir
	u.mu.Unlock()
	return u.Status(ctx, name)
}

func (u *fakeUnits) Reload(ctx context.Context, name string) (unit.Status, error) {
	return u.Restart(ctx, name)
}

func (u *fakeUnits) StopStart(ctx context.Context, name string) (unit.Status, error) {
	return u.Restart(ctx, name)
}

func (u *fakeUnits) Stop(_ context.Context, name string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.runs, name)
	return nil
}

func (u *fakeUnits) Reloads(context.Context, string) error { return nil }

func (u *fakeUnits) Processes(ctx context.Context, name string) ([]unit.Process, error) {
	pid, paths, err := u.Runs(ctx, name)
	if pid == 0 {
		return nil, err
	}
	return []unit.Process{{PID: pid, Paths: paths}}, err
}

func (u *fakeUnits) Runs(_ context.Context, name string) (int, []string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.runs[name] == "" {
		return 0, nil, nil
	}
	return 100 + u.restarts, []string{"/usr/bin/app", u.runs[name]}, nil
}

func (u *fakeUnits) Settled(context.Context, string, string, int) error { return nil }

func (u *fakeUnits) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.restarts
}
