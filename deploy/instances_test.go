package deploy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

// patience is how long anything may take on a machine that is busy.
const patience = 3 * time.Minute

// several is one node with several instances of an app behind HAProxy, and the real
// programs: coordinator, agent, and a service manager of its own.
type several struct {
	t        *testing.T
	dir      string
	ports    []string
	lb       *haproxytest.Process
	client   *api.Client
	coord    *exec.Cmd
	addr     string
	cache    string // of the go program
	manager  *systemdtest.Manager
	settings string // of the app, besides those that all have
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all of them at once, so that none is given twice
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// newSeveral starts n instances of an app with settings; service is its unit's
// [Service] besides the ADDR of the instance, with DIR for the test's directory.
func newSeveral(t *testing.T, n int, settings, service string) *several {
	t.Helper()
	s := &several{t: t, manager: systemdtest.New(t), settings: settings, dir: t.TempDir(), ports: freePorts(t, n), addr: "127.0.0.1:" + freePorts(t, 1)[0]}
	s.cache = strings.TrimSpace(run(t, exec.Command("go", "env", "GOCACHE")))
	var servers []haproxytest.Server
	for _, p := range s.ports {
		servers = append(servers, haproxytest.Server{Name: "web1-" + p, Address: "127.0.0.1:" + p, Options: "check inter 100ms rise 2 fall 2"})
	}
	s.lb = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{{
		Name: "web", Servers: servers, Lines: []string{"option httpchk GET /healthz", "retries 0"},
	}}})
	for name, secret := range map[string]string{"admin": "admin-0123456789abcdef", "hook": "hook-0123456789abcdef", "web1": "web1-0123456789abcdef"} {
		s.write(name, secret)
	}
	s.repo()
	s.write("agent.yaml", fmt.Sprintf("coordinator: http://%s\nname: web1\ntoken: {file: web1}\nstate: %[2]s/state\napps: %[2]s/apps\nsystemd: user\nunits: [\"hello@*.service\"]\n", s.addr, s.dir))
	unit := "[Service]\nType=exec\nEnvironment=ADDR=127.0.0.1:%i\n" + strings.ReplaceAll(service, "DIR", s.dir)
	if err := s.manager.WriteUnit("hello@.service", unit); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = api.NewClient("http://"+s.addr, "admin-0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	s.daemon(s.manager.Env(), "deploy-agent", "--config", s.path("agent.yaml"))
	s.configure(s.ports, "1")
	return s
}

func (s *several) path(name string) string { return filepath.Join(s.dir, name) }

func (s *several) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// daemon starts one of the programs; it ends with the test.
func (s *several) daemon(env []string, program string, args ...string) *exec.Cmd {
	s.t.Helper()
	log, err := os.OpenFile(s.path(program+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command(filepath.Join(bin, program), args...)
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), env...), log, log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		s.end(c)
		if b, err := os.ReadFile(log.Name()); err == nil && s.t.Failed() {
			s.t.Logf("%s said:\n%s", program, b)
		}
	})
	return c
}

func (s *several) end(c *exec.Cmd) {
	if c.ProcessState == nil {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	}
}

// configure starts the coordinator anew with these instances and limit.
func (s *several) configure(instances []string, maxUnavailable string) {
	s.t.Helper()
	if s.coord != nil {
		s.end(s.coord)
	}
	s.write("fleet.yaml", fmt.Sprintf(`coordinator: {listen: "%[1]s", database: lockstep.db, mirrors: mirrors, admin_tokens: [{file: admin}], poll_interval: 24h}
github: {webhook_secrets: [{file: hook}]}
nodes: {web1: {token: {file: web1}}}
balancers:
  edge: {type: haproxy, endpoints: ["%[2]s"], backend: web, max_unavailable: %[3]s}
apps:
  hello:
    repo: %[4]s
    branch: main
    nodes: [web1]
    instances: [%[5]s]
    build: ["go build -o bin/hello ."]
    env: {GOCACHE: "%[6]s"} # a cache of its own would begin empty
    unit: hello@.service
    health: {http: "http://127.0.0.1:{instance}/healthz", interval: 100ms, deadline: 5s}
    balancer: edge
    soak: 200ms
%[7]s`, s.addr, s.lb.Endpoint(), maxUnavailable, s.path("hello"), strings.Join(instances, ", "), s.cache, s.settings))
	s.coord = s.daemon(nil, "deploy-coordinator", "--config", s.path("fleet.yaml"))
	s.await("the coordinator knows the node", func(st api.AppStatus) bool {
		for _, t := range st.Targets {
			if !t.Reachable {
				return false
			}
		}
		return len(st.Targets) == len(instances)
	})
}

func (s *several) await(what string, so func(api.AppStatus) bool) api.AppStatus {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
		st, err := s.client.Status(ctx)
		cancel()
		if err == nil && len(st.Apps) == 1 && so(st.Apps[0]) {
			return st.Apps[0]
		}
	}
	s.t.Fatalf("not in %s: %s", patience, what)
	return api.AppStatus{}
}

