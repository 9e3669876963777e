package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, pool string) (rollout.State, int64, error) {
	var state rollout.State
	var version int64
	err := s.queryRow(ctx, `SELECT version, state_json FROM pools WHERE name = ?`, pool).Scan(&version, jsonIn{&state})
	if err != nil {
		return rollout.State{}, 0, fmt.Errorf("cannot load pool %s: %w", pool, err)
	}
	return state, version, nil
}

// Pools implements [store.Store].
func (s *Store) Pools(ctx context.Context) ([]string, error) {
	names, err := query(ctx, s, func(r scanner) (name string, err error) { return name, r.Scan(&name) }, `SELECT name FROM pools ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("cannot list the pools: %w", err)
	}
	return names, nil
}

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, c store.Commit) (int64, error) {
	next, err := s.commit(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("cannot store version %d of pool %s: %w", c.Version+1, c.State.Pool, err)
	}
	return next, nil
}

func (s *Store) commit(ctx context.Context, c store.Commit) (int64, error) {
	if c.State.Pool == "" {
		return 0, errors.New("the state names no pool")
	}
	// What can be done before is not done while others wait.
	state, err := jsonOf(c.State)
	if err != nil {
		return 0, err
	}
	event, err := store.EncodeEvent(c.Event)
	if err != nil {
		return 0, err
	}
	effects, err := effectsOf(c.Effects)
	if err != nil {
		return 0, err
	}
	rows, err := rowsOf(c.Effects)
	if err != nil {
		return 0, err
	}
	next := c.Version + 1
	return write(ctx, s, func(w *writer) (int64, error) {
		if err := w.replace(c.State.Pool, c.Version, state); err != nil {
			return 0, err
		}
		_, err := w.exec(`INSERT INTO events (pool, version, at, event_json, effects_json) VALUES (?, ?, ?, ?, ?)`,
			c.State.Pool, next, c.State.Now.UTC().Format(instantLayout), string(event), effects)
		if err != nil {
			return 0, err
		}
		for _, r := range rows {
			if _, err := w.exec(r.text, r.args...); err != nil {
				return 0, err
			}
		}
		return next, nil
	})
}

// replace puts the state under the next version, if the pool is at the given one.
func (w *writer) replace(pool string, version int64, state string) error {
	text, args := `UPDATE pools SET version = version + 1, state_json = ? WHERE name = ? AND version = ?`, []any{state, pool, version}
	if version == 0 {
		text, args = `INSERT INTO pools (name, version, state_json) VALUES (?, 1, ?) ON CONFLICT (name) DO NOTHING`, []any{pool, state}
	}
	res, err := w.exec(text, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return store.ErrConflict
}

// effectsOf returns the effects as one JSON array.
func effectsOf(effects []rollout.Effect) (string, error) {
	var b strings.Builder
	b.WriteByte('[')
	for i, e := range effects {
		data, err := store.EncodeEffect(e)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(data)
	}
	b.WriteByte(']')
	return b.String(), nil
}

// row is one statement to execute.
type row struct {
	text string
	args []any
}

// rowsOf returns what the effects change beside the pool.
func rowsOf(effects []rollout.Effect) ([]row, error) {
	var rows []row
	for _, e := range effects {
		switch e := e.(type) {
		case rollout.Changed:
			data, err := jsonOf(e)
			if err != nil {
				return nil, err
			}
			var finished any
			if e.Rollout.Status.Final() {
				finished = instant(e.Rollout.Finished)
			}
			rows = append(rows, row{`INSERT INTO rollouts (id, app, created, finished, changed_json) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET app = excluded.app, created = excluded.created, finished = excluded.finished, changed_json = excluded.changed_json`,
				[]any{string(e.Rollout.ID), e.Rollout.App, e.Rollout.Created.UTC().Format(instantLayout), finished, data}})
		case rollout.Noted:
			data, err := jsonOf(e)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row{`INSERT INTO timeline (rollout, at, noted_json) VALUES (?, ?, ?)`,
				[]any{string(e.Rollout), e.At.UTC().Format(instantLayout), data}})
		}
	}
	return rows, nil
}

// Rollouts implements [store.Store].
func (s *Store) Rollouts(ctx context.Context, app string, limit int) ([]rollout.Changed, error) {
	all, err := query(ctx, s, scanChanged,
		`SELECT changed_json FROM rollouts WHERE app = ? ORDER BY created DESC, seq DESC LIMIT ?`, app, orDefault(limit))
	if err != nil {
		return nil, fmt.Errorf("cannot read the rollouts of %s: %w", app, err)
	}
	return all, nil
}

// Rollout implements [store.Store].
func (s *Store) Rollout(ctx context.Context, id rollout.RolloutID) (rollout.Changed, error) {
	c, err := scanChanged(s.queryRow(ctx, `SELECT changed_json FROM rollouts WHERE id = ?`, string(id)))
	if err != nil {
		return rollout.Changed{}, fmt.Errorf("cannot read rollout %s: %w", id, err)
	}
	return c, nil
}

func scanChanged(r scanner) (c rollout.Changed, err error) {
	err = r.Scan(jsonIn{&c})
	return c, err
}

// Timeline implements [store.Store].
func (s *Store) Timeline(ctx context.Context, id rollout.RolloutID, after int64, limit int) ([]store.Line, error) {
	lines, err := query(ctx, s, func(r scanner) (l store.Line, err error) {
		err = r.Scan(&l.Number, jsonIn{&l.Noted})
		return l, err
	}, `SELECT number, noted_json FROM timeline WHERE rollout = ? AND number > ? ORDER BY number LIMIT ?`, string(id), after, orDefault(limit))
	if err != nil {
		return nil, fmt.Errorf("cannot read the timeline of rollout %s: %w", id, err)
	}
	return lines, nil
}

// Prune implements [store.Store].
func (s *Store) Prune(ctx context.Context, before time.Time) error {
	old := before.UTC().Format(instantLayout)
	_, err := write(ctx, s, func(w *writer) (struct{}, error) {
		for _, text := range []string{
			`DELETE FROM events WHERE at < ?`,
			`DELETE FROM deliveries WHERE received < ? AND decision <> 'accepted'`,
			`DELETE FROM rollouts WHERE finished < ?
				AND seq <> (SELECT r.seq FROM rollouts r WHERE r.app = rollouts.app ORDER BY r.created DESC, r.seq DESC LIMIT 1)`,
			// After the rollouts, so that theirs go with them.
			`DELETE FROM timeline WHERE at < ? AND NOT EXISTS (SELECT 1 FROM rollouts WHERE id = timeline.rollout)`,
			`DELETE FROM logs WHERE arrived < ? AND NOT EXISTS (SELECT 1 FROM rollouts WHERE id = logs.rollout)`,
		} {
			if _, err := w.exec(text, old); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("cannot delete what is older than %s: %w", before.Format(time.RFC3339), err)
	}
	return nil
}
