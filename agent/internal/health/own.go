package health

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// ownFor is how long a connection is remembered: the kernel shows one that the
	// app has closed for a minute.
	ownFor = 90 * time.Second
	// closing is how long after its end one may be shown as open, in a list that was
	// made just before.
	closing = time.Second
)

// own are the connections that probes opened, by their own ends.
var own recent

type recent struct {
	mu    sync.Mutex
	uses  map[netip.AddrPort]use
	swept time.Time
}

// use is that of a port by a probe. A port is given to others soon after.
type use struct {
	since time.Time // opened, or else closed
	over  bool
}

// Own tells whether a peer of the target is the end of a connection that a probe
// of this process opened a short while ago. open says that the peer has not closed
// it: then the probe must be under way, for what has the port after it is a visitor.
func Own(peer netip.AddrPort, open bool) bool { return own.has(peer, open) }

// add remembers a connection, and the moment at which what it returns is closed.
func (r *recent) add(c net.Conn) net.Conn {
	t, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return c
	}
	end := unmapped(t.AddrPort())
	r.note(end, use{since: time.Now()})
	return &probing{Conn: c, closed: sync.OnceFunc(func() { r.note(end, use{since: time.Now(), over: true}) })}
}

// probing is a connection of a probe.
type probing struct {
	net.Conn
	closed func()
}

// Close closes it. Whoever has the port next cannot come before that.
func (p *probing) Close() error {
	p.closed()
	return p.Conn.Close()
}

func (r *recent) note(end netip.AddrPort, u use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.uses == nil {
		r.uses = make(map[netip.AddrPort]use)
	}
	if u.since.Sub(r.swept) > ownFor {
		for end, was := range r.uses {
			if u.since.Sub(was.since) > ownFor {
				delete(r.uses, end)
			}
		}
		r.swept = u.since
	}
	r.uses[end] = u
}

func (r *recent) has(peer netip.AddrPort, open bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, ok := r.uses[unmapped(peer)]
	within := ownFor
	if open && u.over {
		within = closing
	}
	return ok && time.Since(u.since) <= within
}

// unmapped is the address as sockets for IPv4 alone have it, without a zone.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Address is the IP address that is probed, the zero value when there is none or
// a name stands for it.
func (c Check) Address() netip.Addr {
	host := ""
	if c.TCP != "" {
		host, _, _ = net.SplitHostPort(c.TCP)
	} else if u, err := url.Parse(c.HTTP); err == nil {
		host = u.Hostname()
	}
	a, _ := netip.ParseAddr(host) // a name is no address
	return a.Unmap().WithZone("")
}

// Port is the TCP port that is probed, 0 when there is none.
func (c Check) Port() uint16 {
	text := ""
	if c.TCP != "" {
		_, text, _ = net.SplitHostPort(c.TCP)
	} else if u, err := url.Parse(c.HTTP); err == nil && u.Host != "" {
		switch text = u.Port(); {
		case text != "":
		case u.Scheme == "http":
			text = "80"
		case u.Scheme == "https":
			text = "443"
		}
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
