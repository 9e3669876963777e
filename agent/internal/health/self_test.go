package health

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to a port of the ephemeral range on which nobody listens can be
// given this very port, and then connects to itself. Left to chance that takes
// thousands of tries, so the port is chosen here.
func TestAConnectionToItselfIsNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	addr := l.Addr().String()
	l.Close()
	d := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		},
	}
	conn, err := dialWith(t.Context(), d, "tcp", addr)
	if err == nil {
		conn.Close()
		t.Fatal("it took itself for the target")
	}
	if got := cause(err); !strings.Contains(got, "connection refused") {
		t.Errorf("cause = %q", got)
	}
}
