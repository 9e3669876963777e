package runner

import (
	"context"
	"fmt"
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
	// taking is held while a report is taken, so that none overtakes another.
	taking sync.Mutex

	// Guarded by nodes.mu.
	seen    time.Time // or since when we wait to hear of it
	polling int       // syncs that are held for it at the moment
	last    *api.SyncRequest
}

// Contact is what the runner last heard of a node.
type Contact struct {
	Seen    time.Time // zero when it was not heard of since the start
	Version string
	Apps    []api.AppReport
	Sandbox *api.Sandbox // nil before the agent has tried it
}

// Left tells in sentences which of the app's instances still run on the node, as
// its agent reported, though the configuration names them no more.
func (c Contact) Left(app, node string) []string {
	var all []string
	for _, a := range c.Apps {
		for _, l := range a.Left {
			if a.App == app {
				all = append(all, fmt.Sprintf("%s still runs on %s as %s, and no rollout reaches it: fleet.yaml names no instance %s; "+
					"take it out of the balancer and stop it with `systemctl disable --now %s` there, or put it back into fleet.yaml",
					l.Target, node, l.Unit, l.Instance, l.Unit))
			}
		}
	}
	return all
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

// arrive records that the node's agent calls, and leave that the call is over:
// as long as it waits for an answer it is heard of.
func (n *nodes) arrive(x *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x.polling++
}

func (n *nodes) leave(x *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x.polling--
	x.seen = time.Now()
}

// late tells whether a report is older than the last one taken, or the same.
func (n *nodes) late(x *node, req *api.SyncRequest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := x.last
	return l != nil && l.Instance == req.Instance &&
		(req.Epoch < l.Epoch || (req.Epoch == l.Epoch && req.Seq <= l.Seq))
}

func (n *nodes) took(x *node, req *api.SyncRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x.last, x.seen = req, time.Now()
}

// silent returns the nodes not heard of for the timeout.
func (n *nodes) silent(timeout time.Duration) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name, x := range n.byID {
		if x.silent(timeout) {
			names = append(names, name)
		}
	}
	return names
}

func (n *nodes) isSilent(name string, timeout time.Duration) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byID[name].silent(timeout)
}

func (x *node) silent(timeout time.Duration) bool {
	return x.polling == 0 && time.Since(x.seen) >= timeout
}

// Contact returns what was last heard of the node.
func (r *Runner) Contact(name string) Contact {
	r.nodes.mu.Lock()
	defer r.nodes.mu.Unlock()
	x := r.nodes.byID[name]
	if x == nil || x.last == nil {
		return Contact{}
	}
	seen := x.seen
	if x.polling > 0 {
		seen = time.Now()
	}
	return Contact{Seen: seen, Version: x.last.Version, Apps: x.last.Apps, Sandbox: x.last.Sandbox}
}

// watchNodes tells the pools of nodes that fell silent.
func (r *Runner) watchNodes(ctx context.Context) error {
	ticker := time.NewTicker(max(r.cfg.NodeTimeout/8, time.Millisecond))
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
	if !r.nodes.isSilent(name, r.cfg.NodeTimeout) {
		return nil // it called while we came here; its report would be undone
	}
	_, err := r.step(ctx, p, rollout.NodeLost{At: now(), Node: name})
	return err
}
