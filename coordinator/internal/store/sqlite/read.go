package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

// scanner is one row.
type scanner interface {
	Scan(dest ...any) error
}

// failed is the row of a query that failed.
type failed struct{ err error }

func (f failed) Scan(...any) error { return f.err }

// queryRow reads one row; its Scan returns [store.ErrNotFound] when there is none.
func (s *Store) queryRow(ctx context.Context, text string, args ...any) scanner {
	if s.isClosed.Load() {
		return failed{store.ErrClosed}
	}
	return found{s.readDB.QueryRowContext(ctx, text, args...)}
}

type found struct{ row *sql.Row }

func (f found) Scan(dest ...any) error {
	err := f.row.Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return explain(err)
}

// query reads rows, each with scan.
func query[T any](ctx context.Context, s *Store, scan func(scanner) (T, error), text string, args ...any) (_ []T, err error) {
	if s.isClosed.Load() {
		return nil, store.ErrClosed
	}
	rows, err := s.readDB.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, explain(rows.Err())
}

func orDefault(limit int) int {
	if limit <= 0 {
		return store.DefaultLimit
	}
	return limit
}
