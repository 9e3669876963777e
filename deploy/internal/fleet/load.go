package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Load sends requests through the balancer for as long as it runs and counts
// what a client would notice. It speaks over plain connections, because
// net/http quietly sends some requests again when a connection breaks.
type Load struct {
	to Visited
	wg sync.WaitGroup

	mu       sync.Mutex
	counts   map[string]*Count // by kind of request
	served   map[string]int    // by version that answered
	failures []Failure
}

// Class is why a request got no answer where that is known of a balancer, and no
// app got it.
type Class string

// Classes.
const (
	// Reset is a request sent on a kept connection at the moment at which the
	// balancer closed it: not a byte of an answer came.
	Reset Class = "idle keep-alive reset"
	// NewReset is the same on a connection that was just opened.
	NewReset Class = "new connection reset"
	// Cut is a request on a connection to a balancer that was killed.
	Cut Class = "failover cut"
)

// Count is how many requests of a kind were sent, and how many of them failed.
// Those of a documented class are not among the failed.
type Count struct {
	Sent, Failed int
	Documented   map[Class]int
}

func (c *Count) add(o Count) {
	c.Sent += o.Sent
	c.Failed += o.Failed
	if c.Documented == nil {
		c.Documented = map[Class]int{}
	}
	for class, n := range o.Documented {
		c.Documented[class] += n
	}
}

// Failure is one request that failed.
type Failure struct {
	At      time.Time
	Request string // method and path
	Kept    bool   // it was not the first on its connection
	Err     error
}

func (f Failure) String() string {
	on := "a new connection"
	if f.Kept {
		on = "a kept connection"
	}
	return fmt.Sprintf("%s %s on %s: %v", f.At.Format("15:04:05.000"), f.Request, on, f.Err)
}

// errReset stands for a connection that was closed before any answer.
var errReset = errors.New("the connection was closed without an answer")

// maxFailures bounds how many failures are kept.
const maxFailures = 20

// request is one request to send.
type request struct{ method, path, body string }

func (r request) String() string {
	if r.body == "" {
		return r.method + " " + r.path
	}
	return fmt.Sprintf("%s %s (%d bytes)", r.method, r.path, len(r.body))
}

// text is the request as it travels.
func (r request) text() string {
	length := ""
	if r.body != "" {
		length = fmt.Sprintf("Content-Length: %d\r\n", len(r.body))
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: demo\r\n%s\r\n%s", r.method, r.path, length, r.body)
}

// Visited is what clients send requests to.
type Visited struct {
	Address func() string             // of the balancer, now
	Killed  func(address string) bool // whether what answered there was killed; nil means never
	Loses   func(Class) bool          // whether such requests are known to be lost; nil means none are
	Pause   time.Duration             // of each client after an answer
}

// Load starts clients of the app, of every kind, that go on until ctx ends. Each
// pauses for a while after an answer.
func (f *Fleet) Load(ctx context.Context, pause time.Duration) *Load {
	l := newLoad(Visited{Address: f.Address, Killed: f.Killed, Loses: f.Kind.Loses, Pause: pause})
	l.start(ctx, "keep-alive GET", 4, func(int) request { return request{"GET", "/", ""} })
	l.start(ctx, "slow GET", 3, func(i int) request { return request{"GET", fmt.Sprintf("/slow?ms=%d", 100+(i%8)*150), ""} })
	l.start(ctx, "POST", 2, func(i int) request { return request{"POST", "/echo", strings.Repeat("x", 1+(i*997)%20000)} })
	return l
}

// Visit starts three clients of each path, which is also the kind of their
// requests, that go on until ctx ends.
func Visit(ctx context.Context, to Visited, paths ...string) *Load {
	l := newLoad(to)
	for _, p := range paths {
		l.start(ctx, p, 3, func(int) request { return request{"GET", p, ""} })
	}
	return l
}

func newLoad(to Visited) *Load {
	if to.Killed == nil {
		to.Killed = func(string) bool { return false }
	}
	if to.Loses == nil {
		to.Loses = func(Class) bool { return false }
	}
	return &Load{to: to, counts: map[string]*Count{}, served: map[string]int{}}
}

// start starts clients that send requests of one kind.
func (l *Load) start(ctx context.Context, kind string, clients int, next func(i int) request) {
	l.mu.Lock()
	l.counts[kind] = &Count{Documented: map[Class]int{}}
	l.mu.Unlock()
	for range clients {
		l.wg.Go(func() { l.work(ctx, kind, next) })
	}
}

// Wait returns when every client has had its last answer.
func (l *Load) Wait() { l.wg.Wait() }

// line is one connection to a balancer.
type line struct {
	net.Conn
	to string
	r  *bufio.Reader
}

func dial(to string) (*line, error) {
	c, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &line{Conn: c, to: to, r: bufio.NewReader(c)}, nil
}

// work sends one request after the other over one connection that is kept.
func (l *Load) work(ctx context.Context, kind string, next func(i int) request) {
	var conn *line
	hangUp := func() {
		if conn != nil {
			conn.Close()
		}
		conn = nil
	}
	defer func() { hangUp() }()
	for i := 0; ctx.Err() == nil; i++ {
		// A client looks whether its connection was closed before it uses it again.
		if conn != nil && l.to.Loses(Reset) && gone(conn) {
			hangUp()
		}
		f := Failure{Request: next(i).String(), Kept: conn != nil}
		to := l.to.Address()
		version := ""
		if conn == nil {
			conn, f.Err = dial(to)
		}
		if f.Err == nil {
			to = conn.to
			version, f.Err = exchange(conn, conn.r, next(i))
		}
		f.At = time.Now()
		l.record(kind, version, l.class(f, to), f)
		if f.Err != nil {
			hangUp()
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.to.Pause):
		}
	}
}

