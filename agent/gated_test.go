package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

// gateOf makes the test program the gates of the node with that agent.yaml.
const gateOf = "AGENT_TEST_GATE_OF"

func serveGates(file string) error {
	c, err := agent.LoadConfig(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		// The test holds the other end, and it ends with the test at the latest.
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return agent.RunGate(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)), func() {})
}

// polled is what HAProxy is configured to do in these tests.
var polled = lbclient.Timing{Interval: 100 * time.Millisecond, Timeout: 2 * time.Second, Fall: 2, Rise: 2}

// appUnits is a service manager whose unit is a real app: restarting it closes
// its port for a moment.
type appUnits struct {
	*fakeUnits
	t   *testing.T
	app *traffic.App
}

func (u *appUnits) Restart(ctx context.Context, name string) (st unit.Status, err error) {
	u.app.Restart(u.t, func() {
		st, err = u.fakeUnits.Restart(ctx, name)
		kind, _ := os.ReadFile(filepath.Join(u.apps, "hello", "current", "kind")) // most releases have none
		u.app.SetReadyz(bytes.HasPrefix(kind, []byte("readyz")))
		u.app.SetHealthy(!bytes.HasSuffix(kind, []byte("sick")))
	})
	return st, err
}

// gated is a node whose app is behind a HAProxy that nobody speaks to: it polls
// the node's gate, which is a process of its own, and another node's.
type gated struct {
	*node
	t        *testing.T
	c        *coordinator
	repo     repo
	lb       *haproxytest.Process
	app      *traffic.App
	visitors *traffic.Visitors
	url      string   // of the gate
	socket   *os.File // that systemd would hold
	config   string
	process  *exec.Cmd // the gate
	turn     uint64
}

// newGatedNode is one whose gate runs and whose agent does not, with another
// target's gate.
func newGatedNode(t *testing.T) (g *gated, other *traffic.App, otherGate *httptest.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g = &gated{t: t, c: newCoordinator(), repo: newRepo(t), app: traffic.NewApp(t, "web1"), url: "http://" + l.Addr().String()}
	if g.socket, err = l.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.socket.Close() })
	units := &appUnits{&fakeUnits{runs: map[string]string{}}, t, g.app}
	g.node = newNode(t, g.c, units)
	units.apps = g.cfg.Apps
	g.cfg.GateListen = l.Addr().String()
	g.config = filepath.Join(t.TempDir(), "agent.yaml")
	text := fmt.Sprintf("coordinator: http://127.0.0.1:1\nname: web1\ntoken: {file: token}\nstate: %s\ngate: {listen: %q}\n", g.cfg.State, g.cfg.GateListen)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	other = traffic.NewApp(t, "web2")
	peer, err := gate.Open(gate.Options{
		Server: "web2", File: filepath.Join(t.TempDir(), "web2.state"), Path: "/ready/hello", Check: polled,
		App: func(context.Context) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	otherGate = httptest.NewServer(peer)
	t.Cleanup(otherGate.Close)
	t.Cleanup(g.killGate)
	g.startGate()
	return g, other, otherGate
}

func newGated(t *testing.T) *gated {
	t.Helper()
	g, other, peers := newGatedNode(t)
	_, port, _ := net.SplitHostPort(g.cfg.GateListen)
	_, peerPort, _ := net.SplitHostPort(peers.Listener.Addr().String())
	const check = "check inter 100ms rise 2 fall 2 port "
	g.lb = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{{
		Name: "web",
		Servers: []haproxytest.Server{
			{Name: "web1", Address: g.app.Address, Options: check + port},
			{Name: "web2", Address: other.Address, Options: check + peerPort},
		},
		Lines: []string{"option httpchk GET /ready/hello", "timeout check 2s", "retries 0"},
	}}})
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	g.c.set(hello, func(a *api.Assignment) {
		a.KeepReleases = 5
		a.Spec = api.Spec{
			Repo: g.repo.dir, Unit: "hello.service", RestartTimeout: api.Duration(20 * time.Second),
			Health: api.HealthCheck{
				HTTP: "http://" + g.app.Address + "/healthz", Interval: api.Duration(50 * time.Millisecond), Timeout: api.Duration(5 * time.Second),
				Passes: 2, Failures: 2, Deadline: api.Duration(patience),
			},
			Balancer: &api.Balancer{
				Name: "front", Type: "gate", MinHealthy: 1,
				DrainTimeout: api.Duration(patience), OnDrainTimeout: "abort", RejoinTimeout: api.Duration(patience),
				Gate: &api.Gate{
					Port: number, Path: "/ready/hello", Refusal: http.StatusServiceUnavailable, MinPollers: 1,
					Check: &api.BalancerCheck{Interval: api.Duration(polled.Interval), Timeout: api.Duration(polled.Timeout), Fall: polled.Fall, Rise: polled.Rise},
					Peers: map[string]string{"web2": peers.URL + "/ready/hello/status"},
				},
			},
		}
		a.Targets = []api.Goal{{Target: "hello@web1"}}
	})
	g.start(t)
	g.c.awaitApp(t, hello, "both gates are polled", func(r api.AppReport) bool {
		return r.Balancer != nil && len(r.Balancer.Members) == 2 && r.Balancer.Members[0].Phase == "serving" && r.Balancer.Members[1].Phase == "serving"
	})
	if r := g.deploy("one", ""); !r.OK {
		t.Fatalf("first deployment: %+v", r)
	}
	g.await("HAProxy sends to web1", func() bool { return g.server("web1", 17) == "UP" })
	g.visitors = traffic.Visit(g.lb.URL("web"), []*traffic.App{g.app, other})
	return g
}

