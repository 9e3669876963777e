package hetzner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps {
	c := lbclient.Caps{Health: true, Undocumented: "what becomes of connections in flight when a target turns unhealthy"}
	if p.cfg.Mode == ModeRemove {
		c.Undocumented = "what becomes of connections in flight when a target is removed, " +
			"and whether a target that was just added gets traffic before its first check"
	}
	return c
}

// Timing implements [lbclient.Timed]: the slowest check of the ports that count.
func (p *provider) Timing(ctx context.Context) (lbclient.Timing, error) {
	lb, err := p.balancer(ctx, p.op("read the health checks of"))
	if err != nil {
		return lbclient.Timing{}, err
	}
	v := read(lb)
	ports := v.ports(p.cfg.Ports)
	var out lbclient.Timing
	for _, s := range lb.Services {
		if slices.Contains(ports, s.ListenPort) {
			h := s.HealthCheck
			out = out.Slower(lbclient.Timing{Interval: h.Interval, Timeout: h.Timeout, Fall: h.Retries, Rise: h.Retries})
		}
	}
	return out, nil
}

// checkGate refuses health checks that a closed gate would pass, or that do not
// go to the gate.
func (p *provider) checkGate(op string, v view) error {
	ports := v.ports(p.cfg.Ports)
	for _, s := range v.lb.Services {
		if !slices.Contains(ports, s.ListenPort) {
			continue
		}
		if why := p.missesGate(s.HealthCheck); why != "" {
			return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
				Text: fmt.Sprintf("the health check of listen port %d %s", s.ListenPort, why)}
		}
	}
	return nil
}

func (p *provider) missesGate(h hcloud.LoadBalancerServiceHealthCheck) string {
	if h.Protocol != hcloud.LoadBalancerServiceProtocolHTTP || h.HTTP == nil {
		return fmt.Sprintf("has protocol %q and would not notice a closed gate; make it http, or use mode remove", h.Protocol)
	}
	if p.cfg.GatePort != 0 && h.Port != p.cfg.GatePort {
		return fmt.Sprintf("goes to port %d, but the gate answers on %d", h.Port, p.cfg.GatePort)
	}
	if p.cfg.GatePath != "" && h.HTTP.Path != p.cfg.GatePath {
		return fmt.Sprintf("asks for %q, but the gate answers on %q", h.HTTP.Path, p.cfg.GatePath)
	}
	if statusMatches(h.HTTP.StatusCodes, p.cfg.GateStatus) {
		return fmt.Sprintf("takes status %d, with which a closed gate answers, for healthy (%s)",
			p.cfg.GateStatus, strings.Join(h.HTTP.StatusCodes, ", "))
	}
	return ""
}

// statusMatches tells whether one of patterns such as "2??" or "200" fits.
func statusMatches(patterns []string, status int) bool {
	text := strconv.Itoa(status)
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if len(pattern) != len(text) {
			return false
		}
		for i := range pattern {
			if pattern[i] != '?' && pattern[i] != '*' && pattern[i] != text[i] {
				return false
			}
		}
		return true
	})
}
