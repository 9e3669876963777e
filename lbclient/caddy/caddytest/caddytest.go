// Package caddytest runs a real Caddy on loopback, for tests and demonstrations:
// reverse_proxy handlers with ids, an admin API, loads and restarts.
package caddytest

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/internal/program"
)

// patience bounds the wait for Caddy to start and to end.
const patience = 30 * time.Second

// Programs are the Caddys at hand: the one in PATH, and the one that the
// environment variable CADDY names. There may be none.
func Programs() []string {
	var out []string
	for _, name := range []string{"caddy", os.Getenv("CADDY")} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			out = append(out, path)
		}
	}
	return out
}

// Version is what a program says of itself, such as "2.6.2".
func Version(program string) (string, error) {
	const module = "github.com/caddyserver/caddy/v2"
	if info, err := buildinfo.ReadFile(program); err == nil && info.Main.Path == module && strings.HasPrefix(info.Main.Version, "v") {
		return info.Main.Version[1:], nil
	}
	out, err := exec.Command(program, "version").Output()
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(out))
	if len(f) == 0 {
		return "", fmt.Errorf("%s tells no version", program)
	}
	return strings.TrimPrefix(f[0], "v"), nil
}

// Options say how to run Caddy.
type Options struct {
	// Program is the caddy to run; "" means the first of Programs.
	Program  string
	Handlers []Handler
	// Parked is the id of a handler that no request reaches, and that has the
	// upstreams of all others; "" for none.
	Parked string
	// Unix puts the admin API on a Unix socket.
	Unix bool
}

// Handler is a reverse_proxy handler with a port of its own.
type Handler struct {
	ID string
	// Listen is the port's address; "" means a free port of 127.0.0.1.
	Listen    string
	Upstreams []map[string]any
	// Settings are further settings of the handler.
	Settings map[string]any
}

// Process is a running Caddy. Its methods are for one goroutine at a time.
type Process struct {
	path   string // of the program
	dir    string
	admin  string // host:port, or the socket's path
	unix   bool
	urls   map[string]string
	output *program.Output
	child  *program.Child // nil after its end
}

// Launch starts Caddy and returns once its admin API and its ports answer.
func Launch(o Options) (*Process, error) {
	if o.Program == "" {
		all := Programs()
		if len(all) == 0 {
			return nil, program.Missing("caddy")
		}
		o.Program = all[0]
	}
	// The ports are free only until somebody else takes one.
	const tries = 3
	for try := 1; ; try++ {
		p, err := launch(o)
		if err == nil {
			return p, nil
		}
		if try == tries || !strings.Contains(err.Error(), "address already in use") {
			return nil, fmt.Errorf("cannot start caddy: %w", err)
		}
	}
}

func launch(o Options) (*Process, error) {
	dir, err := os.MkdirTemp("", "caddy")
	if err != nil {
		return nil, err
	}
	p := &Process{path: o.Program, dir: dir, unix: o.Unix, urls: make(map[string]string), output: new(program.Output)}
	if err := p.configure(o); err != nil {
		p.Stop()
		return nil, err
	}
	if err := p.Start(); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (p *Process) configure(o Options) error {
	var err error
	var listen string
	if p.unix {
		p.admin = filepath.Join(p.dir, "admin.sock")
		listen = "unix/" + p.admin
	} else if p.admin, err = free(); err != nil {
		return err
	} else {
		listen = p.admin
	}
	servers := make(map[string]any)
	all := []map[string]any{}
	proxy := func(id string, upstreams []map[string]any, settings map[string]any) map[string]any {
		h := map[string]any{"@id": id, "handler": "reverse_proxy", "upstreams": upstreams}
		for k, v := range settings {
			h[k] = v
		}
		return h
	}
	for _, h := range o.Handlers {
		if h.Listen == "" {
			if h.Listen, err = free(); err != nil {
				return err
			}
		}
		p.urls[h.ID] = "http://" + h.Listen
		servers[h.ID] = map[string]any{
			"listen": []string{h.Listen}, "automatic_https": map[string]any{"disable": true},
			"routes": []any{map[string]any{"handle": []any{proxy(h.ID, h.Upstreams, h.Settings)}}},
		}
		for _, u := range h.Upstreams {
			all = append(all, map[string]any{"dial": u["dial"]})
		}
	}
	if o.Parked != "" && len(o.Handlers) > 0 {
		never := map[string]any{"match": []any{map[string]any{"host": []string{"parked.invalid"}}}, "handle": []any{proxy(o.Parked, all, nil)}}
		first := servers[o.Handlers[0].ID].(map[string]any)
		first["routes"] = append([]any{never}, first["routes"].([]any)...)
	}
	text, err := json.MarshalIndent(map[string]any{
		"admin": map[string]any{"listen": listen},
		"apps":  map[string]any{"http": map[string]any{"servers": servers}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(p.Config(), text, 0o600)
}

// Start starts Caddy with its configuration file, as it stands. After Kill it
// is a restart, in which Caddy forgets every change made since.
func (p *Process) Start() error {
	cmd := exec.Command(p.path, "run", "--config", p.Config())
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_DATA_HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir)
	var err error
	if p.child, err = program.Start(cmd, p.output, patience); err != nil {
		return err
	}
	if err := p.child.Await("its admin API answers", func() bool {
		_, err := p.Do(http.MethodGet, "/config/", nil)
		return err == nil
	}); err != nil {
		return err
	}
	for _, url := range p.urls {
		if err := p.child.Await(url+" answers", func() bool {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err == nil {
				conn.Close()
			}
			return err == nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Do sends one request to the admin API, as another hand would. An answer other
// than 200 is an error.
func (p *Process) Do(method, path string, body []byte) ([]byte, error) {
	network := "tcp"
	if p.unix {
		network = "unix"
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.DialTimeout(network, p.admin, patience)
		}}}
	host := p.admin
	if p.unix {
		host = "admin"
	}
	q, err := http.NewRequest(method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if p.unix {
		q.URL.Host, q.Host = " ", "" // all that Caddy 2.6 takes there
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, a.Status, text)
	}
	return text, err
}

// Reload loads the configuration file, as "caddy reload" does.
func (p *Process) Reload() error {
	text, err := os.ReadFile(p.Config())
	if err != nil {
		return err
	}
	_, err = p.Do(http.MethodPost, "/load", text)
	return err
}

// Config is the configuration file.
func (p *Process) Config() string { return filepath.Join(p.dir, "caddy.json") }

// Endpoint is the admin API, as fleet.yaml names it.
func (p *Process) Endpoint() string {
	if p.unix {
		return "unix://" + p.admin
	}
	return "http://" + p.admin
}

// URL is where a handler is served, without a trailing slash; "" if there is no
// such handler.
func (p *Process) URL(id string) string { return p.urls[id] }

// Kill ends Caddy at once, cutting what is in flight.
func (p *Process) Kill() {
	if p.child != nil {
		p.child.Kill()
		p.child = nil
	}
}

// Stop ends Caddy at once and removes the files. Stopping again does nothing.
func (p *Process) Stop() {
	p.Kill()
	_ = os.RemoveAll(p.dir) // nothing of it is of use
}

// Start launches Caddy for a test and stops it when the test ends. Without a
// caddy program the test is skipped.
func Start(tb program.TB, o Options) *Process {
	tb.Helper()
	return program.ForTest(tb, func() (*Process, error) { return Launch(o) }, "caddy")
}
