package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

// maxBatch bounds how many calls share one transaction, and so how long the
// first of them waits for the last.
const maxBatch = 256

// writer is the one goroutine that writes.
type writer struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // by text; used by the goroutine only

	jobs    chan *job
	quit    chan struct{} // closed to stop
	quitNow sync.Once
	done    chan struct{} // closed when stopped
	err     error         // of closing the connection; read after done
}

// job is one call of the store.
type job struct {
	ctx context.Context
	run func(*writer) error
	// taken decides between the writer, which begins the job, and its caller,
	// which gives up: whoever sets it first.
	taken atomic.Bool
	done  chan error // gets the outcome once it is durable
}

func newWriter(conn *sql.Conn) *writer {
	w := &writer{
		conn: conn, stmts: map[string]*sql.Stmt{},
		jobs: make(chan *job), quit: make(chan struct{}), done: make(chan struct{}),
	}
	go w.loop()
	return w
}

// write runs f in a transaction and returns its result once that is durable.
// f may run more than once; what it did before is undone then.
func write[T any](ctx context.Context, s *Store, f func(*writer) (T, error)) (T, error) {
	var none, result T
	j := &job{ctx: ctx, done: make(chan error, 1), run: func(w *writer) (err error) {
		result, err = f(w)
		return err
	}}
	if err := s.writer.do(j); err != nil {
		return none, err
	}
	return result, nil
}

func (w *writer) do(j *job) error {
	if err := context.Cause(j.ctx); err != nil {
		return err
	}
	select {
	case w.jobs <- j:
	case <-w.done:
		return store.ErrClosed
	case <-j.ctx.Done():
		return context.Cause(j.ctx)
	}
	select {
	case err := <-j.done:
		return err
	case <-j.ctx.Done():
		if j.taken.CompareAndSwap(false, true) {
			return context.Cause(j.ctx)
		}
		return fmt.Errorf("gave up waiting for the disk, it may yet be stored: %w", context.Cause(j.ctx))
	}
}

// stop ends the goroutine after the jobs it has taken.
func (w *writer) stop() error {
	w.quitNow.Do(func() { close(w.quit) })
	<-w.done
	return w.err
}

func (w *writer) loop() {
	defer close(w.done)
	for {
		select {
		case <-w.quit:
			w.err = w.close()
			return
		case j := <-w.jobs:
			w.commit(w.gather(j))
		}
	}
}

// gather adds the jobs that wait already to the first.
func (w *writer) gather(first *job) []*job {
	batch := []*job{first}
	for len(batch) < maxBatch {
		select {
		case j := <-w.jobs:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit makes the batch durable in one transaction and tells each job its
// outcome. A job that fails is undone alone. When the transaction itself fails
// every job is tried again on its own, so that one that cannot be stored takes
// no other with it.
func (w *writer) commit(batch []*job) {
	var live []*job
	for _, j := range batch {
		if j.taken.CompareAndSwap(false, true) {
			live = append(live, j)
		}
	}
	if len(live) == 0 {
		return
	}
	outcomes, err := w.transact(live)
	for i, j := range live {
		switch {
		case err == nil:
			j.done <- outcomes[i]
		case len(live) == 1:
			j.done <- err
		default:
			single, err := w.transact(live[i : i+1])
			if err == nil {
				err = single[0]
			}
			j.done <- err
		}
	}
}

// transact returns the outcome of each job, or an error when nothing of any of
// them was stored.
func (w *writer) transact(jobs []*job) (outcomes []error, err error) {
	if _, err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// SQLite may have ended the transaction itself: then this fails, and
			// there is nothing to undo.
			_, _ = w.exec("ROLLBACK")
		}
	}()
	for _, j := range jobs {
		if _, err := w.exec("SAVEPOINT job"); err != nil {
			return nil, err
		}
		outcome := j.run(w)
		if outcome != nil {
			if _, err := w.exec("ROLLBACK TO job"); err != nil {
				return nil, fmt.Errorf("%w (%w)", outcome, err)
			}
		}
		if _, err := w.exec("RELEASE job"); err != nil {
			return nil, err
		}
		outcomes = append(outcomes, outcome)
	}
	if _, err := w.exec("COMMIT"); err != nil {
		return nil, err
	}
	return outcomes, nil
}

// Statements run without the caller's context: interrupting one would undo the
// transaction that it shares with others.

func (w *writer) exec(text string, args ...any) (sql.Result, error) {
	st, err := w.prepared(text)
	if err != nil {
		return nil, err
	}
	res, err := st.ExecContext(context.Background(), args...)
	return res, explain(err)
}

func (w *writer) queryRow(text string, args ...any) scanner {
	st, err := w.prepared(text)
	if err != nil {
		return failed{err}
	}
	return st.QueryRowContext(context.Background(), args...)
}

func (w *writer) prepared(text string) (*sql.Stmt, error) {
	if st := w.stmts[text]; st != nil {
		return st, nil
	}
	st, err := w.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, explain(err)
	}
	w.stmts[text] = st
	return st, nil
}

func (w *writer) close() error {
	var errs []error
	for _, st := range w.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}
