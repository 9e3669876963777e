package hetzner

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"
	"github.com/hetznercloud/hcloud-go/v2/hcloud/metadata"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/cloudhttp"
)

// namesFor is how long the names of servers are remembered. They are for
// people, and each look at them costs a call.
const namesFor = 10 * time.Minute

// provider is the [lbclient.Provider] for one target of a Hetzner balancer.
type provider struct {
	cfg     Config
	carrier *http.Client
	cloud   *hcloud.Client

	lb      int64   // the balancer's id, once known
	self    *key    // which member the target is, once known
	held    *record // of the drain that we know to hold, for Observe
	names   map[int64]string
	namesAt time.Time
}

// op names an operation, for messages.
func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s in Hetzner balancer %s", verb, p.cfg.Server, p.cfg.Name)
}

// Close implements [lbclient.Provider].
func (p *provider) Close() error {
	p.carrier.CloseIdleConnections()
	return nil
}

// balancer reads the balancer: by id once it is known, since a list is no
// fresher and costs as much.
func (p *provider) balancer(ctx context.Context, op string) (*hcloud.LoadBalancer, error) {
	if p.lb != 0 {
		return p.balancerByID(ctx, op, p.lb)
	}
	if id, err := strconv.ParseInt(p.cfg.LoadBalancer, 10, 64); err == nil {
		lb, err := p.balancerByID(ctx, op, id)
		if err == nil {
			p.lb = lb.ID
		}
		return lb, err
	}
	list, resp, err := p.cloud.LoadBalancer.List(ctx, hcloud.LoadBalancerListOpts{Name: p.cfg.LoadBalancer})
	if err != nil {
		return nil, p.fault(op, http.MethodGet, resp, err)
	}
	switch {
	case len(list) == 0:
		return nil, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("the token's project has no load balancer %q; is it in another project?", p.cfg.LoadBalancer)}
	case len(list) > 1 || list[0].Name != p.cfg.LoadBalancer || list[0].ID == 0:
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the API answers with %d load balancers for the name %q; give the id instead", len(list), p.cfg.LoadBalancer)}
	}
	p.lb = list[0].ID
	return list[0], nil
}

func (p *provider) balancerByID(ctx context.Context, op string, id int64) (*hcloud.LoadBalancer, error) {
	lb, resp, err := p.cloud.LoadBalancer.GetByID(ctx, id)
	switch {
	case err != nil:
		return nil, p.fault(op, http.MethodGet, resp, err)
	case lb == nil:
		if id == p.lb {
			p.lb = 0 // a new one of that name may be there
		}
		return nil, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("the token's project has no load balancer with id %d", id)}
	case lb.ID != id:
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op,
			Text: fmt.Sprintf("asked for load balancer %d, the API answers with %d", id, lb.ID)}
	}
	return lb, nil
}

// identity finds which member the target is.
func (p *provider) identity(ctx context.Context, op string) (key, error) {
	if p.self != nil {
		return *p.self, nil
	}
	k, err := p.findIdentity(ctx, op)
	if err == nil {
		p.self = &k
	}
	return k, err
}

func (p *provider) findIdentity(ctx context.Context, op string) (key, error) {
	switch {
	case p.cfg.IP != "":
		return ipKey(p.cfg.IP), nil
	case p.cfg.ServerID != 0:
		return key{server: p.cfg.ServerID}, nil
	case p.cfg.FromMetadata:
		return p.askMetadata(ctx, op)
	}
	list, resp, err := p.cloud.Server.List(ctx, hcloud.ServerListOpts{Name: p.cfg.Server})
	if err != nil {
		return key{}, p.fault(op, http.MethodGet, resp, err)
	}
	switch {
	case len(list) == 0:
		return key{}, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("the token's project has no server named %q; give the server's id, or the IP address of a target of type ip", p.cfg.Server)}
	case len(list) > 1 || list[0].Name != p.cfg.Server || list[0].ID == 0:
		return key{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the API answers with %d servers for the name %q; give the server's id instead", len(list), p.cfg.Server)}
	}
	return key{server: list[0].ID}, nil
}

// askMetadata carries no token: the service is told apart by address alone.
func (p *provider) askMetadata(ctx context.Context, op string) (key, error) {
	carrier := cloudhttp.NewClient(cloudhttp.Config{AttemptTimeout: p.cfg.CallTimeout, MinWait: p.cfg.RetryWait})
	defer carrier.CloseIdleConnections()
	c := metadata.NewClient(metadata.WithEndpoint(p.cfg.MetadataEndpoint), metadata.WithHTTPClient(carrier), metadata.WithTimeout(p.cfg.CallTimeout))
	id, err := c.InstanceIDWithContext(ctx)
	if err == nil && id <= 0 {
		err = fmt.Errorf("%d is no server id", id)
	}
	if err != nil {
		return key{}, &lbclient.Error{Class: cloudhttp.ClassOfError(err), Op: op,
			Text: fmt.Sprintf("the metadata service at %s does not say which server this is; is this a Hetzner Cloud server?", p.cfg.MetadataEndpoint), Err: err}
	}
	return key{server: id}, nil
}

// learnNames fetches the names of all servers when one of ids has none.
func (p *provider) learnNames(ctx context.Context, ids []int64) error {
	fresh := time.Since(p.namesAt) < namesFor
	for _, id := range ids {
		if _, known := p.names[id]; !known {
			fresh = false
		}
	}
	if fresh || len(ids) == 0 {
		return nil
	}
	servers, err := p.cloud.Server.All(ctx)
	if err != nil {
		return p.fault(p.op("name the other members of"), http.MethodGet, nil, err)
	}
	clear(p.names)
	for _, id := range ids {
		p.names[id] = "" // deleted, perhaps; not to be asked for each time
	}
	for _, s := range servers {
		p.names[s.ID] = s.Name
	}
	p.namesAt = time.Now()
	return nil
}
