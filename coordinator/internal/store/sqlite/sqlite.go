// Package sqlite keeps the coordinator's state in one SQLite file.
//
// One connection writes. Calls that arrive while a transaction is being made
// durable share the next one, each under its own savepoint, so that the cost of
// reaching the disk is paid once for all of them. A few more connections read;
// in WAL mode they never wait for the writer.
//
// A call that returned nil survives the loss of power: the write-ahead log is
// synchronised at each commit.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
	"github.com/lockstep-deploy/lockstep/internal/filelock"
)

const (
	// fileMode keeps the record of what runs where from other users.
	fileMode = 0o600
	// readers is how many connections read at a time.
	readers = 2
)

// pragmas of every connection. Caches are small because the coordinator's
// working set is: one pool is some ten kilobytes.
var pragmas = []string{
	"busy_timeout(5000)",
	"foreign_keys(1)",
	"synchronous(FULL)",
	"temp_store(FILE)",
	"trusted_schema(0)",
}

// Store is a [store.Store] in one file.
type Store struct {
	path    string
	lock    *filelock.Lock // keeps a second coordinator away
	readDB  *sql.DB
	writeDB *sql.DB
	writer  *writer

	isClosed atomic.Bool
	closing  sync.Once
	closed   error // of Close; read after closing is done
}

var _ store.Store = (*Store)(nil)

// Open opens the store in the file at path, creating the file if it is missing
// (but not its directory) and bringing its schema up to date. One process at a
// time may have it open; a second gets an error that says so.
func Open(ctx context.Context, path string) (*Store, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the store %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string) (_ *Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the directory %s does not exist; create it, owned by the user that the coordinator runs as", dir)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	s := &Store{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	s.lock, err = filelock.Acquire(path + ".lock")
	if held := (*filelock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("another coordinator is using it: %w; stop that one first, or give this one a store of its own", err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock it: %w", err)
	}
	if err := create(path); err != nil {
		return nil, err
	}
	if s.writeDB, err = sql.Open("sqlite", dsn(path, "journal_mode(WAL)", "cache_size(-2048)", "journal_size_limit(8388608)")); err != nil {
		return nil, err
	}
	s.writeDB.SetMaxOpenConns(1)
	conn, err := s.writeDB.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	if err := prepare(ctx, conn); err != nil {
		return nil, errors.Join(explain(err), conn.Close())
	}
	// The file's own entry in its directory must survive as well.
	if err := atomicfile.SyncDir(dir); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.readDB, err = sql.Open("sqlite", dsn(path, "query_only(1)", "cache_size(-1024)")); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s.readDB.SetMaxOpenConns(readers)
	s.readDB.SetMaxIdleConns(readers)
	s.writer = newWriter(conn)
	return s, nil
}

// prepare makes sure of what the promise of durability rests on, and brings the
// schema up to date.
func prepare(ctx context.Context, conn *sql.Conn) error {
	var mode string
	if err := conn.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("its journal mode is %q and cannot be made \"wal\"; keep it on a local file system", mode)
	}
	return migrate(ctx, conn)
}

// dsn names the file in a way that no character of its path can change.
func dsn(path string, more ...string) string {
	q := url.Values{}
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	for _, p := range more {
		q.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// create makes sure that the file exists and is nobody else's to read; SQLite
// gives its log the same mode.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	if err := f.Chmod(fileMode); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// Close waits for the calls under way and gives the file free. Calls after it
// fail with [store.ErrClosed].
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.isClosed.Store(true)
		if err := s.release(); err != nil {
			s.closed = fmt.Errorf("cannot close the store %s: %w", s.path, err)
		}
	})
	return s.closed
}

// release gives back whatever is held.
func (s *Store) release() error {
	var errs []error
	if s.readDB != nil {
		errs = append(errs, s.readDB.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.stop())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Release())
	}
	return errors.Join(errs...)
}

// Ping implements [store.Store].
func (s *Store) Ping(ctx context.Context) error {
	_, err := write(ctx, s, func(w *writer) (struct{}, error) {
		_, err := w.exec(`INSERT INTO pings (id, at) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at`, instant(time.Now()))
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("cannot write to the store %s: %w", s.path, err)
	}
	var at string
	if err := s.queryRow(ctx, `SELECT at FROM pings`).Scan(&at); err != nil {
		return fmt.Errorf("cannot read the store %s: %w", s.path, err)
	}
	return nil
}
