package agent

import (
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// leftRunning finds the app's instances that had a turn once, are named no more,
// and still run: nobody stops them, but somebody should know.
func (p *app) leftRunning(d *journal.Doc) []api.LeftTarget {
	if d.Absent || d.Assignment == nil {
		return nil
	}
	stem, template := strings.CutSuffix(d.Assignment.Spec.Unit, "@.service")
	var left []api.LeftTarget
	for _, target := range slices.Sorted(maps.Keys(d.Targets)) {
		_, instance, several := strings.Cut(target, ":")
		if _, named := goalOf(d, target); named || !several || !template {
			continue
		}
		unit := stem + "@" + instance + ".service"
		ctx, cancel := p.look()
		st, err := p.a.deps.Units.Status(ctx, unit)
		cancel()
		if err == nil && st.ActiveState == "active" {
			left = append(left, api.LeftTarget{Target: target, Instance: instance, Unit: unit})
		}
	}
	return left
}
