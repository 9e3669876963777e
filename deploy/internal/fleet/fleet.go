// Package fleet runs a whole fleet on this machine, all on loopback: agents with
// a systemd user manager each, a balancer, a coordinator, and a git remote whose
// hook sends signed pushes. The demonstration, the table of balancers, and the
// benchmarks are made of it.
package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

// maxNodes is how many nodes a fleet can have.
const maxNodes = 3

// address is a node's own loopback address, so that every node can use the same port.
func address(i int) string { return fmt.Sprintf("127.0.0.%d", 11+i) }

// Options say what of a fleet may differ.
type Options struct {
	Bin        string        // directory of the built programs
	Soak       time.Duration // of the app
	CheckEvery time.Duration // interval of HAProxy's checks
	Nodes      int           // how many; 0 means three, which is the most
	Balancer   string        // the name of one of Kinds; "" means the first
	Via        string        // who speaks to it: agent, which "" means, or coordinator; of no account for clouds
}

// Fleet is everything that runs.
type Fleet struct {
	Dir         string   // of all files
	Coordinator string   // address
	Nodes       []string // names
	Kind        Kind
	Proxies     []*haproxytest.Process // where Kind has any
	Managers    []*systemdtest.Manager // by node, as in Nodes

	options Options
	front   *front
	killed  atomic.Bool // the first of two balancers was
	port    int         // of the app, on every node

	gatePort int // of the gates, on every node
	daemons  map[string]*process
	order    []string // in which the daemons were started
}

// New makes a place for a fleet. It is to be stopped even if it does not start.
func New(o Options) (*Fleet, error) {
	kind, err := KindOf(o.Balancer)
	if err != nil {
		return nil, err
	}
	o.Via = cmp.Or(o.Via, "agent")
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lockstep-")
	if err != nil {
		return nil, err
	}
	f := &Fleet{Dir: dir, Kind: kind, options: o, daemons: map[string]*process{}}
	at := []string{"127.0.0.1"}
	for i := range cmp.Or(o.Nodes, maxNodes) {
		f.Nodes = append(f.Nodes, fmt.Sprintf("web%d", 1+i))
		at = append(at, address(i))
	}
	for _, port := range []*int{&f.port, &f.gatePort} {
		if *port, err = freePort(at...); err != nil {
			return nil, err
		}
	}
	port, err := freePort("127.0.0.1")
	f.Coordinator = fmt.Sprintf("127.0.0.1:%d", port)
	return f, err
}

// freePort finds a port that is free on every address.
func freePort(addresses ...string) (int, error) {
	for range 100 {
		first, err := net.Listen("tcp", net.JoinHostPort(addresses[0], "0"))
		if err != nil {
			return 0, err
		}
		port := first.Addr().(*net.TCPAddr).Port
		free := true
		for _, a := range addresses[1:] {
			ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", a, port))
			if err != nil {
				free = false
				break
			}
			ln.Close()
		}
		first.Close()
		if free {
			return port, nil
		}
	}
	return 0, fmt.Errorf("cannot find a port that is free on %s", strings.Join(addresses, ", "))
}

// Start brings everything up, with nothing deployed.
func (f *Fleet) Start(ctx context.Context) error {
	if err := f.writeConfig(); err != nil {
		return err
	}
	if err := f.makeRemote(ctx); err != nil {
		return err
	}
	var err error
	if f.front, err = f.Kind.start(f); err != nil {
		return fmt.Errorf("cannot start %s: %w", f.Kind.Product, err)
	}
	if err := f.write("fleet.yaml", f.fleetYAML()); err != nil {
		return err
	}
	if err := f.daemon("coordinator", nil, "deploy-coordinator", "--config", f.path("fleet.yaml")); err != nil {
		return err
	}
	if err := f.ready(ctx); err != nil {
		return err
	}
	for i, n := range f.Nodes {
		if err := f.startNode(ctx, i, n); err != nil {
			return err
		}
	}
	return nil
}

// buildCache is where the go program keeps what it has compiled.
func buildCache() string {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "off" // which the build itself will complain of
	}
	return strings.TrimSpace(string(out))
}

func (f *Fleet) fleetYAML() string {
	var nodes strings.Builder
	for i, n := range f.Nodes {
		fmt.Fprintf(&nodes, "  %s: {address: %s, token: {file: %s}}\n", n, address(i), f.path("token-"+n))
	}
	return fmt.Sprintf(fleetYAML, f.Coordinator, f.Dir, nodes.String(), f.front.yaml, strings.Join(f.Nodes, ", "), f.port, f.options.Soak, buildCache())
}

const fleetYAML = `coordinator:
  listen: %[1]s
  database: %[2]s/lockstep.db
  mirrors: %[2]s/mirrors
  admin_tokens: [{file: %[2]s/admin-token}]
github:
  webhook_secrets: [{file: %[2]s/webhook-secret}]
nodes:
%[3]sbalancers:
  edge: %[4]s
apps:
  hello:
    repo: %[2]s/hello.git
    branch: main
    nodes: [%[5]s]
    build: ['if [ -x "$LOCKSTEP_CACHE/before" ]; then "$LOCKSTEP_CACHE/before"; fi', "go build -trimpath -o bin/hello ."]
    env: {GOCACHE: "%[8]s"} # that of whoever runs this; each node's own would begin empty
    unit: hello.service
    health: {http: "http://{address}:%[6]d/healthz", interval: 200ms, deadline: 5s}
    balancer: edge
    soak: %[7]s
`

