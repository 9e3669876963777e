package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	logChunk    = 16 << 10  // what a chunk holds at most
	logQueue    = 1 << 20   // what waits for the coordinator at most
	logBatch    = 256 << 10 // what one request carries at most
	logInterval = time.Second
	// logFarewell is how long the last chunks may take once the agent stops.
	logFarewell = 2 * time.Second
	// Each time that a step is begun again, its chunks get numbers of their own.
	runNumbers = 1 << 20
)

// logs carries the output of steps to the coordinator. It never makes a step
// wait: output that the coordinator does not take in time is left out, and a
// line in its place says so.
type logs struct {
	node string
	to   Coordinator
	log  *slog.Logger
	more chan struct{}

	mu     sync.Mutex
	open   map[*stream]bool
	queue  []api.LogChunk
	queued int
}

func newLogs(node string, to Coordinator, log *slog.Logger) *logs {
	return &logs{node: node, to: to, log: log, more: make(chan struct{}, 1), open: map[*stream]bool{}}
}

// stream is the output of one step. Its methods never fail.
type stream struct {
	l      *logs
	next   api.LogChunk // with the number of the next chunk
	buf    bytes.Buffer
	gone   int // bytes left out since the last chunk
	closed bool
}

// stream begins the output of a step that is done for the runs-th time.
func (l *logs) stream(app, rollout string, step api.Step, runs int) *stream {
	return l.streamOf(app, "", rollout, step, runs)
}

// streamOf is stream of a step that is done for one instance of the app.
func (l *logs) streamOf(app, instance, rollout string, step api.Step, runs int) *stream {
	s := &stream{l: l, next: api.LogChunk{App: app, Instance: instance, Rollout: rollout, Step: step, Number: uint64(runs-1) * runNumbers}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[s] = true
	return s
}

// Write takes output as it comes.
func (s *stream) Write(b []byte) (int, error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if room := logQueue - s.l.queued - s.buf.Len(); s.closed || room < len(b) {
		s.gone += len(b)
		return len(b), nil
	}
	s.tellGone()
	s.buf.Write(b)
	for s.buf.Len() >= logChunk {
		s.cut(logChunk)
	}
	return len(b), nil
}

// tellGone puts a line where output was left out. The caller holds the lock.
func (s *stream) tellGone() {
	if s.gone > 0 {
		fmt.Fprintf(&s.buf, "\n[%d bytes of output are missing here: the coordinator did not take them in time]\n", s.gone)
		s.gone = 0
	}
}

// close hands over what is left. It may be called again.
func (s *stream) close() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.tellGone()
	for s.buf.Len() > 0 {
		s.cut(logChunk)
	}
	delete(s.l.open, s)
}

// cut makes a chunk of at most n bytes, which does not end within a character.
// The caller holds the lock.
func (s *stream) cut(n int) {
	n = min(n, s.buf.Len())
	if n < s.buf.Len() {
		b := s.buf.Bytes()
		for k := n; k > n-utf8.UTFMax; k-- {
			if utf8.RuneStart(b[k]) {
				n = k
				break
			}
		}
	}
	c := s.next
	c.At = time.Now()
	c.Data = strings.ToValidUTF8(string(s.buf.Next(n)), "\uFFFD")
	s.next.Number++
	s.l.queue = append(s.l.queue, c)
	s.l.queued += len(c.Data)
	wake(s.l.more)
}

// run uploads until ctx is done, and then what is left, for a moment.
func (l *logs) run(ctx context.Context) {
	ticker := time.NewTicker(logInterval)
	defer ticker.Stop()
	backoff := backoffMin
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
			l.flush()
		case <-l.more:
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			done, err := l.upload(ctx)
			if err != nil {
				l.log.Debug("cannot hand in step output; trying again", "error", err)
				rest(ctx, jitter(backoff))
				backoff = min(backoff*2, backoffMax)
				continue
			}
			backoff = backoffMin
			if done {
				break
			}
		}
	}
	l.flush()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), logFarewell)
	defer cancel()
	for {
		if done, err := l.upload(last); done || err != nil {
			return
		}
	}
}

// flush cuts what has come so far, so that a slow build is seen at work.
func (l *logs) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.open {
		for s.buf.Len() > 0 {
			s.cut(logChunk)
		}
	}
}

// upload hands in one batch; done when nothing is left.
func (l *logs) upload(ctx context.Context) (done bool, err error) {
	l.mu.Lock()
	size, n := 0, 0
	for n < len(l.queue) && (n == 0 || size+len(l.queue[n].Data) <= logBatch) {
		size += len(l.queue[n].Data)
		n++
	}
	batch := l.queue[:n:n]
	l.mu.Unlock()
	if n == 0 {
		return true, nil
	}
	err = l.to.PostLogs(ctx, api.LogRequest{Node: l.node, Chunks: batch})
	var refused *api.Error
	if errors.As(err, &refused) {
		switch refused.Kind {
		case api.ErrorInvalid, api.ErrorForbidden, api.ErrorNotFound, api.ErrorConflict, api.ErrorTooLarge:
			// Asking again would not change the answer, and keep the rest waiting.
			l.log.Warn("the coordinator refused step output", "chunks", n, "error", err)
			err = nil
		}
	}
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil // give the memory back
	}
	l.queued -= size
	return len(l.queue) == 0, nil
}
