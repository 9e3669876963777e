package coordinator

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/depot"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// keepArchivesEvery is how often archives that no release needs are removed.
const keepArchivesEvery = 10 * time.Minute

// tellArchives tells the engine which built files of the app there are.
func tellArchives(ctx context.Context, d *depot.Depot, run *runner.Runner, app string) error {
	all, err := d.List(app)
	if err != nil {
		return err
	}
	if s, ok := run.View(app); ok && slices.Equal(s.App(app).Archives, all) {
		return nil
	}
	_, err = run.Apply(ctx, app, func(at time.Time) rollout.Event {
		return rollout.Archived{At: at, App: app, Digests: all}
	})
	return err
}

// keepArchives removes what no release needs that nodes must keep.
func keepArchives(ctx context.Context, d *depot.Depot, run *runner.Runner, log *slog.Logger) error {
	ticker := time.NewTicker(keepArchivesEvery)
	defer ticker.Stop()
	for {
		for _, s := range run.Views() {
			for _, a := range s.Apps {
				removed, err := d.Retain(a.Name, s.KeepArchives(a.Name))
				if err == nil && removed {
					err = tellArchives(ctx, d, run, a.Name)
				}
				if err != nil {
					log.Error("Cannot keep the archives in order", "app", a.Name, "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
