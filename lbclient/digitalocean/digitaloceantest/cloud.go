// Package digitaloceantest is a small DigitalOcean on loopback, for tests and
// demonstrations: the part of the API that concerns load balancers, droplets
// and tags, and load balancers that really probe and really forward.
//
// It keeps the habits that matter: a 204 is given before the change is made, a
// balancer that is changing answers 403, an added droplet is down until its
// check has passed, a PUT resets what it does not name, and calls are rationed.
// Where DigitalOcean documents nothing, [Options] choose. Requests and answers
// are validated against the published description when [Options.Spec] names it.
package digitaloceantest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Options say how the cloud behaves.
type Options struct {
	// Token may do everything; "" means "token". ReadOnly, if set, may only read.
	Token, ReadOnly string
	// Second is how long a second of DigitalOcean lasts; 0 means a second.
	Second time.Duration
	// Apply is how long an accepted change is not made yet, and locks its
	// balancer. Lag is how long after that the machines that balance follow.
	Apply, Lag time.Duration
	// CutOnRemove ends what is in flight when a droplet leaves a balancer.
	// Whether DigitalOcean does so is not documented.
	CutOnRemove bool
	// Burst and Hourly are calls for each token in a minute and in an hour; 0
	// means 250 and 5000.
	Burst, Hourly int
	// Spec is the file that holds the published description; "" validates nothing.
	Spec string
}

// Droplet is a machine, or what plays one.
type Droplet struct {
	ID   int
	Name string
	// Address is its address in the private network, such as 127.0.0.1.
	Address string
	// Ports say where a port of the droplet really is, as host:port. A port that
	// is not among them is at Address.
	Ports map[int]string
	Tags  []string
}

// Check is a balancer's health check, in DigitalOcean's seconds.
type Check struct {
	Protocol                              string
	Port                                  int
	Path                                  string
	Interval, Timeout, Healthy, Unhealthy int
}

// Rule forwards an entry port, of protocol "http" or "tcp", to the same protocol
// at the droplets' target port.
type Rule struct {
	Protocol      string
	Entry, Target int
	// Listen is where the entry port really is; "" means a free port of 127.0.0.1.
	Listen string
}

// Balancer is a load balancer.
type Balancer struct {
	Name string
	// Type is REGIONAL if it is "".
	Type string
	// Status is active if it is "".
	Status string
	// Droplets are the members; with a Tag they are the droplets that have it.
	Droplets []int
	Tag      string
	// Nodes are the machines that it consists of, each with probes of its own,
	// which come from 127.0.0.1, 127.0.0.2, and so on; 0 means one.
	Nodes int
	Check Check
	Rules []Rule
	// KeepAlive keeps connections to droplets open between requests.
	KeepAlive bool
}

// Cloud is a running DigitalOcean.
type Cloud struct {
	opts     Options
	server   *http.Server
	listener net.Listener
	spec     *spec
	served   chan struct{} // closed when the API has ended

	mu         sync.Mutex
	droplets   map[int]*Droplet
	balancers  map[string]*balancer
	order      []string // of balancers
	calls      []Call
	faults     []*fault
	budgets    map[string]*budget
	violations []string
	closing    chan struct{} // closed by Close, for requests that hang
}

// Call is a request that the API was sent.
type Call struct {
	Method, Path, Body string
	Status             int // 0 when there was no answer
	At                 time.Time
}

// Start opens the API on a free port of 127.0.0.1.
func Start(o Options) (*Cloud, error) {
	if o.Token == "" {
		o.Token = "token"
	}
	if o.Second == 0 {
		o.Second = time.Second
	}
	if o.Burst == 0 {
		o.Burst = 250
	}
	if o.Hourly == 0 {
		o.Hourly = 5000
	}
	c := &Cloud{
		opts: o, served: make(chan struct{}), closing: make(chan struct{}),
		droplets: make(map[int]*Droplet), balancers: make(map[string]*balancer), budgets: make(map[string]*budget),
	}
	if o.Spec != "" {
		s, err := load(o.Spec)
		if err != nil {
			return nil, fmt.Errorf("cannot read the description of the API: %w", err)
		}
		c.spec = s
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot start the API: %w", err)
	}
	c.listener = l
	c.server = &http.Server{Handler: c.guard(c.routes()), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(c.served)
		_ = c.server.Serve(l) // ends with Close
	}()
	return c, nil
}

