// Package haproxytest runs a real HAProxy on loopback, for tests and
// demonstrations: given backends, an admin socket, and reloads.
package haproxytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrMissing is returned when no haproxy program is installed.
var ErrMissing = errors.New("haproxy is not installed")

// patience bounds the wait for HAProxy to start, to reload, and to end.
const patience = 10 * time.Second

// Options say how to run HAProxy.
type Options struct {
	Backends []Backend
	// Level of the admin sockets; "" means "admin".
	Level string
	// Global and Defaults are further lines for these sections.
	Global, Defaults []string
	// Output gets what HAProxy writes; nil keeps it for error messages only.
	Output io.Writer
}

// Backend is a backend with a frontend of its own.
type Backend struct {
	Name string
	// Listen is the frontend's address; "" means a free port of 127.0.0.1.
	Listen  string
	Servers []Server
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
	output    *head
	names     []string // of the backends
	listeners []*net.TCPListener
	files     []*os.File // the same, for HAProxy
	admin     *net.TCPListener
	running   []*child // all ever started, the newest last
}

type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
}

// Launch starts HAProxy and returns once its admin socket answers.
func Launch(o Options) (*Process, error) {
	program, err := find()
	if err != nil {
		return nil, err
	}
	// A short path: socket addresses hold 107 bytes.
	dir, err := os.MkdirTemp("", "haproxy")
	if err != nil {
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	p := &Process{dir: dir, output: &head{to: o.Output}}
	if err := p.configure(o); err != nil {
		p.Stop()
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	p.args = []string{program, "-db", "-f", filepath.Join(dir, "haproxy.cfg")}
	if err := p.start(); err != nil {
		p.Stop()
		return nil, fmt.Errorf("cannot start haproxy: %w", err)
	}
	return p, nil
}

func find() (string, error) {
	if path, err := exec.LookPath("haproxy"); err == nil {
		return path, nil
	}
	const usual = "/usr/sbin/haproxy" // not in everybody's PATH
	if _, err := os.Stat(usual); err == nil {
		return usual, nil
	}
	return "", ErrMissing
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
		fmt.Fprintf(&c, "frontend to-%s\n  bind %s\n  default_backend %s\nbackend %s\n", b.Name, bind, b.Name, b.Name)
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
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.ExtraFiles = p.files
	if err := cmd.Start(); err != nil {
		return err
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended shows in its output
		close(c.done)
	}()
	p.running = append(p.running, c)
	want := "\nPid: " + strconv.Itoa(cmd.Process.Pid) + "\n"
	deadline := time.Now().Add(patience)
	for {
		answer, err := p.Command("show info")
		if err == nil && strings.Contains(answer, want) {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("it ended at once and said:\n%s", p.output)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("its admin socket did not answer within %s; it said:\n%s", patience, p.output)
		}
	}
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
	c := p.running[len(p.running)-1]
	_ = c.cmd.Process.Kill() // it may have ended already
	<-c.done
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
		select {
		case <-c.done:
		default:
			n++
		}
	}
	return n
}

// PID is the newest process's.
func (p *Process) PID() int { return p.running[len(p.running)-1].cmd.Process.Pid }

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
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	}
	for _, c := range p.running {
		select {
		case <-c.done:
		case <-time.After(patience):
			_ = c.cmd.Process.Kill()
			<-c.done
		}
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

// TB is the part of [testing.TB] that Start needs.
type TB interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Start launches HAProxy for a test and stops it when the test ends. Without a
// haproxy program the test is skipped.
func Start(tb TB, o Options) *Process {
	tb.Helper()
	p, err := Launch(o)
	if errors.Is(err, ErrMissing) {
		tb.Skipf("%v; install the haproxy package to run this test", err)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(p.Stop)
	return p
}

// head keeps the beginning of what HAProxy writes, and passes all of it on.
type head struct {
	mu   sync.Mutex
	kept bytes.Buffer
	to   io.Writer
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept.Len() < 4096 {
		h.kept.Write(b)
	}
	if h.to != nil {
		return h.to.Write(b)
	}
	return len(b), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept.String()
}
