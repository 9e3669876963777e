package trigger

import (
	"context"
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/webhook"
)

// Receive records a delivery and says at once what is to become of it; what
// concerns an app is taken up right after. It is the webhook's sink.
func (t *Trigger) Receive(ctx context.Context, d webhook.Delivery) (webhook.Answer, error) {
	rec := store.Delivery{
		ID: d.ID, Event: d.Event, Repository: d.Repository.FullName, Ref: d.Ref, After: d.After,
		Sender: d.Sender, Received: d.Received, Decision: store.Ignored,
	}
	switch apps, branches := t.match(d); {
	case d.Ignored != "":
		rec.Reason = d.Ignored.Text()
	case len(apps) > 0:
		rec.Decision, rec.Apps = store.Accepted, apps
	case len(branches) > 0:
		rec.Reason = fmt.Sprintf("branch %s is not deployed; apps of this repository deploy %v", d.Branch, branches)
	default:
		rec.Reason = fmt.Sprintf("no app has the repository %s", d.Repository.FullName)
	}
	rec, duplicate, err := t.cfg.Store.Receive(ctx, rec)
	if err != nil {
		return webhook.Answer{}, fmt.Errorf("cannot record delivery %s: %w", d.ID, err)
	}
	if rec.Decision == store.Accepted {
		// A repeated one is followed already, unless it was recorded by a call
		// that did not learn of it.
		if err := t.follow(ctx, rec, duplicate); err != nil {
			return webhook.Answer{}, err
		}
	}
	return webhook.Answer{Duplicate: duplicate, Decision: string(rec.Decision), Reason: rec.Reason, Apps: rec.Apps}, nil
}

// match returns the apps that a push concerns, and the branches of all apps of
// its repository.
func (t *Trigger) match(d webhook.Delivery) (apps, branches []string) {
	for _, a := range t.cfg.Apps {
		if !webhook.SameRepository(a.Repo, d) {
			continue
		}
		branches = append(branches, a.Branch)
		if a.Branch == d.Branch {
			apps = append(apps, a.Name)
		}
	}
	return apps, branches
}
