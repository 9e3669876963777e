package agent_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

// serveAt makes the test program an app that serves at the given address.
const serveAt = "AGENT_TEST_SERVE_AT"

func TestMain(m *testing.M) {
	if addr := os.Getenv(serveAt); addr != "" {
		if err := serve(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if file := os.Getenv(gateOf); file != "" {
		if err := serveGates(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve is an app whose release is its working directory: "version" is what it
// answers; with "sick" it fails its health checks, with "slow" it takes that
// long to come up, and with "address" it listens there. It ends gracefully.
func serve(addr string) error {
	version, err := os.ReadFile("version")
	if err != nil {
		return err
	}
	if b, err := os.ReadFile("slow"); err == nil {
		d, err := time.ParseDuration(string(b))
		if err != nil {
			return err
		}
		time.Sleep(d)
	}
	if b, err := os.ReadFile("address"); err == nil {
		addr = string(b)
	}
	_, sick := os.Stat("sick")
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if sick == nil {
			http.Error(w, "sick", http.StatusServiceUnavailable)
		}
	})
	var inFlight atomic.Int64
	mux.HandleFunc("/inflight", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, inFlight.Load()) })
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		inFlight.Add(1)
		defer inFlight.Add(-1)
		time.Sleep(d)
		_, _ = w.Write(version)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(version) })
	s := &http.Server{Addr: addr, Handler: mux}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-stop:
		return s.Close()
	}
}

// site is a node with systemd and HAProxy before it, and another server that
// always serves.
type site struct {
	*node
	c    *coordinator
	lb   *haproxytest.Process
	repo repo
	addr string // of the app
	turn uint64
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newSite(t *testing.T, settings ...string) *site {
	t.Helper()
	manager := systemdtest.New(t)
	units := unit.NewUser(manager.RuntimeDir)
	t.Cleanup(units.Close)

	addr := freePort(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spare := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "spare") })}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = spare.Serve(other)
	}()
	t.Cleanup(func() { spare.Close(); <-served })

	const check = "check inter 100ms rise 2 fall 2"
	s := &site{c: newCoordinator(), repo: newRepo(t), addr: addr}
	s.lb = haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{{
		Name: "web",
		Servers: []haproxytest.Server{
			{Name: "web1", Address: addr, Options: check},
			{Name: "web2", Address: other.Addr().String(), Options: check},
		},
		Lines: []string{"option httpchk GET /healthz", "option redispatch", "retries 0"},
	}}})
	s.node = newNode(t, s.c, units)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[Service]\nType=exec\nExecStart=%s\nWorkingDirectory=%s\nEnvironment=%s=%s\n"+
		// A program built with -race would take a second to end.
		"Environment=GORACE=atexit_sleep_ms=0\n"+strings.Join(settings, "\n")+"\n",
		self, filepath.Join(s.cfg.Apps, hello, "current"), serveAt, addr)
	if err := manager.WriteUnit("hello.service", text); err != nil {
		t.Fatal(err)
	}
	s.c.set(hello, func(a *api.Assignment) {
		a.KeepReleases = 5
		a.Spec = api.Spec{
			Repo: s.repo.dir, Unit: "hello.service", RestartTimeout: api.Duration(20 * time.Second),
			Health: api.HealthCheck{
				HTTP: "http://" + addr + "/healthz", Interval: api.Duration(50 * time.Millisecond), Timeout: api.Duration(time.Second),
				Passes: 2, Failures: 2, Deadline: api.Duration(3 * time.Second),
			},
			Balancer: &api.Balancer{
				Name: "lb", Type: "haproxy", Endpoints: []string{s.lb.Endpoint()}, Backends: []string{"web"}, MinHealthy: 1,
				DrainTimeout: api.Duration(20 * time.Second), OnDrainTimeout: "abort", RejoinTimeout: api.Duration(20 * time.Second),
			},
		}
		a.Targets = []api.Goal{{Target: "hello@web1"}}
	})
	return s
}

