package agent

import (
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
)

// NewBalancer makes the provider for one target of a balancer, by its type. It
// is the one place that knows every product.
func NewBalancer(b api.Balancer, server string) (lbclient.Provider, error) {
	switch b.Type {
	case "haproxy":
		return haproxy.New(haproxy.Config{Name: b.Name, Endpoints: b.Endpoints, Backends: b.Backends, Server: server})
	}
	return nil, &lbclient.Error{
		Class: lbclient.ClassUnsupported, Op: "use balancer " + b.Name,
		Text: fmt.Sprintf("this agent knows no balancer of type %q; update deploy-agent", b.Type),
	}
}