// startGate starts the gate's process with the socket, as systemd does.
func (g *gated) startGate() {
	g.t.Helper()
	self, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, self)
	cmd.Env = append(os.Environ(), gateOf+"="+g.config, "LISTEN_FDS=1", "LISTEN_FDNAMES=gate", "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{g.socket}
	cmd.Stderr = g.t.Output()
	if _, err := cmd.StdinPipe(); err != nil {
		g.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.process = cmd
}

// endGate sends the gate's process a signal and waits for its end.
func (g *gated) endGate(s syscall.Signal) {
	g.t.Helper()
	if err := g.process.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
	if err := g.process.Wait(); err != nil && s != syscall.SIGKILL {
		g.t.Errorf("the gate ended badly: %v", err)
	}
	g.process = nil
}

// waiting is how many connections wait at the gate's socket for a gate that takes
// them.
func (g *gated) waiting() uint32 {
	g.t.Helper()
	info, err := unix.GetsockoptTCPInfo(int(g.socket.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		g.t.Fatal(err)
	}
	return info.Unacked // so it is for a socket that listens
}

func (g *gated) killGate() {
	if g.process != nil {
		g.endGate(syscall.SIGKILL)
	}
}

func (g *gated) await(what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// server is a column of what HAProxy shows of a server: 17 is its status, 22 how
// often it was found down.
func (g *gated) server(name string, column int) string {
	g.t.Helper()
	out, err := g.lb.Command("show stat web 4 -1")
	if err != nil {
		g.t.Fatal(err)
	}
	for l := range strings.Lines(out) {
		if f := strings.Split(l, ","); len(f) > column && f[1] == name {
			return f[column]
		}
	}
	g.t.Fatalf("HAProxy knows no %s", name)
	return ""
}

// begin prepares a version of the app and gives leave to activate it.
func (g *gated) begin(version, fallback string) (release string, turn uint64) {
	g.t.Helper()
	return g.beginOf(g.repo.release(map[string]string{"version": version}), fallback)
}

func (g *gated) beginOf(r api.Release, fallback string) (release string, turn uint64) {
	g.t.Helper()
	g.c.set(hello, func(a *api.Assignment) {
		a.Releases = append(a.Releases[:len(a.Releases):len(a.Releases)], r)
		a.Prepare = &api.Prepare{Release: r.ID, Attempt: 1}
	})
	g.c.awaitPresent(g.t, hello, r.ID)
	g.turn++
	g.c.set(hello, func(a *api.Assignment) {
		a.Targets[0] = api.Goal{Target: "hello@web1", Release: r.ID, Fallback: fallback, Turn: g.turn, Soak: api.Duration(300 * time.Millisecond)}
	})
	return r.ID, g.turn
}

func (g *gated) deploy(version, fallback string) api.Outcome {
	g.t.Helper()
	_, turn := g.begin(version, fallback)
	o, _ := g.c.awaitTurn(g.t, hello, turn)
	return o
}

// ask polls the gate as a stranger would.
func (g *gated) ask() int {
	g.t.Helper()
	r, err := http.Get(g.url + "/ready/hello")
	if err != nil {
		g.t.Fatal(err)
	}
	r.Body.Close()
	return r.StatusCode
}

func (g *gated) status() (st gate.Status) {
	g.t.Helper()
	r, err := http.Get(g.url + "/ready/hello/status")
	if err != nil {
		g.t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&st); err != nil {
		g.t.Fatal(err)
	}
	return st
}

// nobodyFailed ends the visits and wants all of them answered.
func (g *gated) nobodyFailed() {
	g.t.Helper()
	tallies := g.visitors.Stop()
	g.t.Log("\n" + traffic.Table(g.t.Name(), tallies))
	for kind, n := range tallies {
		if n.Sent == 0 || n.Failed+n.IdleResets+n.NewResets+n.Lost > 0 {
			g.t.Errorf("%s: %+v: %v", kind, n, g.visitors.Failures())
		}
	}
}