// prepare commits a version of the app and waits until it is prepared.
func (s *site) prepare(t *testing.T, files map[string]string) api.Release {
	t.Helper()
	s.repo.git("rm", "-rq", "--ignore-unmatch", ".")
	r := s.repo.release(files, "test -s version")
	s.c.set(hello, func(a *api.Assignment) {
		a.Releases = append(a.Releases[:len(a.Releases):len(a.Releases)], r)
		a.Prepare = &api.Prepare{Release: r.ID, Attempt: 1}
	})
	s.c.awaitPresent(t, hello, r.ID)
	return r
}

// describe tells the node otherwise of the release that was prepared last.
func (s *site) describe(r api.Release) {
	s.c.set(hello, func(a *api.Assignment) {
		a.Releases = append(append([]api.Release{}, a.Releases[:len(a.Releases)-1]...), r)
	})
}

func (s *site) activate(release, fallback string) uint64 {
	s.turn++
	s.c.set(hello, func(a *api.Assignment) {
		a.Targets[0] = api.Goal{
			Target: "hello@web1", Release: release, Fallback: fallback, Turn: s.turn, Soak: api.Duration(300 * time.Millisecond),
		}
	})
	return s.turn
}

// first brings the first release of a site into rotation.
func (s *site) first(t *testing.T) api.Release {
	t.Helper()
	r := s.prepare(t, map[string]string{"version": "one"})
	o, _ := s.c.awaitTurn(t, hello, s.activate(r.ID, ""))
	if !o.OK {
		t.Fatalf("first deployment: %+v", o)
	}
	return r
}

// traffic asks the balancer over and over; stop returns what it answered.
func (s *site) traffic(t *testing.T) (stop func() (asked int64, failures []string)) {
	t.Helper()
	done := make(chan struct{})
	var asked atomic.Int64
	var mu sync.Mutex
	var failures []string
	var wg sync.WaitGroup
	url := s.lb.URL("web")
	for range 4 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
			for {
				select {
				case <-done:
					return
				default:
				}
				asked.Add(1)
				if _, err := get(client, url+"/wait?for=20ms"); err != nil {
					mu.Lock()
					failures = append(failures, err.Error())
					mu.Unlock()
				}
			}
		})
	}
	stop = sync.OnceValues(func() (int64, []string) {
		close(done)
		wg.Wait()
		return asked.Load(), failures
	})
	t.Cleanup(func() { stop() })
	return stop
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return string(b), nil
}

// admin is the administrative state of web1 in HAProxy: 0 is ready.
func (s *site) admin(t *testing.T) string {
	t.Helper()
	out, err := s.lb.Command("show servers state web")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 6 && f[3] == "web1" {
			return f[6]
		}
	}
	t.Fatalf("no web1 in %q", out)
	return ""
}

func TestReleasesChangeUnderTrafficWithoutAFailedRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	one := s.first(t)
	traffic := s.traffic(t)

	two := s.prepare(t, map[string]string{"version": "two"})
	o, target := s.c.awaitTurn(t, hello, s.activate(two.ID, one.ID))
	if !o.OK || target.Release != two.ID || target.Rotation != api.RotationIn {
		t.Fatalf("good release: %+v, %+v", o, target)
	}
	t.Logf("out of rotation for %s: %v", o.Out, o.Steps)

	three := s.prepare(t, map[string]string{"version": "three", "sick": "yes"})
	o, target = s.c.awaitTurn(t, hello, s.activate(three.ID, two.ID))
	if o.OK || !o.Reverted || o.Reason != api.ReasonUnhealthy || !strings.Contains(o.Text, "503") {
		t.Fatalf("unhealthy release: %+v", o)
	}
	if target.Release != two.ID || target.Rotation != api.RotationIn {
		t.Errorf("after reverting: %+v", target)
	}
	asked, failures := traffic()
	if len(failures) > 0 || asked < 50 {
		t.Errorf("%d of %d requests failed: %v", len(failures), asked, failures)
	}
	if st := s.admin(t); st != "0" {
		t.Errorf("HAProxy holds web1 in administrative state %s", st)
	}
}