// Close ends the API and all balancers.
func (c *Cloud) Close() {
	c.mu.Lock()
	select {
	case <-c.closing:
	default:
		close(c.closing)
	}
	all := slices.Collect(maps.Values(c.balancers))
	c.balancers = make(map[string]*balancer)
	c.mu.Unlock()
	c.Cut()
	for _, b := range all {
		b.close()
	}
}

// Cut makes the API unreachable. Balancers go on.
func (c *Cloud) Cut() {
	c.server.Close()
	<-c.served
}

// URL is where the API is.
func (c *Cloud) URL() string { return "http://" + c.listener.Addr().String() }

// Second is how long a second of DigitalOcean lasts.
func (c *Cloud) Second() time.Duration { return c.opts.Second }

// AddDroplet adds a droplet, or replaces the one with its id.
func (c *Cloud) AddDroplet(d Droplet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.droplets[d.ID] = &d
}

// RemoveDroplet destroys a droplet, also as a member.
func (c *Cloud) RemoveDroplet(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.droplets, id)
	for _, b := range c.balancers {
		b.members = without(b.members, id)
		b.live = without(b.live, id)
	}
}

// AddBalancer makes a balancer and returns its id.
func (c *Cloud) AddBalancer(spec Balancer) (id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id = fmt.Sprintf("4de7ac8b-495b-4884-9a69-%012d", len(c.order)+1)
	b, err := newBalancer(c, id, spec)
	if err != nil {
		return "", fmt.Errorf("cannot start load balancer %s: %w", spec.Name, err)
	}
	c.balancers[id] = b
	c.order = append(c.order, id)
	return id, nil
}

// Entry is where the entry port of a balancer really is.
func (c *Cloud) Entry(balancer string, port int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.balancers[balancer]; b != nil {
		for _, f := range b.entries {
			if f.rule.Entry == port {
				return f.listener.Addr().String()
			}
		}
	}
	return ""
}

// SetMembers changes a balancer's droplets at once, as another hand would.
func (c *Cloud) SetMembers(balancer string, droplets ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.balancers[balancer]
	b.events = nil
	b.members = slices.Clone(droplets)
	b.live = slices.Clone(droplets)
}

// Members are the droplets that the API lists.
func (c *Cloud) Members(balancer string) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.balancers[balancer]
	b.settle(time.Now())
	return slices.Clone(b.listed())
}

// Change edits a balancer at once, as its owner would: its type, status, tag,
// and check.
func (c *Cloud) Change(balancer string, edit func(*Balancer)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edit(&c.balancers[balancer].spec)
}

// SetPace changes [Options.Apply] and [Options.Lag].
func (c *Cloud) SetPace(apply, lag time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Apply, c.opts.Lag = apply, lag
}

// Revoke ends all tokens.
func (c *Cloud) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Token, c.opts.ReadOnly = "", ""
}

// Lock makes a balancer refuse changes for so long.
func (c *Cloud) Lock(balancer string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.balancers[balancer].locked = time.Now().Add(d)
}

// Healthy tells whether every machine of a balancer sends work to a droplet.
func (c *Cloud) Healthy(balancer string, droplet int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.balancers[balancer]
	b.settle(time.Now())
	for _, n := range b.nodes {
		if !n.up(droplet) {
			return false
		}
	}
	return true
}

// Calls are all requests so far.
func (c *Cloud) Calls() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// Violations say where a request or an answer was not as the description of the
// API has it. Injected answers are not looked at.
func (c *Cloud) Violations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.violations)
}

// Dial connects to the real place of a droplet's address and port, for those
// who look at droplets themselves.
func (c *Cloud) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	for _, d := range c.droplets {
		if d.Address == host {
			address = d.place(n)
		}
	}
	c.mu.Unlock()
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, address)
}

func (d *Droplet) place(port int) string {
	if at := d.Ports[port]; at != "" {
		return at
	}
	return net.JoinHostPort(d.Address, strconv.Itoa(port))
}

var errGone = errors.New("no such droplet")

func (c *Cloud) placeOf(droplet, port int) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.droplets[droplet]
	if d == nil {
		return "", errGone
	}
	return d.place(port), nil
}

func without(ids []int, id int) []int {
	return slices.DeleteFunc(slices.Clone(ids), func(n int) bool { return n == id })
}
