package runner

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

const (
	releaseA rollout.ReleaseID = "aaaaaaaaaaaa-111111"
	releaseB rollout.ReleaseID = "bbbbbbbbbbbb-111111"
)

var errDisk = errors.New("the disk is full")

// memory is a store that keeps what a real one would, encoded, and fails when
// it is told to.
type memory struct {
	mu      sync.Mutex
	pools   map[string][]byte
	version map[string]int64
	commits []rollout.Event
	// fail makes the next commit fail; written tells whether it was stored all the same.
	fail, written bool
}

func newMemory() *memory { return &memory{pools: map[string][]byte{}, version: map[string]int64{}} }

func (m *memory) Load(_ context.Context, pool string) (rollout.State, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.pools[pool]
	if !ok {
		return rollout.State{}, 0, store.ErrNotFound
	}
	var s rollout.State
	return s, m.version[pool], errors.Join(json.Unmarshal(b, &s))
}

func (m *memory) Commit(ctx context.Context, c store.Commit) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if c.Version != m.version[c.State.Pool] {
		return 0, store.ErrConflict
	}
	fail := m.fail
	m.fail = false
	if fail && !m.written {
		return 0, errDisk
	}
	b, err := json.Marshal(c.State)
	if err != nil {
		return 0, err
	}
	m.pools[c.State.Pool] = b
	m.version[c.State.Pool]++
	m.commits = append(m.commits, c.Event)
	if fail {
		return 0, errDisk
	}
	return m.version[c.State.Pool], nil
}

// failNext makes the next commit fail, before or after it was written.
func (m *memory) failNext(written bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.written = true, written
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.commits)
}

func policy() rollout.Policy {
	return rollout.Policy{
		TargetTimeout: 10 * time.Minute, ProgressTimeout: 20 * time.Minute, PrepareTimeout: 5 * time.Minute,
		RetryBackoff: 10 * time.Second, AutoRollback: true, KeepReleases: 5,
	}
}

func config(st Store) Config {
	return Config{
		Store: st, NodeTimeout: time.Minute, Log: slog.New(slog.DiscardHandler),
		Pools: []rollout.Configured{{Pool: "edge", MaxUnavailable: 1, Apps: []rollout.AppConfig{
			{Name: "hello", Nodes: []string{"web1", "web2"}, Revision: "r1", Policy: policy()},
		}}},
	}
}

func start(t *testing.T, cfg Config) *Runner {
	t.Helper()
	r, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs the runner's clock until the test, in its bubble, ends.
func run(t *testing.T, r *Runner) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// deploy asks for a release by hand.
func deploy(r *Runner, id rollout.ReleaseID) ([]rollout.Effect, error) {
	return r.Apply(context.Background(), "hello", func(at time.Time) rollout.Event {
		return rollout.DeployRequested{At: at, App: "hello", Release: rollout.Release{ID: id, SHA: string(id[:12])}, By: "ann"}
	})
}

// agent speaks for one node.
type agent struct {
	r   *Runner
	req api.SyncRequest
}

func newAgent(r *Runner, node string) *agent {
	return &agent{r: r, req: api.SyncRequest{Node: node, Version: "1.0", Instance: "i1", Epoch: 1, Apps: []api.AppReport{
		{App: "hello", Targets: []api.TargetReport{{Target: "hello@" + node, Rotation: api.RotationIn, Health: api.Healthy}}},
	}}}
}

func (a *agent) app() *api.AppReport { return &a.req.Apps[0] }

// next returns the agent's next report.
func (a *agent) next() *api.SyncRequest {
	a.req.Seq++
	req := a.req
	req.Apps = []api.AppReport{*a.app()}
	return &req
}

// sync reports and takes the assignment that is given.
func (a *agent) sync(t *testing.T, wait time.Duration) []Placement {
	t.Helper()
	ps, err := a.r.Sync(t.Context(), a.req.Node, a.next(), wait)
	if err != nil {
		t.Fatal(err)
	}
	a.accept(ps)
	return ps
}

func (a *agent) accept(ps []Placement) {
	for _, p := range ps {
		if p.App == "hello" {
			a.app().Generation = p.Generation
		}
	}
}

func view(t *testing.T, r *Runner) rollout.State {
	t.Helper()
	s, ok := r.View("hello")
	if !ok {
		t.Fatal("there is no app hello")
	}
	return s
}

func reach(t *testing.T, r *Runner, node string) rollout.Reach {
	t.Helper()
	s := view(t, r)
	return s.Node(node).Reach
}