// A program falls over because another one has its port, and systemd starts it again
// and again: the release before it serves, and no visitor notices.
func TestAPortThatIsTaken(t *testing.T) {
	t.Parallel()
	s := newSite(t, "Restart=always", "RestartSec=100ms")
	s.start(t)
	one := s.first(t)
	traffic := s.traffic(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	two := s.prepare(t, map[string]string{"version": "two", "address": taken.Addr().String()})
	o, target := s.c.awaitTurn(t, hello, s.activate(two.ID, one.ID))
	if o.OK || !o.Reverted || o.Reason != api.ReasonStartFailed || !strings.Contains(o.Text, "started it again") {
		t.Errorf("outcome %+v", o)
	}
	if target.Release != one.ID || target.Rotation != api.RotationIn || s.admin(t) != "0" {
		t.Errorf("after reverting: %+v, administrative state %s", target, s.admin(t))
	}
	if asked, failures := traffic(); len(failures) > 0 || asked < 50 {
		t.Errorf("%d of %d requests failed: %v", len(failures), asked, failures)
	}
}

func TestAnAgentThatIsRestartedFinishesItsTurn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	one := s.first(t)
	two := s.prepare(t, map[string]string{"version": "two", "slow": "1s"})
	turn := s.activate(two.ID, one.ID)
	s.c.awaitApp(t, hello, "the release is being verified", func(r api.AppReport) bool { return r.Targets[0].Step == api.StepVerify })
	s.stop()
	if s.admin(t) == "0" {
		t.Error("a stopped agent put an unproved release back into rotation")
	}
	s.start(t)
	o, target := s.c.awaitTurn(t, hello, turn)
	if !o.OK || target.Release != two.ID || s.admin(t) != "0" {
		t.Errorf("%+v, %+v, administrative state %s", o, target, s.admin(t))
	}
}

func TestARevokedTurnIsUndone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	one := s.first(t)
	two := s.prepare(t, map[string]string{"version": "two"})
	before, err := s.deps.Units.Status(t.Context(), "hello.service")
	if err != nil {
		t.Fatal(err)
	}
	// A request in flight holds the drain up. Of two, each server has one.
	var requests sync.WaitGroup
	for range 2 {
		requests.Go(func() {
			if _, err := get(http.DefaultClient, s.lb.URL("web")+"/wait?for=1500ms"); err != nil {
				t.Errorf("a request in flight failed: %v", err)
			}
		})
	}
	defer requests.Wait()
	deadline := time.Now().Add(patience)
	for n := ""; n != "1"; {
		if time.Now().After(deadline) {
			t.Fatal("no request arrived at the app")
		}
		var err error
		if n, err = get(http.DefaultClient, "http://"+s.addr+"/inflight"); err != nil {
			t.Fatal(err)
		}
	}
	turn := s.activate(two.ID, one.ID)
	s.c.awaitApp(t, hello, "the target is draining", func(r api.AppReport) bool { return r.Targets[0].Rotation == api.RotationDraining })
	s.c.set(hello, func(a *api.Assignment) {
		a.Targets[0].Turn, a.Targets[0].Release, a.Targets[0].Fallback = 0, one.ID, ""
	})
	o, target := s.c.awaitTurn(t, hello, turn)
	if o.OK || !o.Reverted || o.Reason != api.ReasonRevoked {
		t.Errorf("outcome %+v", o)
	}
	if st, err := s.deps.Units.Status(t.Context(), "hello.service"); err != nil || st.InvocationID != before.InvocationID {
		t.Errorf("the unit was restarted although the drain was not over (%v)", err)
	}
	if target.Release != one.ID || target.Rotation != api.RotationIn || s.admin(t) != "0" {
		t.Errorf("after revoking: %+v, administrative state %s", target, s.admin(t))
	}
}
