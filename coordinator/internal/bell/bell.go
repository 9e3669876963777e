// Package bell wakes everyone who waits for news.
package bell

import "sync"

// Bell is rung when something changed. The zero value is not ready; use New.
type Bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// New returns a bell that was not rung yet.
func New() *Bell { return &Bell{ch: make(chan struct{})} }

// Wait returns a channel that is closed at the next ring. Take it before
// looking at what may have changed, so that no change falls between.
func (b *Bell) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

// Ring wakes all who hold a channel.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
