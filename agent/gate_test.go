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

// A balancer that nobody speaks to gets a target drained and back by its own
// checks, and no visitor notices. The gate's questions to the app, which another
// process asks, are not taken for work.
func TestATurnBehindAGate(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	before := g.server("web1", 22)
	if o := g.deploy("two", ""); !o.OK {
		t.Fatalf("outcome %+v", o)
	}
	if after := g.server("web1", 22); after == before {
		t.Errorf("HAProxy never found web1 down")
	}
	r := g.c.awaitApp(t, hello, "both are seen to serve", func(r api.AppReport) bool {
		b := r.Balancer
		return r.Targets[0].Rotation == api.RotationIn && b != nil && b.Refused == nil && len(b.Members) == 2 &&
			b.Members[0].Phase == "serving" && b.Members[1].Phase == "serving" && b.Timing != nil
	})
	if m := r.Balancer.Members[0]; m.Name != "web1" || !strings.Contains(m.Detail, "127.0.0.1 was admitted") {
		t.Errorf("web1 is told as %+v", m)
	}
	g.nobodyFailed()
}

// A commit may say at which path its release is asked. The gate asks there from the
// moment that the release serves, and where the release before it is asked again
// when that comes back.
func TestAReleaseIsAskedAtItsOwnPath(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	deploy := func(kind, path, fallback string) (string, api.Outcome) {
		r := g.repo.release(map[string]string{"kind": kind})
		r.Recipe.HealthPath = path
		id, turn := g.beginOf(r, fallback)
		o, _ := g.c.awaitTurn(t, hello, turn)
		return id, o
	}
	well := func(what string) {
		t.Helper()
		g.c.awaitApp(t, hello, what, func(r api.AppReport) bool {
			return r.Targets[0].Rotation == api.RotationIn && r.Targets[0].Health == api.Healthy && r.Targets[0].Detail == ""
		})
		if got := g.ask(); got != http.StatusOK {
			t.Errorf("%s: the gate answers %d", what, got)
		}
	}
	two, o := deploy("readyz", "/readyz", "")
	if !o.OK {
		t.Fatalf("outcome %+v", o)
	}
	well("the second release serves, and is asked at /readyz")
	found := g.server("web1", 22)
	g.stop()
	g.c.do(func() { clear(g.c.reports) })
	g.start(t)
	well("the agent is there again")
	if now := g.server("web1", 22); now != found {
		t.Errorf("HAProxy found web1 down as the agent came back")
	}
	g.c.set(hello, func(a *api.Assignment) { a.Spec.Health.Deadline = api.Duration(2 * time.Second) })
	if _, o := deploy("healthz sick", "", two); o.OK || !o.Reverted || o.Reason != api.ReasonUnhealthy {
		t.Fatalf("outcome of a release that is sick: %+v", o)
	}
	well("the second release serves again")
	if _, o := deploy("healthz", "", two); !o.OK {
		t.Fatalf("outcome of a release with the usual path: %+v", o)
	}
	well("the last release serves, and is asked at /healthz")
	g.nobodyFailed()
}

// An agent may be away for longer than any check takes.
func TestAnAgentThatIsAwayTakesNobodyOut(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	found := g.server("web1", 22)
	g.stop()
	away := time.Now()
	g.await("HAProxy has polled for twice as long as it takes to find a target down", func() bool {
		st := g.status()
		return len(st.Pollers) > 0 && st.Pollers[0].Last.After(away.Add(2*polled.DownWithin()))
	})
	if now := g.server("web1", 22); now != found || g.server("web1", 17) != "UP" {
		t.Errorf("HAProxy found web1 down %s times, %s before; it is %s", now, found, g.server("web1", 17))
	}
	g.nobodyFailed()
}

// The gate's own restart goes unnoticed when its socket outlives it.
func TestAGateThatIsRestartedTakesNobodyOut(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	found, epoch := g.server("web1", 22), g.status().Epoch
	g.endGate(syscall.SIGTERM)
	g.await("a check of HAProxy waits for the gate to come back", func() bool { return g.waiting() > 0 })
	g.startGate()
	g.await("the new gate knows that web1 serves", func() bool {
		st := g.status()
		return st.Epoch != epoch && st.Phase() == lbclient.PhaseServing
	})
	if now := g.server("web1", 22); now != found || g.server("web1", 17) != "UP" {
		t.Errorf("HAProxy found web1 down %s times, %s before; it is %s", now, found, g.server("web1", 17))
	}
	if o := g.deploy("two", ""); !o.OK {
		t.Errorf("outcome of a turn after it: %+v", o)
	}
	g.nobodyFailed()
}

// A gate that dies while its target is out comes back closed.
func TestAGateThatIsKilledStaysClosed(t *testing.T) {
	t.Parallel()
	g := newGated(t)
	held := make(chan error, 1)
	go func() {
		for {
			r, err := http.Get(g.lb.URL("web") + "/hold?for=web1")
			if err == nil {
				r.Body.Close()
				if r.StatusCode == http.StatusConflict {
					continue // the other one answered
				}
				if r.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %s", r.Status)
				}
			}
			held <- err
			return
		}
	}()
	<-g.app.Held
	_, turn := g.begin("two", "")
	g.await("HAProxy sends nothing new to web1", func() bool { return g.server("web1", 17) == "DOWN" })
	for range 2 {
		g.endGate(syscall.SIGKILL)
		g.startGate()
		if got := g.ask(); got != http.StatusServiceUnavailable {
			t.Errorf("a gate that was killed in mid-drain answers %d", got)
		}
		if got := g.server("web1", 17); got != "DOWN" {
			t.Errorf("HAProxy says %s", got)
		}
	}
	g.app.Finish <- struct{}{}
	if err := <-held; err != nil {
		t.Errorf("the request in flight failed: %v", err)
	}
	if o, _ := g.c.awaitTurn(t, hello, turn); !o.OK {
		t.Errorf("outcome %+v", o)
	}
	if got := g.ask(); got != http.StatusOK {
		t.Errorf("after the turn the gate answers %d", got)
	}
	g.nobodyFailed()
}

// A gate that agent.yaml does not offer is refused in words that tell what to
// write, and where.
func TestAnAgentWithoutAGateSaysSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ listen, want string }{
		"no gate":      {"", `write gate: {listen: ":9101"} in /etc/lockstep/agent.yaml`},
		"another port": {"10.0.0.11:9102", `balancers.front.port`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t)
			s.cfg.File, s.cfg.GateListen = "/etc/lockstep/agent.yaml", c.listen
			s.c.set(hello, func(a *api.Assignment) {
				a.Spec.Health.TCP = "127.0.0.1:1"
				a.Spec.Balancer = &api.Balancer{Name: "front", Type: "gate", Gate: &api.Gate{Port: 9101, Path: "/ready/hello"}}
			})
			s.start(t)
			s.c.awaitApp(t, hello, "the agent refuses", func(r api.AppReport) bool {
				return r.Balancer != nil && r.Balancer.Refused != nil && strings.Contains(r.Balancer.Refused.Text, c.want)
			})
		})
	}
}
