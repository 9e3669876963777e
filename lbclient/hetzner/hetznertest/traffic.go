package hetznertest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// idleTimeout is Hetzner's default between client, balancer and target.
const idleTimeout = 50 * time.Second

// dialTimeout bounds the way to a target, in real time.
const dialTimeout = 5 * time.Second

// run serves until the service is closed.
func (s *service) run() {
	if s.front != nil {
		serve(s.front, s.listener)
		return
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		clients.Go(func() { s.splice(conn) })
	}
}

// close ends the service with all its connections.
func (s *service) close() {
	s.mu.Lock()
	s.closed = true
	var conns []net.Conn
	for conn := range s.open {
		conns = append(conns, conn)
	}
	for _, p := range s.points {
		p.stop()
		for conn := range p.conns {
			conns = append(conns, conn)
		}
	}
	s.points = nil
	s.mu.Unlock()
	if s.front != nil {
		s.front.Close()
	}
	s.listener.Close()
	for _, conn := range conns {
		conn.Close()
	}
}

// dial connects to a point and remembers the connection, in case it is cut.
func (s *service) dial(ctx context.Context, p *point) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	p.conns[conn] = true
	return &tracked{Conn: conn, forget: func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(p.conns, conn)
	}}, nil
}

// tracked is a connection that says when it is closed.
type tracked struct {
	net.Conn
	once   sync.Once
	forget func()
}

func (t *tracked) Close() error {
	err := t.Conn.Close()
	t.once.Do(t.forget)
	return err
}

type chosen struct{}

// proxy forwards HTTP. It tries nobody else when a target fails, for a request
// may have had its effect.
func (s *service) proxy() http.Handler {
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			p, _ := r.In.Context().Value(chosen{}).(*point)
			r.Out.URL.Scheme, r.Out.URL.Host = "http", p.address
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: byPoint{},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status := http.StatusBadGateway
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				status = http.StatusGatewayTimeout
			}
			http.Error(w, http.StatusText(status), status)
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := s.pick()
		if p == nil {
			http.Error(w, "no healthy target", http.StatusServiceUnavailable)
			return
		}
		// Else net/http closes the request's body under the hands of the proxy,
		// which then cuts the answer.
		_ = http.NewResponseController(w).EnableFullDuplex() // beyond HTTP/1 there is no need
		forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chosen{}, p)))
	})
}

// byPoint sends a request over the connections of the point that was chosen.
type byPoint struct{}

func (byPoint) RoundTrip(r *http.Request) (*http.Response, error) {
	p, _ := r.Context().Value(chosen{}).(*point)
	return p.transport.RoundTrip(r)
}

// splice forwards one TCP connection.
func (s *service) splice(client net.Conn) {
	defer client.Close()
	s.mu.Lock()
	closed := s.closed
	s.open[client] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, client)
	}()
	p := s.pick()
	if p == nil || closed {
		return
	}
	target, err := s.dial(s.cloud.ctx, p)
	if err != nil {
		return
	}
	defer target.Close()
	var both sync.WaitGroup
	both.Go(func() { pipe(target.(*tracked).Conn, client) })
	both.Go(func() { pipe(client, target) })
	both.Wait()
}

// pipe copies until the end of one direction and passes that end on.
func pipe(to net.Conn, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		if half.CloseWrite() == nil {
			return
		}
	}
	to.Close()
}
