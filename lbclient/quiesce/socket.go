package quiesce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// socket is one TCP socket on a port of the target.
type socket struct {
	id       uint64 // the kernel's cookie: never given to another socket
	port     uint16
	local    netip.Addr
	peer     netip.AddrPort
	state    uint8
	sent     time.Duration // since bytes were last sent
	received time.Duration // since bytes were last received
	// unanswered: the peer sent bytes and was never sent any. The clocks cannot
	// tell, for they tick coarsely and start with the connection.
	unanswered bool
	queued     bool // bytes wait to be read by the app, or to be acknowledged by the peer
}

// open tells whether the app still has the connection, so that a restart would
// cut it. One that the app has closed is finished by the kernel alone.
func (s socket) open() bool {
	return s.state == netlink.TCP_ESTABLISHED || s.state == netlink.TCP_CLOSE_WAIT || s.state == netlink.TCP_SYN_RECV
}

// kept tells whether the peer still has the connection.
func (s socket) kept() bool {
	return s.state == netlink.TCP_ESTABLISHED || s.state == netlink.TCP_SYN_RECV
}

// maxInterrupted is how often a list that changed under the kernel's hands is
// asked for again.
const maxInterrupted = 5

// sockets lists the sockets on the given local ports, listening ones too.
func sockets(ports []uint16) ([]socket, error) {
	var out []socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.SocketDiagTCPInfo(family)
		for range maxInterrupted {
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
			list, err = netlink.SocketDiagTCPInfo(family)
		}
		if err != nil {
			return nil, err
		}
		for _, l := range list {
			if m := l.InetDiagMsg; m != nil && slices.Contains(ports, m.ID.SourcePort) {
				out = append(out, convert(m, l.TCPInfo))
			}
		}
	}
	return out, nil
}

func convert(m *netlink.Socket, info *netlink.TCPInfo) socket {
	s := socket{
		id:    uint64(m.ID.Cookie[1])<<32 | uint64(m.ID.Cookie[0]),
		port:  m.ID.SourcePort,
		local: address(m.ID.Source),
		peer:  netip.AddrPortFrom(address(m.ID.Destination), m.ID.DestinationPort),
		state: m.State,
	}
	// A listening socket's queues count connections instead.
	s.queued = m.State != netlink.TCP_LISTEN && (m.RQueue > 0 || m.WQueue > 0)
	if info != nil {
		s.sent = time.Duration(info.Last_data_sent) * time.Millisecond
		s.received = time.Duration(info.Last_data_recv) * time.Millisecond
		s.unanswered = info.Data_segs_in > 0 && info.Data_segs_out == 0
	}
	return s
}

// address makes an IPv4 peer of a socket that takes both look like any other.
func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// at leaves the sockets that belong to a target which takes work at one address.
// Where somebody listens on its port at every address, nobody knows at which one
// the target's work arrives, and all count.
func at(only netip.Addr, list []socket) []socket {
	if !only.IsValid() {
		return list
	}
	shared := map[uint16]bool{}
	for _, s := range list {
		if s.state == netlink.TCP_LISTEN && s.local.IsUnspecified() {
			shared[s.port] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(s socket) bool { return s.local != only && !shared[s.port] })
}

// kernelError says what may be done about a list that the kernel does not give.
func kernelError(err error) error {
	e := &lbclient.Error{Class: lbclient.ClassTransient, Op: "ask the kernel who is connected", Err: err}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Class = lbclient.ClassDenied
		e.Text = `a sandbox forbids it; allow AF_NETLINK in "RestrictAddressFamilies=" of the agent's unit`
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		e.Class = lbclient.ClassUnsupported
		e.Text = `the kernel has no socket diagnosis, or a sandbox hides it; "modprobe tcp_diag", and allow AF_NETLINK in "RestrictAddressFamilies=" of the agent's unit`
	}
	return e
}

// listening returns the first of the ports that nobody listens on.
func listening(ports []uint16, list []socket) error {
	for _, port := range ports {
		if !slices.ContainsFunc(list, func(s socket) bool { return s.port == port && s.state == netlink.TCP_LISTEN }) {
			return fmt.Errorf("nothing listens on port %d in this network namespace: %w", port, ErrNobodyListens)
		}
	}
	return nil
}