const unitFile = `[Unit]
Description=hello on %[1]s

[Service]
Type=exec
Environment=ADDR=%[2]s:%[3]d
WorkingDirectory=%[4]s/%[1]s/apps/hello/current
ExecStart=%[4]s/%[1]s/apps/hello/current/bin/hello
Restart=always
StandardOutput=append:%[4]s/%[1]s/hello.log
StandardError=append:%[4]s/%[1]s/hello.log
`

const agentYAML = `coordinator: http://%[1]s
name: %[2]s
token: {file: %[3]s/token-%[2]s}
state: %[3]s/%[2]s/state
apps: %[3]s/%[2]s/apps
systemd: user
`

// gatePath is where the app's gate answers on a node.
const gatePath = "/ready/hello"

// startNode gives a node a service manager with the app's unit, and an agent.
func (f *Fleet) startNode(ctx context.Context, i int, name string) error {
	for _, d := range []string{"state", "apps"} {
		if err := os.MkdirAll(f.path(name, d), 0o700); err != nil {
			return err
		}
	}
	m, err := systemdtest.Start(ctx, "")
	if err != nil {
		return fmt.Errorf("cannot start a service manager for %s: %w", name, err)
	}
	f.Managers = append(f.Managers, m)
	if err := m.WriteUnit("hello.service", fmt.Sprintf(unitFile, name, address(i), f.port, f.Dir)); err != nil {
		return err
	}
	config := fmt.Sprintf(agentYAML, f.Coordinator, name, f.Dir)
	if f.Kind.Gated {
		config += fmt.Sprintf("gate: {listen: %q}\n", fmt.Sprintf("%s:%d", address(i), f.gatePort))
	}
	if f.Kind.OwnToken {
		config += fmt.Sprintf("balancers: {edge: {token: {file: %q}}}\n", f.path("cloud-token"))
	}
	if err := f.write("agent-"+name+".yaml", config); err != nil {
		return err
	}
	if f.Kind.Gated {
		if err := f.daemon("gate-"+name, nil, "deploy-agent", "gate", "--config", f.path("agent-"+name+".yaml")); err != nil {
			return err
		}
	}
	return f.daemon(name, m.Env(), "deploy-agent", "--config", f.path("agent-"+name+".yaml"))
}

func (f *Fleet) daemon(name string, env []string, program string, args ...string) error {
	p, err := supervise(f.Dir, name, func() *exec.Cmd {
		c := exec.Command(filepath.Join(f.options.Bin, program), args...)
		c.Env = append(os.Environ(), env...)
		return c
	})
	if err != nil {
		return err
	}
	f.daemons[name] = p
	f.order = append(f.order, name)
	return nil
}

// ready waits for the coordinator to answer.
func (f *Fleet) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.Coordinator+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the coordinator does not answer: %w", context.Cause(ctx)), f.Logs())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Address is where clients send their requests now.
func (f *Fleet) Address() string {
	if f.killed.Load() {
		return f.front.addresses[1]
	}
	return f.front.addresses[0]
}

// Killed tells whether what answered at the address was killed.
func (f *Fleet) Killed(address string) bool {
	return f.killed.Load() && address == f.front.addresses[0]
}

func (f *Fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.Dir}, parts...)...)
}

func (f *Fleet) write(name, text string) error {
	return os.WriteFile(f.path(name), []byte(text), 0o600)
}

// writeConfig makes the secrets.
func (f *Fleet) writeConfig() error {
	names := []string{"admin-token", "webhook-secret"}
	for _, n := range f.Nodes {
		names = append(names, "token-"+n)
	}
	for _, name := range names {
		b := make([]byte, 32)
		if _, err := rand.Read(b); err != nil {
			return err
		}
		if err := f.write(name, hex.EncodeToString(b)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// Deployctl runs the real command.
func (f *Fleet) Deployctl(ctx context.Context, out io.Writer, args ...string) error {
	args = append([]string{"--coordinator", "http://" + f.Coordinator, "--token-file", f.path("admin-token")}, args...)
	c := exec.CommandContext(ctx, filepath.Join(f.options.Bin, "deployctl"), args...)
	c.Stdout, c.Stderr = out, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("deployctl %s: %w", strings.Join(args[4:], " "), err)
	}
	return nil
}

// Stop ends everything and removes it.
func (f *Fleet) Stop() error {
	var errs []error
	for i := len(f.order) - 1; i >= 0; i-- {
		errs = append(errs, f.daemons[f.order[i]].stop())
	}
	for _, m := range f.Managers {
		errs = append(errs, m.Stop())
	}
	if f.front != nil {
		f.front.stop()
	}
	return errors.Join(append(errs, os.RemoveAll(f.Dir))...)
}

// Logs returns the end of every daemon's log as an error, for a failed run.
func (f *Fleet) Logs() error {
	var errs []error
	for _, name := range f.order {
		b, err := os.ReadFile(f.daemons[name].log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		errs = append(errs, fmt.Errorf("log of %s:\n%s", name, bytes.Join(lines[max(0, len(lines)-25):], []byte("\n"))))
	}
	return errors.Join(errs...)
}
