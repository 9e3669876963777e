package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

// AppendLogs implements [store.Store].
func (s *Store) AppendLogs(ctx context.Context, node string, chunks []api.LogChunk) error {
	if len(chunks) == 0 {
		return nil
	}
	arrived := instant(time.Now())
	_, err := write(ctx, s, func(w *writer) (struct{}, error) {
		for _, c := range chunks {
			// SQLite's integers are signed; only equality matters here.
			_, err := w.exec(`INSERT INTO logs (rollout, node, app, instance, step, number, at, arrived, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (rollout, node, app, step, number) DO NOTHING`,
				c.Rollout, node, c.App, c.Instance, string(c.Step), int64(c.Number), instant(c.At), arrived, []byte(c.Data))
			if err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("cannot store the output of %s: %w", node, err)
	}
	return nil
}

// Logs implements [store.Store].
func (s *Store) Logs(ctx context.Context, q store.LogQuery) ([]api.LogLine, error) {
	lines, err := query(ctx, s, func(r scanner) (l api.LogLine, err error) {
		var data []byte
		err = r.Scan(&l.Position, instantIn{&l.At}, &l.Node, &l.App, &l.Instance, &l.Rollout, &l.Step, &data)
		l.Data = string(data)
		return l, err
	}, `SELECT position, at, node, app, instance, rollout, step, data FROM logs
		WHERE rollout = ?1 AND position > ?2 AND (?3 = '' OR node = ?3) AND (?4 = '' OR step = ?4)
		ORDER BY position LIMIT ?5`, string(q.Rollout), q.After, q.Node, string(q.Step), orDefault(q.Limit))
	if err != nil {
		return nil, fmt.Errorf("cannot read the output of rollout %s: %w", q.Rollout, err)
	}
	return lines, nil
}
