package coordinator

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
)

// What config lets pass is what each product takes, and every type that the
// coordinator may speak to is one to which it can.
func TestEveryBalancerOfAValidFileCanBeSpokenTo(t *testing.T) {
	for _, name := range []string{"ADMIN", "WEBHOOK", "WEB1", "WEB2", "WEB3", "CLOUD"} {
		t.Setenv("TEST_"+name, "the-secret-of-"+name+"-0123456789")
	}
	f, err := config.Load("internal/config/testdata/valid.balancers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	opened := map[string]bool{}
	for _, a := range f.Apps {
		b := a.Balancer
		if b.Via != config.ViaCoordinator {
			continue
		}
		if _, ok := products[b.Type]; !ok {
			t.Errorf("%s: the coordinator knows no type %q", b.Name, b.Type)
			continue
		}
		for _, n := range a.Nodes {
			lb, err := open(f, b, a.Server(config.Place{Node: n}))
			if err != nil {
				t.Errorf("%s: %v", b.Name, err)
				continue
			}
			lb.Close()
			opened[b.Type] = true
		}
		server := a.Server(config.Place{Node: "web2"})
		if got := nodeOf(f, b, server); got != "web2" {
			t.Errorf("%s: %s stands for %s, want web2", b.Name, server, got)
		}
	}
	for typ := range products {
		if !opened[typ] && typ != "haproxy" {
			t.Errorf("no balancer of type %s was opened", typ)
		}
	}
}
