// Package haproxytest runs a real HAProxy on loopback, for tests and
// demonstrations: given backends, an admin socket, and reloads.
package haproxytest

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/internal/program"
)

// patience bounds the wait for HAProxy to start, to reload, and to end.
const patience = 30 * time.Second

// Options say how to run HAProxy.
type Options struct {
	Backends []Backend
	// Level of the admin sockets; "" means "admin".
	Level string
	// Global and Defaults are further lines for these sections.
	Global, Defaults []string
}

// Backend is a backend with a frontend of its own.
type Backend struct {
	Name string
	// Listen is the frontend's address; "" means a free port of 127.0.0.1.
	Listen string
	// Frontend is the frontend's name; "" means "to-" and the backend's.
	Frontend string
	Servers  []Server
	// Lines are further lines of the backend, such as "option httpchk GET /healthz".
	Lines []string
}

// Server is one line of a backend.
type Server struct {
	Name    string
	Address string // host:port
	Options string // such as "check inter 100ms rise 2 fall 2"
}

// Process is a running HAProxy. Its methods are for one goroutine at a time.
type Process struct {
	dir       string
	args      []string
	output    *program.Output
	names     []string // of the backends
	listeners []*net.TCPListener
	files     []*os.File // the same, for HAProxy
	admin     *net.TCPListener
	running   []*program.Child // all ever started, the newest last
}

// Launch starts HAProxy and returns once its admin socket answers.
func Launch(o Options) (*Process, error) {
	path, err := program.Find("haproxy")
	if err != nil {
		return nil, err
	}
	// A short path: socket addresses hold 107 bytes.
	dir, err := os.MkdirTemp("", "haproxy")
	if err != nil {
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	p := &Process{dir: dir, output: new(program.Output)}
	if err := p.configure(o); err != nil {
		p.Stop()
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	p.args = []string{path, "-db", "-f", filepath.Join(dir, "haproxy.cfg")}
	if err := p.start(); err != nil {
		p.Stop()
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	return p, nil
}

// configure opens the listeners, which HAProxy inherits so that no port is ever
// lost to somebody else, and writes the configuration.
func (p *Process) configure(o Options) error {
	if o.Level == "" {
		o.Level = "admin"
	}
	var c strings.Builder
	fmt.Fprintf(&c, "global\n  stats socket %s level %s\n", p.socket(), o.Level)
	admin, err := p.listen("")
	if err != nil {
		return err
	}
	p.admin = p.listeners[0]
	fmt.Fprintf(&c, "  stats socket %s level %s\n  stats timeout 30s\n", admin, o.Level)
	lines := func(ls []string) {
		for _, l := range ls {
			fmt.Fprintf(&c, "  %s\n", l)
		}
	}
	lines(o.Global)
	// Without a timeout of its own a check has only "inter" to finish, which
	// short intervals on a busy machine do not keep.
	fmt.Fprint(&c, "defaults\n  mode http\n  timeout connect 2s\n  timeout check 5s\n  timeout client 60s\n  timeout server 60s\n  option redispatch\n")
	lines(o.Defaults)
	for _, b := range o.Backends {
		bind, err := p.listen(b.Listen)
		if err != nil {
			return err
		}
		p.names = append(p.names, b.Name)
		fmt.Fprintf(&c, "frontend %s\n  bind %s\n  default_backend %s\nbackend %s\n", cmp.Or(b.Frontend, "to-"+b.Name), bind, b.Name, b.Name)
		lines(b.Lines)
		for _, s := range b.Servers {
			fmt.Fprintf(&c, "  server %s %s %s\n", s.Name, s.Address, s.Options)
		}
	}
	return os.WriteFile(filepath.Join(p.dir, "haproxy.cfg"), []byte(c.String()), 0o600)
}

// listen opens a listener and returns how haproxy.cfg names it.
func (p *Process) listen(address string) (string, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	p.listeners = append(p.listeners, l.(*net.TCPListener))
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return "", err
	}
	p.files = append(p.files, f)
	const firstExtraFile = 3 // after standard input, output and error
	return fmt.Sprintf("fd@%d", firstExtraFile+len(p.files)-1), nil
}

func (p *Process) start(extra ...string) error {
	cmd := exec.Command(p.args[0], append(p.args[1:len(p.args):len(p.args)], extra...)...)
	cmd.ExtraFiles = p.files
	c, err := program.Start(cmd, p.output, patience)
	if err != nil {
		return err
	}
	p.running = append(p.running, c)
	want := "\nPid: " + strconv.Itoa(c.PID()) + "\n"
	return c.Await("its admin socket answers", func() bool {
		answer, err := p.Command("show info")
		return err == nil && strings.Contains(answer, want)
	})
}

// Reload replaces the process as "systemctl reload haproxy" does: the former one
// finishes the requests that it has, then ends.
func (p *Process) Reload() error {
	if err := p.start("-sf", strconv.Itoa(p.PID())); err != nil {
		return fmt.Errorf("cannot reload haproxy: %w", err)
	}
	return nil
}

// Kill ends the newest process at once, as a crash would, cutting what is in
// flight. Its ports stay open: who connects waits for Restart.
func (p *Process) Kill() {
	p.running[len(p.running)-1].Kill()
}

// Restart starts HAProxy after Kill. It has forgotten every change made by
// command.
func (p *Process) Restart() error {
	if err := p.start(); err != nil {
		return fmt.Errorf("cannot start haproxy again: %w", err)
	}
	return nil
}

// Former tells how many former processes still live.
func (p *Process) Former() int {
	n := 0
	for _, c := range p.running[:len(p.running)-1] {
		if !c.Ended() {
			n++
		}
	}
	return n
}

// PID is the newest process's.
func (p *Process) PID() int { return p.running[len(p.running)-1].PID() }

func (p *Process) socket() string { return filepath.Join(p.dir, "admin.sock") }

// Endpoint is the Unix admin socket, as fleet.yaml names it.
func (p *Process) Endpoint() string { return "unix://" + p.socket() }

// TCPEndpoint is the TCP admin socket, as fleet.yaml names it.
func (p *Process) TCPEndpoint() string { return "tcp://" + p.admin.Addr().String() }

// URL is where a backend answers, without a trailing slash; "" if there is no
// such backend.
func (p *Process) URL(backend string) string {
	for i, name := range p.names {
		if name == backend {
			return "http://" + p.listeners[i+1].Addr().String() // the first is the admin socket
		}
	}
	return ""
}

// Command sends one line to the admin socket, as another hand would, and
// returns HAProxy's words.
func (p *Process) Command(line string) (string, error) {
	conn, err := net.DialTimeout("unix", p.socket(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// Stop ends all processes at once, cutting what is in flight, closes the ports
// and removes the files. Stopping again does nothing.
func (p *Process) Stop() {
	for _, c := range p.running {
		c.Signal(syscall.SIGTERM)
	}
	for _, c := range p.running {
		c.Wait()
	}
	for _, f := range p.files {
		f.Close()
	}
	for _, l := range p.listeners {
		l.Close()
	}
	p.files, p.listeners, p.names = nil, nil, nil
	_ = os.RemoveAll(p.dir) // nothing of it is of use
}

// Start launches HAProxy for a test and stops it when the test ends. Without a
// haproxy program the test is skipped.
func Start(tb program.TB, o Options) *Process {
	tb.Helper()
	return program.ForTest(tb, func() (*Process, error) { return Launch(o) }, "haproxy")
}
