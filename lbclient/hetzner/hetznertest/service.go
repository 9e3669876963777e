package hetznertest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// service is a running [Service]: it listens, probes, and forwards.
type service struct {
	Service
	cloud    *Cloud
	listener net.Listener
	front    *http.Server // nil for tcp

	mu     sync.Mutex
	points []*point
	next   int                // for round robin
	open   map[net.Conn]bool  // clients of a tcp service
	forced map[int64]string   // what is reported of a server whatever is so
	last   map[spot]lastWords // of points that left, while frozen
	stale  bool               // reports are frozen
	closed bool
}

// lastWords is what is reported of a point.
type lastWords struct {
	status, detail string
	httpStatus     int
}

// point is one machine to which a service forwards.
type point struct {
	spot
	address   string // of the traffic
	probed    string // of the checks
	transport *http.Transport
	stop      context.CancelFunc

	// Guarded by the service's mutex.
	now, told    lastWords
	passes, bads int
	conns        map[net.Conn]bool
}

func (c *Cloud) newService(b *balancer, s Service) (*service, error) {
	if s.Protocol == "" {
		s.Protocol = "http"
	}
	if s.Protocol != "http" && s.Protocol != "tcp" {
		return nil, fmt.Errorf("load balancer %s: protocol %q: a made balancer speaks http and tcp", b.name, s.Protocol)
	}
	if s.Listen == "" {
		s.Listen = "127.0.0.1:0"
	}
	s.Check = s.Check.withDefaults(s.DestinationPort)
	l, err := listen(s.Listen)
	if err != nil {
		return nil, fmt.Errorf("load balancer %s, listen port %d: %w", b.name, s.ListenPort, err)
	}
	out := &service{
		Service: s, cloud: c, listener: l, open: make(map[net.Conn]bool),
		forced: make(map[int64]string), last: make(map[spot]lastWords),
	}
	if s.Protocol == "http" {
		out.front = newServer(out.proxy())
		out.front.IdleTimeout = idleTimeout
	}
	return out, nil
}

func (c Check) withDefaults(port int) Check {
	if c.Protocol == "" {
		c.Protocol = "http"
	}
	if c.Port == 0 {
		c.Port = port
	}
	if c.Interval == 0 {
		c.Interval = 15
	}
	if c.Timeout == 0 {
		c.Timeout = 10
	}
	if c.Retries == 0 {
		c.Retries = 3
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if len(c.StatusCodes) == 0 {
		c.StatusCodes = []string{"2??", "3??"}
	}
	return c
}

// join begins to probe and to forward to a machine.
func (s *service) join(sp spot, b Backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	p := &point{
		spot: sp, address: b.address(s.DestinationPort), probed: b.address(s.Check.Port),
		conns: make(map[net.Conn]bool),
		now:   lastWords{status: "unknown"}, told: lastWords{status: "unknown"},
	}
	p.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, p) },
		IdleConnTimeout:     idleTimeout,
		MaxIdleConnsPerHost: 100,
		DisableCompression:  true,
	}
	delete(s.last, sp)
	s.points = append(s.points, p)
	s.probe(p)
}

// probe begins to probe a point. The service is locked.
func (s *service) probe(p *point) {
	ctx, stop := context.WithCancel(s.cloud.ctx)
	p.stop = stop
	check := s.Check
	s.cloud.work.Go(func() { s.watch(ctx, p, check) })
}

// restartProbes makes a changed check count from now on.
func (s *service) restartProbes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.points {
		p.stop()
		p.passes, p.bads = 0, 0
		s.probe(p)
	}
}

// leave stops probing and forwarding to a machine. What is in flight goes on,
// unless the cloud cuts it.
func (s *service) leave(sp spot) {
	var idle []*http.Transport
	defer func() {
		for _, t := range idle {
			t.CloseIdleConnections() // takes the lock, once for each
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.points {
		if p.spot != sp {
			continue
		}
		p.stop()
		if s.stale {
			s.last[sp] = p.told
		}
		if s.cloud.opt.CutOnRemove {
			for conn := range p.conns {
				conn.Close()
			}
		}
		idle = append(idle, p.transport)
	}
	s.points = slices.DeleteFunc(s.points, func(p *point) bool { return p.spot == sp })
}

// pick chooses the next machine, by turns, nil when there is none.
func (s *service) pick() *point {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.points {
		p := s.points[(s.next+i)%len(s.points)]
		if p.now.status == "healthy" || p.now.status == "unknown" && !s.cloud.opt.HoldUntilChecked {
			s.next = (s.next + i + 1) % len(s.points)
			return p
		}
	}
	return nil
}

// verdict is what is reported of a machine.
func (s *service) verdict(sp spot) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := lastWords{status: "unknown"}
	if was, ok := s.last[sp]; ok {
		w = was
	}
	for _, p := range s.points {
		if p.spot == sp {
			w = p.told
		}
	}
	if status := s.forced[sp.server]; status != "" {
		w = lastWords{status: status}
	}
	out := map[string]any{"listen_port": s.ListenPort, "status": w.status}
	if w.status == "unhealthy" && w.detail != "" {
		out["detail"] = w.detail
		if w.httpStatus != 0 {
			out["http_status_code"] = w.httpStatus
		}
	}
	return out
}

func (s *service) object() map[string]any {
	check := map[string]any{
		"protocol": s.Check.Protocol, "port": s.Check.Port,
		"interval": s.Check.Interval, "timeout": s.Check.Timeout, "retries": s.Check.Retries,
	}
	if s.Check.Protocol == "http" {
		check["http"] = map[string]any{
			"domain": s.Check.Domain, "path": s.Check.Path, "response": s.Check.Response,
			"status_codes": s.Check.StatusCodes, "tls": false,
		}
	}
	out := map[string]any{
		"protocol": s.Protocol, "listen_port": s.ListenPort, "destination_port": s.DestinationPort,
		"proxyprotocol": false, "health_check": check,
	}
	if s.Protocol == "http" {
		out["http"] = map[string]any{
			"cookie_name": "HCLBSTICKY", "cookie_lifetime": 300, "timeout_idle": int(idleTimeout / time.Second), "sticky_sessions": false,
		}
	}
	return out
}

// FreezeHealth makes the API report the health as it is now, whatever becomes
// of it, until it is called with false. The traffic goes by the truth.
func (c *Cloud) FreezeHealth(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.balancers {
		for _, s := range b.services {
			s.mu.Lock()
			s.stale = on
			if !on {
				clear(s.last)
				for _, p := range s.points {
					p.told = p.now
				}
			}
			s.mu.Unlock()
		}
	}
}

// ReportHealth makes the API report a status of a server on a listen port of
// all balancers, whatever is so; "" ends that.
func (c *Cloud) ReportHealth(server int64, listenPort int, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.balancers {
		for _, s := range b.services {
			if s.ListenPort == listenPort {
				s.mu.Lock()
				s.forced[server] = status
				s.mu.Unlock()
			}
		}
	}
}
