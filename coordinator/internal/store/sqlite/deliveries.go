package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

const deliveryColumns = `id, event, repository, ref, after, sender, received, apps_json, decision, reason, rollouts_json`

// received is what a Receive returns beside its error.
type received struct {
	store.Delivery
	duplicate bool
}

// Receive implements [store.Store].
func (s *Store) Receive(ctx context.Context, d store.Delivery) (store.Delivery, bool, error) {
	r, err := s.receive(ctx, d)
	if err != nil {
		return store.Delivery{}, false, fmt.Errorf("cannot store delivery %s: %w", d.ID, err)
	}
	return r.Delivery, r.duplicate, nil
}

func (s *Store) receive(ctx context.Context, d store.Delivery) (received, error) {
	apps, err := jsonOf(d.Apps)
	if err != nil {
		return received{}, err
	}
	rollouts, err := jsonOf(d.Rollouts)
	if err != nil {
		return received{}, err
	}
	return write(ctx, s, func(w *writer) (received, error) {
		// The row returned is the one stored, whoever stored it.
		got, err := scanDelivery(w.queryRow(`INSERT INTO deliveries (`+deliveryColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO NOTHING RETURNING `+deliveryColumns,
			d.ID, d.Event, d.Repository, d.Ref, d.After, d.Sender, instant(d.Received), apps, string(d.Decision), d.Reason, rollouts))
		if !errors.Is(err, sql.ErrNoRows) {
			return received{got, false}, err
		}
		got, err = scanDelivery(w.queryRow(`SELECT `+deliveryColumns+` FROM deliveries WHERE id = ?`, d.ID))
		return received{got, true}, err
	})
}

// Resolve implements [store.Store].
func (s *Store) Resolve(ctx context.Context, id string, decision store.Decision, reason string, rollouts []rollout.RolloutID) error {
	ids, err := jsonOf(rollouts)
	if err == nil {
		_, err = write(ctx, s, func(w *writer) (struct{}, error) {
			res, err := w.exec(`UPDATE deliveries SET decision = ?, reason = ?, rollouts_json = ? WHERE id = ?`, string(decision), reason, ids, id)
			if err != nil {
				return struct{}{}, err
			}
			if n, err := res.RowsAffected(); err != nil || n == 1 {
				return struct{}{}, err
			}
			return struct{}{}, store.ErrNotFound
		})
	}
	if err != nil {
		return fmt.Errorf("cannot store what became of delivery %s: %w", id, err)
	}
	return nil
}

// Pending implements [store.Store].
func (s *Store) Pending(ctx context.Context) ([]store.Delivery, error) {
	return s.deliveries(ctx, `SELECT `+deliveryColumns+` FROM deliveries WHERE decision = 'accepted' ORDER BY received, seq`)
}

// Deliveries implements [store.Store].
func (s *Store) Deliveries(ctx context.Context, limit int) ([]store.Delivery, error) {
	return s.deliveries(ctx, `SELECT `+deliveryColumns+` FROM deliveries ORDER BY received DESC, seq DESC LIMIT ?`, orDefault(limit))
}

func (s *Store) deliveries(ctx context.Context, text string, args ...any) ([]store.Delivery, error) {
	all, err := query(ctx, s, scanDelivery, text, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the deliveries: %w", err)
	}
	return all, nil
}

func scanDelivery(r scanner) (d store.Delivery, err error) {
	err = r.Scan(&d.ID, &d.Event, &d.Repository, &d.Ref, &d.After, &d.Sender, instantIn{&d.Received},
		jsonIn{&d.Apps}, &d.Decision, &d.Reason, jsonIn{&d.Rollouts})
	return d, err
}
