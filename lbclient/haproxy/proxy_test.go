package haproxy_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

// meddler stands before an admin socket and does to commands what a bad day
// does to them.
type meddler struct {
	endpoint string
	// meddle gets each line and the means to have HAProxy answer it, and returns
	// what the caller gets: nil closes the connection without an answer.
	meddle func(line string, ask func() []byte) []byte
}

// newMeddler serves until the test ends, which also ends what it holds up.
func newMeddler(t *testing.T, lb *haproxytest.Process, meddle func(string, func() []byte) []byte) *meddler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{endpoint: "tcp://" + l.Addr().String(), meddle: meddle}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return
				}
				line = strings.TrimSpace(line)
				_, _ = conn.Write(m.meddle(line, func() []byte {
					answer, err := lb.Command(line)
					if err != nil {
						t.Errorf("%s: %v", line, err)
					}
					return []byte(answer)
				}))
			})
		}
	})
	return m
}

// newMute accepts connections and never says anything.
func newMute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn) // until the caller gives up
			})
		}
	})
	return "tcp://" + l.Addr().String()
}
