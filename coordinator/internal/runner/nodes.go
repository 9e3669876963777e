package runner

import (
	"context"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/bell"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// nodes is what is known of the agents beyond the engine's state: when they
// were heard of and what they are doing. It is kept in memory only; a restarted
// coordinator hears of every agent again within one long poll.
type nodes struct {
	mu   sync.Mutex
	byID map[string]*node
}

type node struct {
	bell *bell.Bell
	seen time.Time // or since when we wait to hear of it
	last *api.SyncRequest
}

// Contact is what the runner last heard of a node.
type Contact struct {
	Seen    time.Time // zero when it was not heard of since the start
	Version string
	Apps    []api.AppReport
}

func newNodes(names []string) *nodes {
	n := &nodes{byID: map[string]*node{}}
	for _, name := range names {
		n.byID[name] = &node{bell: bell.New(), seen: time.Now()}
	}
	return n
}

func (n *nodes) ring(name string) {
	if x := n.get(name); x != nil {
		x.bell.Ring()
	}
}

func (n *nodes) get(name string) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byID[name]
}

// heard records a report and tells whether it is newer than the last: one that
// was sent earlier and came late must not count.
func (n *nodes) heard(name string, req *api.SyncRequest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.byID[name]
	x.seen = time.Now()
	if l := x.last; l != nil && l.Instance == req.Instance {
		if req.Epoch < l.Epoch || (req.Epoch == l.Epoch && req.Seq <= l.Seq) {
			return false
		}
	}
	x.last = req
	return true
}

// touch records that the node is still connected.
func (n *nodes) touch(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.byID[name].seen = time.Now()
}

// silent returns the nodes not heard of for the timeout.
func (n *nodes) silent(timeout time.Duration) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name, x := range n.byID {
		if time.Since(x.seen) >= timeout {
			names = append(names, name)
		}
	}
	return names
}

// Contact returns what was last heard of the node.
func (r *Runner) Contact(name string) Contact {
	r.nodes.mu.Lock()
	defer r.nodes.mu.Unlock()
	x := r.nodes.byID[name]
	if x == nil || x.last == nil {
		return Contact{}
	}
	return Contact{Seen: x.seen, Version: x.last.Version, Apps: x.last.Apps}
}

// watchNodes tells the pools of nodes that fell silent.
func (r *Runner) watchNodes(ctx context.Context) error {
	ticker := time.NewTicker(r.cfg.NodeTimeout / 8)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, name := range r.nodes.silent(r.cfg.NodeTimeout) {
			for _, p := range r.pools {
				if err := r.lose(ctx, p, name); err != nil {
					r.cfg.Log.Error("Cannot record that a node is silent", "node", name, "error", err)
				}
			}
		}
	}
}

func (r *Runner) lose(ctx context.Context, p *pool, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.state.Node(name); n == nil || n.Reach == rollout.Unreachable {
		return nil
	}
	delete(p.reports, name)
	_, err := r.step(ctx, p, rollout.NodeLost{At: now(), Node: name})
	return err
}
