package coordinator

import (
	"context"
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
)

// keepsTheWayBack refuses a configuration without a balancer behind which a
// target has its turn: nobody could put the target back, for what it takes to
// speak to the balancer is in the file alone. A node that is gone from the file
// too is not waited for.
func keepsTheWayBack(ctx context.Context, st store.Store, f *config.Fleet, file string) error {
	names, err := st.Pools(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "app:") || f.Balancer(name) != nil {
			continue
		}
		s, _, err := st.Load(ctx, name)
		if err != nil {
			return err
		}
		for _, t := range s.Targets {
			if t.Turn != 0 && f.Node(t.Node) != nil {
				return fmt.Errorf("cannot use %s: it has no balancer %s any more, and %s has its turn to be out of rotation there, so nobody could put it back; "+
					"write the balancer and its apps as they were, start deploy-coordinator, and remove them when `deployctl status %s` shows no turn (or remove node %s too, if it is gone for good)",
					file, name, t.ID, t.App, t.Node)
			}
		}
	}
	return nil
}
