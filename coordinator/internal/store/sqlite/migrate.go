package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// migrations are numbered from 1 without gaps. One that was released is never
// changed; the next one follows it.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date, one transaction a step.
func migrate(ctx context.Context, conn *sql.Conn) error {
	steps, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	have, err := schemaVersion(ctx, conn)
	if err != nil {
		return err
	}
	if have > len(steps) {
		return fmt.Errorf("it was written by a newer version of Lockstep (its schema is %d, this one knows up to %d); "+
			"install that version again, or restore a backup that was made before the upgrade", have, len(steps))
	}
	for i := have; i < len(steps); i++ {
		if err := step(ctx, conn, i+1, steps[i]); err != nil {
			return fmt.Errorf("cannot bring its schema from %d to %d: %w", i, i+1, err)
		}
	}
	return nil
}

func readMigrations(fsys fs.FS) ([]string, error) {
	names, err := fs.Glob(fsys, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	steps := make([]string, len(names))
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("cannot read the migrations: expected number %d, found %s", i+1, name)
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		steps[i] = string(text)
	}
	return steps, nil
}

// schemaVersion returns 0 for an empty file, and refuses a database of
// something else.
func schemaVersion(ctx context.Context, conn *sql.Conn) (int, error) {
	var tables, known int
	err := conn.QueryRowContext(ctx, `SELECT count(*), count(CASE name WHEN 'schema_version' THEN 1 END) FROM sqlite_schema WHERE type = 'table'`).Scan(&tables, &known)
	switch {
	case err != nil:
		return 0, err
	case tables == 0:
		return 0, nil
	case known == 0:
		return 0, errors.New("it is a database of some other program; give the coordinator a file of its own")
	}
	var v int
	if err := conn.QueryRowContext(ctx, `SELECT version FROM schema_version`).Scan(&v); err != nil {
		return 0, fmt.Errorf("cannot read its schema's version: %w", err)
	}
	return v, nil
}

func step(ctx context.Context, conn *sql.Conn, to int, text string) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if to == 1 {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT; INSERT INTO schema_version VALUES (0)`); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE schema_version SET version = ?`, to); err != nil {
		return err
	}
	return tx.Commit()
}