// class is the documented class of a failure, "" if it is none.
func (l *Load) class(f Failure, to string) Class {
	c := Class("")
	switch {
	case f.Err == nil:
	case l.to.Killed(to):
		c = Cut
	case errors.Is(f.Err, errReset) && f.Kept:
		c = Reset
	case errors.Is(f.Err, errReset):
		c = NewReset
	}
	if !l.to.Loses(c) {
		return ""
	}
	return c
}

// exchange sends a request and reads its whole answer.
func exchange(conn net.Conn, r *bufio.Reader, rq request) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, rq.text()); err != nil {
		return "", fmt.Errorf("cannot send: %w", closed(err))
	}
	if _, err := r.Peek(1); err != nil {
		return "", fmt.Errorf("no answer: %w", closed(err))
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("answer cut short: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s: %.80s", resp.Status, bytes.TrimSpace(body))
	}
	if rq.body != "" {
		if string(body) != rq.body {
			return "", fmt.Errorf("the answer has %d other bytes", len(body))
		}
		return "", nil
	}
	return string(bytes.TrimSpace(body)), nil
}

// gone tells whether the other side has closed a connection that is not in use.
func gone(conn *line) bool {
	raw, err := conn.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN // anything to read here is the end
		return true
	})
	return err != nil || !open
}

// closed is err, marked where the other side closed the connection.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", errReset, err)
	}
	return err
}

func (l *Load) record(kind, version string, c Class, f Failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[kind].Sent++
	if version != "" {
		l.served[version]++
	}
	switch {
	case f.Err == nil:
	case c != "":
		l.counts[kind].Documented[c]++
	default:
		l.counts[kind].Failed++
		if len(l.failures) < maxFailures {
			l.failures = append(l.failures, f)
		}
	}
}

// Result is what a client would have noticed.
type Result struct {
	Kinds    map[string]Count // by kind of request
	All      Count
	Served   map[string]int // answers by version
	Failures []Failure      // the first ones
}

// Result is what came of it so far.
func (l *Load) Result() Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Result{Kinds: map[string]Count{}, Served: maps.Clone(l.served), Failures: slices.Clone(l.failures)}
	for kind, c := range l.counts {
		var copied Count
		copied.add(*c)
		r.Kinds[kind] = copied
		r.All.add(*c)
	}
	return r
}
