package health

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestProbesAreKnownAsOwn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peers := make(chan netip.AddrPort)
	go func() {
		defer close(peers)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			peers <- conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			conn.Close()
		}
	}()
	probed := make(chan Probe)
	go func() { probed <- Check{TCP: l.Addr().String(), Timeout: 10 * time.Second}.Probe(t.Context()) }()
	peer := <-peers
	if p := <-probed; !p.OK {
		t.Fatal(p.Text)
	}
	if !Own(peer, false) {
		t.Errorf("%s was opened by a probe", peer)
	}
	if mapped := netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port()); !Own(mapped, false) {
		t.Errorf("%s is the same", mapped)
	}
	visitor, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	if peer := <-peers; Own(peer, true) || Own(peer, false) {
		t.Errorf("%s is a visitor from the same machine", peer)
	}
}

// end is a connection of which only the own end is known.
type end struct {
	net.Conn
	at net.Addr
}

func (e end) LocalAddr() net.Addr { return e.at }
func (end) Close() error          { return nil }

func TestOwnIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recent
		first := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000}
		want := func(what string, open, closed bool) {
			t.Helper()
			if o, c := r.has(first.AddrPort(), true), r.has(first.AddrPort(), false); o != open || c != closed {
				t.Errorf("%s: an open one is a probe's: %v, one that was closed: %v", what, o, c)
			}
		}
		c := r.add(end{at: first})
		time.Sleep(time.Minute)
		want("a slow probe", true, true)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		want("a list that was made before it ended", true, true)
		time.Sleep(2 * time.Second)
		want("a visitor who was given the port next, while the kernel shows the probe", false, true)
		time.Sleep(time.Minute)
		want("the kernel shows it for a minute", false, true)
		time.Sleep(time.Minute)
		want("later", false, false)
		r.add(end{at: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4001}})
		if len(r.uses) != 1 {
			t.Errorf("%d are kept, want 1", len(r.uses))
		}
	})
}

func TestPort(t *testing.T) {
	for _, c := range []struct {
		check Check
		want  uint16
	}{
		{Check{HTTP: "http://127.0.0.1:8080/healthz"}, 8080},
		{Check{HTTP: "http://[fd00::1]/healthz"}, 80},
		{Check{HTTP: "https://example.org"}, 443},
		{Check{TCP: "[fd00::1]:5432"}, 5432},
		{Check{TCP: "localhost"}, 0},
		{Check{}, 0},
	} {
		if got := c.check.Port(); got != c.want {
			t.Errorf("%v: got %d, want %d", c.check, got, c.want)
		}
	}
}
