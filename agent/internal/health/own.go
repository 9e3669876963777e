package health

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// ownFor is how long a connection is remembered: the kernel shows one that the
// app has closed for a minute.
const ownFor = 90 * time.Second

// own are the connections that probes opened, by their own ends.
var own recent

type recent struct {
	mu    sync.Mutex
	since map[netip.AddrPort]time.Time
	swept time.Time
}

// Own tells whether a peer of the target is the end of a connection that a
// probe of this process opened a short while ago.
func Own(peer netip.AddrPort) bool { return own.has(peer) }

func (r *recent) add(a net.Addr) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since == nil {
		r.since = make(map[netip.AddrPort]time.Time)
	}
	if now.Sub(r.swept) > ownFor {
		for peer, at := range r.since {
			if now.Sub(at) > ownFor {
				delete(r.since, peer)
			}
		}
		r.swept = now
	}
	r.since[unmapped(t.AddrPort())] = now
}

func (r *recent) has(peer netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.since[unmapped(peer)]
	return ok && time.Since(at) <= ownFor
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
