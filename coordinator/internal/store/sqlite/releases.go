package sqlite

import (
	"context"
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

// PutRelease implements [store.Store].
func (s *Store) PutRelease(ctx context.Context, app string, r store.Release) error {
	recipe, err := jsonOf(r.Recipe)
	if err == nil {
		_, err = write(ctx, s, func(w *writer) (struct{}, error) {
			_, err := w.exec(`INSERT INTO releases (app, id, sha, subject, committed, recipe_json, recorded) VALUES (?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (app, id) DO NOTHING`,
				app, r.ID, r.SHA, r.Subject, instant(r.Committed), recipe, instant(r.Recorded))
			return struct{}{}, err
		})
	}
	if err != nil {
		return fmt.Errorf("cannot store release %s of %s: %w", r.ID, app, err)
	}
	return nil
}

// Releases implements [store.Store].
func (s *Store) Releases(ctx context.Context, app string, ids ...string) ([]store.Release, error) {
	if ids == nil {
		ids = []string{}
	}
	named, err := jsonOf(ids)
	if err != nil {
		return nil, err
	}
	all, err := query(ctx, s, scanRelease, `SELECT id, sha, subject, committed, recipe_json, recorded FROM releases
		WHERE app = ? AND (json_array_length(?2) = 0 OR id IN (SELECT value FROM json_each(?2)))
		ORDER BY recorded DESC, seq DESC`, app, named)
	if err != nil {
		return nil, fmt.Errorf("cannot read the releases of %s: %w", app, err)
	}
	return all, nil
}

func scanRelease(r scanner) (rel store.Release, err error) {
	err = r.Scan(&rel.ID, &rel.SHA, &rel.Subject, instantIn{&rel.Committed}, jsonIn{&rel.Recipe}, instantIn{&rel.Recorded})
	return rel, err
}
