package digitaloceantest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"
)

// balancer is a load balancer at work. Its fields are guarded by the cloud's
// lock, but for those of its machines' goroutines.
type balancer struct {
	cloud   *Cloud
	id      string
	spec    Balancer
	created time.Time

	members []int     // as the API lists them
	live    []int     // as the machines that balance have them
	events  []event   // changes that were accepted and not made yet
	locked  time.Time // no changes until then

	nodes   []*node
	entries []*entry
	next    int // of round robin

	ctx  context.Context // ends with close
	stop context.CancelFunc
	work sync.WaitGroup
}

// event is something that happens when its time has come and somebody looks.
type event struct {
	at time.Time
	do func()
}

// node is one machine of a balancer.
type node struct {
	from   net.Addr // of its probes
	health map[int]*health
}

type health struct {
	up     bool
	streak int // equal results in a row that speak against up
}

func (n *node) up(droplet int) bool {
	h := n.health[droplet]
	return h != nil && h.up
}

// entry is one entry port.
type entry struct {
	rule     Rule
	listener net.Listener
	server   *http.Server // for http
}

func newBalancer(c *Cloud, id string, spec Balancer) (*balancer, error) {
	spec.Nodes = max(1, spec.Nodes)
	if spec.Type == "" {
		spec.Type = "REGIONAL"
	}
	if spec.Status == "" {
		spec.Status = "active"
	}
	b := &balancer{cloud: c, id: id, spec: spec, created: time.Now(), members: slices.Clone(spec.Droplets), live: slices.Clone(spec.Droplets)}
	b.ctx, b.stop = context.WithCancel(context.Background())
	for _, r := range spec.Rules {
		at := r.Listen
		if at == "" {
			at = "127.0.0.1:0"
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			b.close()
			return nil, err
		}
		e := &entry{rule: r, listener: l}
		b.entries = append(b.entries, e)
		if r.Protocol == "http" {
			e.server = &http.Server{Handler: b.proxy(r), ReadHeaderTimeout: time.Minute}
			b.work.Go(func() { _ = e.server.Serve(l) }) // ends with close
		} else {
			b.work.Go(func() { b.accept(e) })
		}
	}
	for i := range spec.Nodes {
		n := &node{from: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i))}, health: make(map[int]*health)}
		b.nodes = append(b.nodes, n)
		b.work.Go(func() { b.probes(n) })
	}
	return b, nil
}

// close must not be called with the cloud's lock once probes run.
func (b *balancer) close() {
	b.stop()
	for _, e := range b.entries {
		if e.server != nil {
			e.server.Close()
		}
		e.listener.Close()
	}
	b.work.Wait()
}

// listed are the droplets that the API shows, which a tag chooses if there is
// one.
func (b *balancer) listed() []int { return b.chosen(b.members) }

