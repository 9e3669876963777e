package mirror

import (
	"container/heap"
	"context"
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// known returns a commit that the copy must have.
func (l *local) known(sha string) (plumbing.Hash, error) {
	if !plumbing.IsHash(sha) {
		return plumbing.ZeroHash, fmt.Errorf("%w: %q is no full SHA", ErrUnknownCommit, gitremote.Clean(sha))
	}
	h := plumbing.NewHash(sha)
	if has, err := l.has(h); err != nil {
		return h, err
	} else if !has {
		return h, errors.Join(l.verify(), fmt.Errorf("%w %s", ErrUnknownCommit, sha))
	}
	return h, nil
}

// side tells from which of two commits another was reached.
type side uint8

const (
	fromOld side = 1 << iota
	fromNew
	// both, when an ancestor of the two was passed: what lies behind it cannot
	// lead to old.
	both = fromOld | fromNew
)

// isAncestor walks back from both commits, youngest first, until new has
// reached old or all that is left is behind a common ancestor. Clocks decide
// only how long that takes: what leads from new to old is never behind a common
// ancestor, so it is walked to its end.
func (l *local) isAncestor(ctx context.Context, old, new plumbing.Hash) (bool, error) {
	if old == new {
		return true, nil
	}
	w := walk{l: l, seen: map[plumbing.Hash]side{}}
	return w.meet(ctx, old, new)
}

// step is one commit on the way back.
type step struct {
	hash    plumbing.Hash
	parents []plumbing.Hash
	at      int64
	side    side // when it was queued
}

type walk struct {
	l     *local
	seen  map[plumbing.Hash]side
	queue steps
	open  int // how many of the queue are not behind a common ancestor
}

// meet walks until the answer is known.
func (w *walk) meet(ctx context.Context, old, new plumbing.Hash) (bool, error) {
	if err := errors.Join(w.reach(old, fromOld), w.reach(new, fromNew)); err != nil {
		return false, err
	}
	for w.open > 0 {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		c := heap.Pop(&w.queue).(step)
		s := w.seen[c.hash]
		if c.side != both {
			w.open--
		}
		for _, p := range c.parents {
			if p == old && s&fromNew != 0 {
				return true, nil // also when old was passed before, as by equal clocks
			}
			if err := w.reach(p, s); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// reach queues a commit unless it was reached from that side before.
func (w *walk) reach(h plumbing.Hash, from side) error {
	s := w.seen[h]
	if s|from == s {
		return nil
	}
	s |= from
	w.seen[h] = s
	c, err := w.l.read(h)
	if err != nil {
		return err
	}
	heap.Push(&w.queue, step{h, c.ParentHashes, c.Committer.When.Unix(), s})
	if s != both {
		w.open++
	}
	return nil
}

// steps is a heap, the youngest first.
type steps []step

func (q steps) Len() int           { return len(q) }
func (q steps) Less(i, j int) bool { return q[i].at > q[j].at }
func (q steps) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *steps) Push(x any)        { *q = append(*q, x.(step)) }
func (q *steps) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
