package hetznertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Defaults of [Options].
const (
	DefaultToken      = "hetznertest"
	DefaultActionTime = time.Second
	DefaultRateLimit  = 3600
)

// Options say how the cloud behaves. The zero value is a faithful one.
type Options struct {
	// Listen is the API's address; "" means a free port on 127.0.0.1.
	Listen string
	// Token may read and write; "" means [DefaultToken].
	Token string
	// ReadOnlyToken may only read; "" means that there is none.
	ReadOnlyToken string
	// Second is how long a second of a health check takes; 0 means a second.
	// Hetzner allows no interval below three.
	Second time.Duration
	// ActionTime is how long an action takes; 0 means [DefaultActionTime].
	ActionTime time.Duration
	// ListAtOnce shows a change as soon as its action has begun. When the real
	// one does is not documented.
	ListAtOnce bool
	// DataPlaneLag is how long after an action's success the traffic follows.
	DataPlaneLag time.Duration
	// HoldUntilChecked keeps traffic from new targets until they passed their
	// first checks. Users report that the real one does not.
	HoldUntilChecked bool
	// CutOnRemove closes the connections to a target that is removed.
	CutOnRemove bool
	// RateLimit is how many calls a full bucket has; 0 means
	// [DefaultRateLimit]. One call a Second comes back.
	RateLimit int
	// Descriptions is a directory with Hetzner's OpenAPI description, against
	// which each request and answer is checked; "" means not to.
	Descriptions string
	// OnViolation hears of each request or answer that the description does not
	// allow. It is called by several goroutines.
	OnViolation func(error)
}

// Cloud is one project. Its methods may be called by several goroutines.
type Cloud struct {
	opt    Options
	api    *http.Server
	base   string
	oracle *oracle
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{}

	mu        sync.Mutex
	nextID    int64
	servers   map[int64]*Server
	addresses map[string]Backend // dedicated servers, by IP
	balancers map[int64]*balancer
	actions   []*action
	due       []event
	faults    []*Fault
	calls     []string
	tokens    float64 // calls left
	refilled  time.Time
	revoked   bool
}

// event is something that will happen by itself.
type event struct {
	at time.Time
	do func()
}

// New starts a cloud with nothing in it. Close ends it.
func New(o Options) (*Cloud, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Token == "" {
		o.Token = DefaultToken
	}
	if o.Second <= 0 {
		o.Second = time.Second
	}
	if o.ActionTime <= 0 {
		o.ActionTime = DefaultActionTime
	}
	if o.RateLimit <= 0 {
		o.RateLimit = DefaultRateLimit
	}
	c := &Cloud{
		opt: o, nextID: 1000, wake: make(chan struct{}, 1),
		servers: make(map[int64]*Server), addresses: make(map[string]Backend), balancers: make(map[int64]*balancer),
		tokens: float64(o.RateLimit), refilled: time.Now(),
	}
	if o.Descriptions != "" {
		var err error
		if c.oracle, err = newOracle(o.Descriptions); err != nil {
			return nil, err
		}
	}
	l, err := listen(o.Listen)
	if err != nil {
		return nil, err
	}
	c.base = "http://" + l.Addr().String()
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.api = newServer(c)
	c.work.Go(c.clock)
	c.work.Go(func() { serve(c.api, l) })
	return c, nil
}

// listen refuses to be reached from elsewhere.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("cannot listen on %s: a made cloud stays on loopback, such as 127.0.0.1:0", address)
	}
	return l, nil
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
}

func serve(s *http.Server, l net.Listener) {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		panic(fmt.Sprintf("cannot serve on %s: %v", l.Addr(), err))
	}
}

// Endpoint is the API's base address, as hcloud-go wants it.
func (c *Cloud) Endpoint() string { return c.base + "/v1" }

// Token may read and write.
func (c *Cloud) Token() string { return c.opt.Token }

// MetadataEndpoint is the metadata service as a server sees it.
func (c *Cloud) MetadataEndpoint(server int64) string {
	return fmt.Sprintf("%s/metadata/%d", c.base, server)
}

// Close ends everything and waits for it.
func (c *Cloud) Close() error {
	c.mu.Lock()
	balancers := slices.Collect(maps.Values(c.balancers))
	c.mu.Unlock()
	c.stop()
	err := c.api.Close()
	for _, b := range balancers {
		for _, s := range b.services {
			s.close()
		}
	}
	c.work.Wait()
	return err
}

// clock makes due events happen.
func (c *Cloud) clock() {
	for {
		c.mu.Lock()
		next := c.advance()
		c.mu.Unlock()
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-time.After(next):
		}
	}
}

// after makes do happen later, with the cloud locked.
func (c *Cloud) after(d time.Duration, do func()) {
	c.due = append(c.due, event{time.Now().Add(d), do})
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// advance does what is due, in order, and returns how long until the next.
func (c *Cloud) advance() time.Duration {
	for {
		slices.SortStableFunc(c.due, func(a, b event) int { return a.at.Compare(b.at) })
		if len(c.due) == 0 {
			return time.Hour
		}
		if left := time.Until(c.due[0].at); left > 0 {
			return left
		}
		e := c.due[0]
		c.due = c.due[1:]
		e.do()
	}
}

func (c *Cloud) newID() int64 {
	c.nextID++
	return c.nextID
}

// Calls are the API calls so far, such as "GET /v1/load_balancers/1001".
func (c *Cloud) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// SetRemaining says how many calls of the rate limit are left.
func (c *Cloud) SetRemaining(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens, c.refilled = float64(n), time.Now()
}

// Revoke makes the cloud know none of its tokens any more.
func (c *Cloud) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = true
}

// Cut makes the API unreachable. The balancers go on.
func (c *Cloud) Cut() { c.api.Close() }

// spend takes one call of the rate limit and tells whether there was one.
func (c *Cloud) spend() (left int, ok bool) {
	now := time.Now()
	c.tokens = min(float64(c.opt.RateLimit), c.tokens+now.Sub(c.refilled).Seconds()/c.opt.Second.Seconds())
	c.refilled = now
	if c.tokens < 1 {
		return 0, false
	}
	c.tokens--
	return int(c.tokens), true
}