func (b *balancer) chosen(ids []int) []int {
	if b.spec.Tag == "" {
		return ids
	}
	var out []int
	for id, d := range b.cloud.droplets {
		if slices.Contains(d.Tags, b.spec.Tag) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// settle makes what has come due.
func (b *balancer) settle(now time.Time) {
	for len(b.events) > 0 && !b.events[0].at.After(now) {
		e := b.events[0]
		b.events = b.events[1:]
		e.do()
	}
	live := b.chosen(b.live)
	for _, n := range b.nodes {
		for id := range n.health {
			if !slices.Contains(live, id) {
				delete(n.health, id)
			}
		}
		for _, id := range live {
			if n.health[id] == nil {
				n.health[id] = &health{} // down until its check has passed
			}
		}
	}
}

// change accepts a change of the members, which is made later.
func (b *balancer) change(now time.Time, edit func([]int) []int) {
	listed := now.Add(b.cloud.opts.Apply)
	live := listed.Add(b.cloud.opts.Lag)
	b.locked = listed
	b.events = append(b.events,
		event{listed, func() { b.members = edit(b.members) }},
		event{live, func() { b.live = edit(b.live) }})
	slices.SortStableFunc(b.events, func(x, y event) int { return x.at.Compare(y.at) })
	b.settle(now)
}

// probes asks every member, each interval, until the balancer ends.
func (b *balancer) probes(n *node) {
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		b.cloud.mu.Lock()
		b.settle(time.Now())
		check := b.spec.Check
		var ids []int
		for id := range n.health {
			ids = append(ids, id)
		}
		b.cloud.mu.Unlock()
		for _, id := range ids {
			asking.Go(func() {
				ok := b.probe(n, id, check)
				b.cloud.mu.Lock()
				defer b.cloud.mu.Unlock()
				if h := n.health[id]; h != nil {
					h.note(ok, check)
				}
			})
		}
		select {
		case <-b.ctx.Done():
			return
		case <-time.After(time.Duration(max(1, check.Interval)) * b.cloud.opts.Second):
		}
	}
}

func (h *health) note(ok bool, c Check) {
	if ok == h.up {
		h.streak = 0
		return
	}
	h.streak++
	want := c.Healthy
	if h.up {
		want = c.Unhealthy
	}
	if h.streak >= want {
		h.up, h.streak = ok, 0
	}
}

func (b *balancer) probe(n *node, id int, c Check) bool {
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(max(1, c.Timeout))*b.cloud.opts.Second)
	defer cancel()
	at, err := b.cloud.placeOf(id, c.Port)
	if err != nil {
		return false
	}
	dialer := net.Dialer{LocalAddr: n.from}
	if c.Protocol == "tcp" {
		conn, err := dialer.DialContext(ctx, "tcp", at)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	t := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Protocol+"://"+at+c.Path, nil)
	if err != nil {
		return false
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode >= 200 && resp.StatusCode <= 399
}

var errNobody = errors.New("no droplet is healthy")

// pick chooses a healthy droplet, as one of the machines sees it.
func (b *balancer) pick() (int, error) {
	b.cloud.mu.Lock()
	defer b.cloud.mu.Unlock()
	b.settle(time.Now())
	b.next++
	n := b.nodes[b.next%len(b.nodes)]
	var up []int
	for id := range n.health {
		if n.up(id) {
			up = append(up, id)
		}
	}
	if len(up) == 0 {
		return 0, errNobody
	}
	slices.Sort(up)
	return up[b.next/len(b.nodes)%len(up)], nil
}

// member tells whether the machines still have a droplet.
func (b *balancer) member(id int) bool {
	b.cloud.mu.Lock()
	defer b.cloud.mu.Unlock()
	b.settle(time.Now())
	return b.nodes[0].health[id] != nil
}

// hold returns a context that lasts as long as the balancer and, if removal cuts
// what is in flight, as the droplet's membership. end must be called.
func (b *balancer) hold(ctx context.Context, id int) (held context.Context, end func()) {
	held, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.ctx, cancel)
	if !b.cloud.opts.CutOnRemove {
		return held, func() { stop(); cancel() }
	}
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for b.member(id) {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		cancel()
	})
	return held, func() { close(done); watch.Wait(); stop(); cancel() }
}

// proxy forwards requests.
func (b *balancer) proxy(r Rule) http.Handler {
	transport := &http.Transport{DisableKeepAlives: !b.spec.KeepAlive, DisableCompression: true}
	type choice struct{}
	p := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(pr *httputil.ProxyRequest) {
			at, _ := pr.In.Context().Value(choice{}).(string)
			pr.SetURL(&url.URL{Scheme: "http", Host: at})
			pr.Out.Host = pr.In.Host
			pr.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the droplet did not answer: "+err.Error(), http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		id, err := b.pick()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		at, err := b.cloud.placeOf(id, r.Target)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		ctx, end := b.hold(req.Context(), id)
		defer end()
		// Else net/http closes the request's body under the hands of the proxy,
		// which then cuts the answer.
		_ = http.NewResponseController(w).EnableFullDuplex() // beyond HTTP/1 there is no need
		p.ServeHTTP(w, req.WithContext(context.WithValue(ctx, choice{}, at)))
	})
}

// accept forwards connections until the listener closes.
func (b *balancer) accept(e *entry) {
	for {
		in, err := e.listener.Accept()
		if err != nil {
			return
		}
		b.work.Go(func() {
			defer in.Close()
			if err := b.splice(in, e.rule); err != nil {
				return // as a balancer without a droplet: the client sees the end
			}
		})
	}
}

func (b *balancer) splice(in net.Conn, r Rule) error {
	id, err := b.pick()
	if err != nil {
		return err
	}
	at, err := b.cloud.placeOf(id, r.Target)
	if err != nil {
		return err
	}
	out, err := net.Dial("tcp", at)
	if err != nil {
		return fmt.Errorf("cannot reach droplet %d: %w", id, err)
	}
	defer out.Close()
	ctx, end := b.hold(context.Background(), id)
	defer end()
	unhook := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer unhook()
	var both sync.WaitGroup
	pump := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // an end is an end, however it came
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	}
	both.Go(func() { pump(out, in) })
	pump(in, out)
	both.Wait()
	return nil
}
