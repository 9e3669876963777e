package quiesce

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// server answers every line of every connection, "slow" when it is told, and
// hangs up at "bye".
type server struct {
	l    net.Listener
	slow chan struct{}
}

func serve(t *testing.T, network, address string) *server {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("this machine has no %s: %v", address, err)
	}
	s := &server{l: l, slow: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					switch lines.Text() {
					case "slow":
						<-s.slow
					case "bye":
						c.Close()
						return
					}
					fmt.Fprintln(c, "done")
				}
				c.Close()
			}()
		}
	}()
	return s
}

func (s *server) port() uint16 { return uint16(s.l.Addr().(*net.TCPAddr).Port) }

func (s *server) dial(t *testing.T, host string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(s.port())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what+"\n"); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, p lbclient.Provider, what string, ok func(lbclient.DrainStatus) bool) {
	t.Helper()
	var st lbclient.DrainStatus
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if st, err = p.DrainStatus(t.Context(), lbclient.Restore{}); err != nil {
			t.Fatal(err)
		}
		if ok(st) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time, last seen %+v", what, st)
		}
	}
}

// TestRealConnections follows real sockets: a connection that is kept, a slow
// answer, and a newcomer.
func TestRealConnections(t *testing.T) {
	for _, c := range []struct{ name, network, listen, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"IPv4 to a listener for both", "tcp", ":0", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, c.network, c.listen)
			const window = 150 * time.Millisecond
			p, err := Wrap(held(), Config{Ports: []uint16{s.port()}, Quiet: window})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Preflight(t.Context()); err != nil {
				t.Fatal(err)
			}
			kept, answers := s.dial(t, c.dial)
			say(t, kept, "quick")
			hear(t, answers)
			idle := func(st lbclient.DrainStatus) bool { return st.Stage == lbclient.DrainIdle }
			await(t, p, "a kept connection is quiet", idle)

			// Slower than the window, in silence: asked over a kept connection, and
			// in the very moment of connecting.
			slow := func(conn net.Conn, answers *bufio.Reader) {
				t.Helper()
				asked, first := time.Now(), true
				await(t, p, "a slow answer outlasts the window", func(st lbclient.DrainStatus) bool {
					newcomer := first && st.Stage == lbclient.DrainAccepted
					first = false
					if !newcomer && (st.Stage != lbclient.DrainBusy || st.InFlight != 1 || !strings.Contains(st.Evidence, c.dial)) {
						t.Fatalf("a request in flight shows as %+v", st)
					}
					return time.Since(asked) > 3*window
				})
				s.slow <- struct{}{}
				hear(t, answers)
				await(t, p, "the slow answer is given", idle)
				conn.Close()
			}
			say(t, kept, "slow")
			slow(kept, answers)
			kept, answers = s.dial(t, c.dial)
			say(t, kept, "slow")
			slow(kept, answers)

			fresh, _ := s.dial(t, c.dial)
			st, err := p.DrainStatus(t.Context(), lbclient.Restore{})
			if want := fresh.LocalAddr().String(); err != nil || st.Stage != lbclient.DrainAccepted || !strings.Contains(st.Evidence, want) {
				t.Errorf("a new connection of %s shows as %+v (%v)", want, st, err)
			}
			await(t, p, "the newcomer is quiet", idle)

			// The app closes first, so the kernel remembers the connection.
			brief, end := s.dial(t, c.dial)
			say(t, brief, "bye")
			if _, err := end.ReadByte(); err != io.EOF {
				t.Fatalf("the app did not hang up: %v", err)
			}
			brief.Close()
			if st, err := p.DrainStatus(t.Context(), lbclient.Restore{}); err != nil || st.Stage != lbclient.DrainAccepted {
				t.Errorf("a connection that came and went shows as %+v (%v)", st, err)
			}
		})
	}
}

// TestTargetsThatShareAPort tells a target from its neighbour by its address,
// but not where one process listens for both.
func TestTargetsThatShareAPort(t *testing.T) {
	one := serve(t, "tcp4", "127.0.0.41:0")
	port := one.port()
	two := serve(t, "tcp4", fmt.Sprintf("127.0.0.42:%d", port))
	busy, _ := two.dial(t, "127.0.0.42")
	say(t, busy, "slow")
	watch := func(address string) lbclient.Provider {
		p, err := Wrap(held(), Config{Ports: []uint16{port}, Address: netip.MustParseAddr(address), Quiet: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	idle := func(st lbclient.DrainStatus) bool { return st.Stage == lbclient.DrainIdle }
	works := func(st lbclient.DrainStatus) bool { return st.Stage == lbclient.DrainBusy && st.InFlight == 1 }
	await(t, watch("127.0.0.41"), "the neighbour's work does not count", idle)
	await(t, watch("127.0.0.42"), "the target's own work counts", works)
	await(t, watch("::ffff:127.0.0.42"), "the same address in its other form", works)
	await(t, watch("0.0.0.0"), "no address counts everybody's", works)
	if err := watch("127.0.0.43").Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != lbclient.ClassNotFound {
		t.Errorf("where nobody listens: got error %v", err)
	}
	two.slow <- struct{}{}

	all := serve(t, "tcp", ":0")
	port = all.port()
	if err := watch("127.0.0.43").Preflight(t.Context()); err != nil {
		t.Errorf("one that listens everywhere: %v", err)
	}
	asked, _ := all.dial(t, "127.0.0.44")
	say(t, asked, "slow")
	await(t, watch("127.0.0.43"), "what comes to another address of such a listener counts", works)
	all.slow <- struct{}{}
}

func TestNobodyListens(t *testing.T) {
	s := serve(t, "tcp4", "127.0.0.1:0")
	port := s.port()
	s.l.Close()
	p, err := Wrap(held(), Config{Ports: []uint16{port}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != lbclient.ClassNotFound {
		t.Errorf("got error %v", err)
	}
}

// TestKeptAliveByHTTP looks at a real HTTP server and client, which keep the
// connection after the answer.
func TestKeptAliveByHTTP(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	finish := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-finish
		fmt.Fprint(w, "done")
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	answered := make(chan error, 1)
	go func() {
		a, err := client.Post("http://"+l.Addr().String(), "text/plain", strings.NewReader("n"))
		if err == nil {
			_, err = io.Copy(io.Discard, a.Body)
			a.Body.Close()
		}
		answered <- err
	}()
	finish <- struct{}{} // one request has come and gone
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	p, err := Wrap(held(), Config{Ports: []uint16{uint16(l.Addr().(*net.TCPAddr).Port)}, Quiet: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	await(t, p, "the kept connection is quiet", func(st lbclient.DrainStatus) bool {
		return st.Stage == lbclient.DrainIdle && strings.Contains(st.Evidence, "1 are open")
	})
}

// TestAnyUserMayAsk lists sockets as a user without any right.
func TestAnyUserMayAsk(t *testing.T) {
	const role = "QUIESCE_TEST_LIST"
	if os.Getenv(role) != "" {
		list, err := sockets([]uint16{1})
		fmt.Printf("as %d: %d, %v\n", os.Getuid(), len(list), err)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root can become another user; the other tests ran without its rights")
	}
	// The test program lies where only its owner may look.
	dir, err := os.MkdirTemp("", "quiesce")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "quiesce.test")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	cmd := exec.Command(path, "-test.run=^TestAnyUserMayAsk$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), role+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("as %d: 0, <nil>", nobody); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: got %s, want %q", err, out, want)
	}
}
