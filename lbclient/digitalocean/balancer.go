package digitalocean

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// balancer is one look at the load balancer.
type balancer struct {
	id      string
	created string
	status  string // new, active, errored
	kind    string // REGIONAL, REGIONAL_NETWORK, GLOBAL
	tag     string // chooses the droplets, if not ""
	members []int
	check   godo.HealthCheck
}

// balancerOf reads what the vendor's client made of an answer.
func balancerOf(want string, lb *godo.LoadBalancer) (*balancer, error) {
	if lb == nil {
		return nil, errors.New("it has no load_balancer")
	}
	if !strings.EqualFold(lb.ID, want) {
		return nil, fmt.Errorf("it is of load balancer %q", tidy(lb.ID))
	}
	b := &balancer{
		id: strings.ToLower(lb.ID), created: tidy(lb.Created), status: tidy(lb.Status), kind: tidy(lb.Type), tag: tidy(lb.Tag),
	}
	for _, id := range lb.DropletIDs {
		if id <= 0 {
			return nil, fmt.Errorf("it names a droplet %d", id)
		}
		b.members = append(b.members, id)
	}
	slices.Sort(b.members)
	b.members = slices.Compact(b.members)
	if lb.HealthCheck != nil {
		b.check = *lb.HealthCheck
	}
	return b, nil
}

// look reads the balancer.
func (p *provider) look(ctx context.Context, op string) (*balancer, error) {
	lb, resp, err := p.api.LoadBalancers.Get(ctx, p.cfg.LoadBalancer)
	if err != nil {
		e := failed(op, http.MethodGet, resp, err)
		if e.Class == lbclient.ClassNotFound {
			e.Text += fmt.Sprintf("; there is no load balancer %s in the token's account", p.cfg.LoadBalancer)
		}
		return nil, e
	}
	b, err := balancerOf(p.cfg.LoadBalancer, lb)
	if err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Text: "the answer is not as DigitalOcean gives it", Err: err}
	}
	return b, nil
}

func (b *balancer) has(droplet int) bool { return slices.Contains(b.members, droplet) }

// epoch changes when the balancer is another one, chooses its droplets in
// another way, or checks them in another way.
func (b *balancer) epoch() string {
	c := b.check
	return fmt.Sprintf("%s@%s tag=%s check=%q:%d%q/%d/%d/%d/%d", b.id, b.created, b.tag,
		c.Protocol, c.Port, c.Path, c.CheckIntervalSeconds, c.ResponseTimeoutSeconds, c.HealthyThreshold, c.UnhealthyThreshold)
}

// suits refuses balancers that cannot be drained this way.
func (b *balancer) suits(op string, m Mode) error {
	e := &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op}
	switch {
	case b.kind == godo.LoadBalancerTypeGlobal:
		e.Text = "it is a global load balancer, which balances other load balancers and no droplets; name the regional one"
	case m == ModeRemove && b.tag != "":
		e.Text = fmt.Sprintf("it chooses its droplets by the tag %s, which may drive firewalls and other balancers too, so no droplet is removed; "+
			"use mode %q with a health gate", b.tag, ModeGate)
	case m == ModeGate && b.check.Protocol != "http" && b.check.Protocol != "https":
		e.Text = fmt.Sprintf("its check is %q, which no health gate can fail while the node serves; set an http check of the gate, or use mode %q",
			b.check.Protocol, ModeRemove)
	default:
		_, err := b.timing(time.Second)
		if err == nil {
			return nil
		}
		e.Err = err
	}
	return e
}

// maxPart bounds each part of a health check, so that nothing overflows.
const maxPart = 3600

// timing reads the health check. Nothing is assumed where the balancer is
// silent: DigitalOcean's own pages contradict each other on the defaults.
func (b *balancer) timing(second time.Duration) (lbclient.Timing, error) {
	c := b.check
	for _, part := range []struct {
		name string
		n    int
	}{
		{"check_interval_seconds", c.CheckIntervalSeconds}, {"response_timeout_seconds", c.ResponseTimeoutSeconds},
		{"healthy_threshold", c.HealthyThreshold}, {"unhealthy_threshold", c.UnhealthyThreshold},
	} {
		if part.n < 1 || part.n > maxPart {
			return lbclient.Timing{}, fmt.Errorf("its health check has %s %d, so how soon it notices cannot be computed", part.name, part.n)
		}
	}
	return lbclient.Timing{
		Interval: time.Duration(c.CheckIntervalSeconds) * second,
		Timeout:  time.Duration(c.ResponseTimeoutSeconds) * second,
		Fall:     c.UnhealthyThreshold,
		Rise:     c.HealthyThreshold,
	}, nil
}
