// Package nginxtest runs a real nginx on loopback, for tests and demonstrations:
// given upstreams in a file of their own, and reloads.
package nginxtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/internal/program"
)

// patience bounds the wait for nginx to start and to end.
const patience = 30 * time.Second

// Options say how to run nginx.
type Options struct {
	Upstreams []Upstream
	// Workers is the number of worker processes; 0 means 1.
	Workers int
	// Lines are further lines of the http block.
	Lines []string
}

// Upstream is an upstream with a port of its own.
type Upstream struct {
	Name string
	// Listen is the port's address; "" means a free port of 127.0.0.1.
	Listen string
	// Servers are the directives without "server" and ";".
	Servers []string
	// Lines are further lines of the block.
	Lines []string
}

// Process is a running nginx. Its methods are for one goroutine at a time.
type Process struct {
	path   string // of the program
	dir    string
	urls   map[string]string
	output *program.Output
	child  *program.Child // nil after its end
}

// Launch starts nginx and returns once it listens.
func Launch(o Options) (*Process, error) {
	path, err := program.Find("nginx")
	if err != nil {
		return nil, err
	}
	// The ports are free only until somebody else takes one.
	const tries = 3
	for try := 1; ; try++ {
		p, err := launch(path, o)
		if err == nil {
			return p, nil
		}
		if try == tries || !strings.Contains(err.Error(), "Address already in use") {
			return nil, fmt.Errorf("cannot start nginx: %w", err)
		}
	}
}

func launch(path string, o Options) (*Process, error) {
	dir, err := os.MkdirTemp("", "nginx")
	if err != nil {
		return nil, err
	}
	p := &Process{path: path, dir: dir, urls: make(map[string]string), output: new(program.Output)}
	if err := p.configure(o); err != nil {
		p.Stop()
		return nil, err
	}
	if err := p.start(); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) configure(o Options) error {
	var c, u strings.Builder
	if os.Getuid() == 0 {
		// The workers must reach the temporary directory.
		fmt.Fprintln(&c, "user root;")
	}
	fmt.Fprintf(&c, "daemon off;\nworker_processes %d;\npid %s;\nerror_log stderr notice;\n", max(1, o.Workers), p.PIDFile())
	fmt.Fprintf(&c, "events {}\nhttp {\n  access_log off;\n")
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&c, "  %s_temp_path %s;\n", kind, filepath.Join(p.dir, kind))
	}
	for _, l := range o.Lines {
		fmt.Fprintf(&c, "  %s\n", l)
	}
	fmt.Fprintf(&c, "  include %s;\n", p.Upstreams())
	for _, up := range o.Upstreams {
		if up.Listen == "" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			up.Listen = l.Addr().String()
			l.Close()
		}
		p.urls[up.Name] = "http://" + up.Listen
		fmt.Fprintf(&c, "  server {\n    listen %s;\n    location / {\n      proxy_pass http://%s;\n", up.Listen, up.Name)
		fmt.Fprintf(&c, "      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    }\n  }\n")
		fmt.Fprintf(&u, "upstream %s {\n", up.Name)
		for _, l := range up.Lines {
			fmt.Fprintf(&u, "    %s\n", l)
		}
		for _, s := range up.Servers {
			fmt.Fprintf(&u, "    server %s;\n", s)
		}
		fmt.Fprint(&u, "}\n")
	}
	fmt.Fprint(&c, "}\n")
	if err := os.WriteFile(p.Upstreams(), []byte(u.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(p.Config(), []byte(c.String()), 0o644)
}

func (p *Process) start() error {
	cmd := exec.Command(p.path, p.arguments()...)
	// In a group of its own, so that nobody is left behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.child, err = program.Start(cmd, p.output, patience); err != nil {
		return err
	}
	for _, url := range p.urls {
		err := p.child.Await(url+" answers", func() bool {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return p.child.Await("its workers run", func() bool {
		_, err := os.Stat(p.PIDFile())
		return err == nil && strings.Contains(p.output.String(), "start worker process ")
	})
}

func (p *Process) arguments() []string { return []string{"-p", p.dir, "-c", p.Config()} }

// Command is nginx's own command line for this nginx, such as Command("-t").
func (p *Process) Command(args ...string) []string {
	return append(append([]string{p.path}, p.arguments()...), args...)
}

// Reload replaces the workers as "systemctl reload nginx" does.
func (p *Process) Reload() error {
	argv := p.Command("-s", "reload")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot reload nginx: %w: %s", err, out)
	}
	return nil
}

// Config is nginx.conf.
func (p *Process) Config() string { return filepath.Join(p.dir, "nginx.conf") }

// Upstreams is the file with all upstreams, which nginx.conf includes.
func (p *Process) Upstreams() string { return filepath.Join(p.dir, "upstreams.conf") }

// PIDFile is the master's pid file.
func (p *Process) PIDFile() string { return filepath.Join(p.dir, "nginx.pid") }

// PID is the master's.
func (p *Process) PID() int { return p.child.PID() }

// URL is where an upstream is served, without a trailing slash; "" if there is
// no such upstream.
func (p *Process) URL(upstream string) string { return p.urls[upstream] }

// Output is the beginning of nginx's error log.
func (p *Process) Output() string { return p.output.String() }

// Stop ends nginx and removes the files. Stopping again does nothing.
func (p *Process) Stop() {
	p.Quit()
	_ = os.RemoveAll(p.dir) // nothing of it is of use
}

// Quit ends nginx at once, cutting what is in flight.
func (p *Process) Quit() {
	if p.child != nil {
		p.child.Signal(syscall.SIGTERM)
		p.child.Wait()
		// Workers that still finish requests are in the same group.
		_ = syscall.Kill(-p.child.PID(), syscall.SIGKILL)
		p.child = nil
	}
}

// Start launches nginx for a test and stops it when the test ends. Without a
// nginx program the test is skipped.
func Start(tb program.TB, o Options) *Process {
	tb.Helper()
	return program.ForTest(tb, func() (*Process, error) { return Launch(o) }, "nginx-light")
}