func (s *several) git(args ...string) {
	s.t.Helper()
	c := exec.Command("git", append([]string{"-C", s.path("hello"), "-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)...)
	run(s.t, c)
}

func (s *several) repo() {
	s.t.Helper()
	s.write("hello/go.mod", "module hello\n\ngo 1.24\n")
	s.git("init", "-q", "-b", "main")
	s.commit("v1", true) // which the coordinator deploys by itself when it starts
}

// commit makes a version of the app.
func (s *several) commit(version string, healthy bool) {
	s.t.Helper()
	b, err := os.ReadFile("../testdata/hello/main.go")
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.Replace(string(b), `version = "v1"`, fmt.Sprintf("version = %q", version), 1)
	s.write("hello/main.go", strings.Replace(text, "healthy = true", fmt.Sprintf("healthy = %t", healthy), 1))
	s.git("add", ".")
	s.git("commit", "-qm", version)
}

// deploy commits a version of the app, deploys it, and returns the rollout when
// it is over, with its timeline.
func (s *several) deploy(version string, healthy bool) (api.Rollout, []api.Event) {
	s.t.Helper()
	s.commit(version, healthy)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	r, err := s.client.Deploy(ctx, "hello", api.DeployRequest{By: "ann"})
	if err != nil {
		s.t.Fatal(err)
	}
	var events []api.Event
	for after := int64(0); !r.Done; {
		page, err := s.client.Events(ctx, r.ID, after, 10*time.Second)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range page.Events {
			events, after = append(events, e), e.Number
		}
		if r = page.Rollout; r.Paused != nil {
			s.t.Fatalf("%s is paused: %s", r.ID, r.Paused.Text)
		}
	}
	return r, events
}

// visit sends requests until ctx ends: over new connections and over kept ones,
// quick ones, slow ones, and such that nothing may send twice. wait tells how many
// there were, and what went wrong.
func visit(ctx context.Context, url string) (wait func() (sent int, failed []string)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	sent, failed := 0, []string{}
	for i := range 6 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}, Timeout: patience}
			defer client.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				err := ask(client, url, n)
				mu.Lock()
				if sent++; err != nil {
					failed = append(failed, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []string) {
		wg.Wait()
		return sent, failed
	}
}

func ask(client *http.Client, url string, n int) error {
	var resp *http.Response
	var err error
	switch n % 3 {
	case 0:
		resp, err = client.Get(url + "/")
	case 1:
		resp, err = client.Get(url + "/slow?ms=200")
	default:
		resp, err = client.Post(url+"/echo", "text/plain", strings.NewReader(strings.Repeat("x", 1+n*997%20000)))
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", resp.Status)
	}
	return err
}

// outAtOnce is how many targets had a turn at one time.
func outAtOnce(events []api.Event) (most, turns int) {
	out := map[string]bool{}
	for _, e := range events {
		switch e.Kind {
		case "turn":
			out[e.Target] = true
			turns++
		case "active", "reverted", "failed":
			delete(out, e.Target)
		}
		most = max(most, len(out))
	}
	return most, turns
}

// TestFiveInstancesOnOneNode rolls five instances on one server, behind a real
// HAProxy and under load: one at a time, back from a release that is not
// healthy, and two at a time.
func TestFiveInstancesOnOneNode(t *testing.T) {
	s := newSeveral(t, 5, "", "WorkingDirectory=DIR/apps/hello/current-%i\nExecStart=DIR/apps/hello/current-%i/bin/hello\n")
	s.await("the first version serves", func(st api.AppStatus) bool { return st.Converged })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	load := visit(ctx, s.lb.URL("web"))

	r, events := s.deploy("v2", true)
	if most, turns := outAtOnce(events); r.Status != "succeeded" || most != 1 || turns != 5 {
		t.Errorf("v2 %s (%s) in %d turns, %d at once; expected 5, one at a time", r.Status, r.Text, turns, most)
	}
	for _, p := range s.ports {
		if to, err := os.Readlink(s.path("apps/hello/current-" + p)); err != nil || to != "releases/"+r.Release.ID {
			t.Errorf("current-%s leads to %q (%v), expected %s", p, to, err, r.Release.ID)
		}
	}
	prepared := 0
	for _, e := range events {
		if e.Kind == "prepared" {
			prepared++
		}
	}
	if prepared != 1 {
		t.Errorf("prepared %d times, expected once for all instances", prepared)
	}
	sick, events := s.deploy("v3", false)
	if _, turns := outAtOnce(events); sick.Status != "rolled_back" || turns != 1 {
		t.Errorf("v3, which is not healthy, %s (%s) in %d turns; expected to be rolled back after one", sick.Status, sick.Text, turns)
	}

	s.configure(s.ports, "40%")
	r, events = s.deploy("v4", true)
	if most, turns := outAtOnce(events); r.Status != "succeeded" || most != 2 || turns != 5 {
		t.Errorf("v4 %s (%s) in %d turns, %d at once; expected 5, two at a time", r.Status, r.Text, turns, most)
	}
	stop()
	sent, failed := load()
	if t.Logf("%d requests, %d failed", sent, len(failed)); len(failed) > 0 || sent < 100 {
		t.Errorf("%d of %d requests failed: %v", len(failed), sent, failed)
	}

	// What fleet.yaml names no more is left running, and said to be.
	gone := s.ports[4]
	s.configure(s.ports[:4], "1")
	st := s.await("the instance that was removed is named", func(st api.AppStatus) bool { return len(st.Left) > 0 })
	if want := "hello@" + gone + ".service"; !strings.Contains(st.Left[0], want) || !st.Converged {
		t.Errorf("status says %q, converged %t; expected %s to be named", st.Left, st.Converged, want)
	}
}
