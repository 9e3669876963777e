package exec_test

import (
	"errors"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/exec"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// world is a real HAProxy behind the example script.
type world struct {
	*lbtest.Front
	t      *testing.T
	lb     *haproxytest.Process
	dir    string
	socket string // what the script is given: a link to HAProxy's
}

const quick = "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2"

func example(t *testing.T) string {
	t.Helper()
	if _, err := osexec.LookPath("socat"); err != nil {
		t.Skip("socat is not installed; install the socat package to run this test")
	}
	path, err := filepath.Abs("examples/haproxy.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newWorld(t *testing.T) *world {
	t.Helper()
	example(t)
	dir, err := os.MkdirTemp("", "exec") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{Front: lbtest.NewFront(t, 3), t: t, dir: dir, socket: filepath.Join(dir, "admin.sock")}
	be := haproxytest.Backend{Name: "web", Lines: []string{"option httpchk GET /healthz"}}
	for _, n := range w.Targets() {
		be.Servers = append(be.Servers, haproxytest.Server{Name: n, Address: w.Apps[n].Address, Options: quick})
	}
	w.lb = haproxytest.Start(t, haproxytest.Options{
		Backends: []haproxytest.Backend{be},
		Global:   []string{"stats socket " + filepath.Join(dir, "operator.sock") + " level operator"},
	})
	w.URL = w.lb.URL("web")
	w.link(strings.TrimPrefix(w.lb.Endpoint(), "unix://"))
	w.mode("")
	p := w.Provider("w1")
	w.Await("all serve", func() bool {
		pool, err := p.Observe(t.Context())
		return err == nil && !slices.ContainsFunc(pool.Members, func(m lbclient.Member) bool { return m.Phase != lbclient.PhaseServing })
	})
	return w
}

// link makes the script speak to another socket.
func (w *world) link(to string) {
	w.t.Helper()
	if err := os.Remove(w.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	if err := os.Symlink(to, w.socket); err != nil {
		w.t.Fatal(err)
	}
}

// mode sets what happens to changes: "lose" the answer or "ignore" the change.
func (w *world) mode(mode string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "mode"), []byte(mode), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// faulty runs its arguments in the mode that the test has set.
const faulty = `mode=$(cat "$MODE_FILE")
case $mode-$LB_STAGE in
ignore-drain | ignore-rejoin) exit 0 ;;
lose-drain | lose-rejoin) "$@"; kill -9 $$ ;;
esac
exec "$@"`

func (w *world) Provider(target string) lbclient.Provider {
	w.t.Helper()
	p, err := exec.New(exec.Config{
		Name: "front", Node: "node-of-" + target, Server: target,
		Command: []string{"/bin/sh", "-c", faulty, "sh", example(w.t), w.socket, "web"},
		Env:     []string{"MODE_FILE=" + filepath.Join(w.dir, "mode")},
		Caps:    lbclient.Caps{Health: true, InFlight: true},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) command(line string) string {
	w.t.Helper()
	answer, err := w.lb.Command(line)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func (w *world) phase(target string) lbclient.Phase {
	w.t.Helper()
	pool, err := w.Provider(target).Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range pool.Members {
		if m.Name == target {
			return m.Phase
		}
	}
	return lbclient.PhaseAbsent
}
func harness() lbtest.Harness {
	return lbtest.Harness{
		New:            func(t *testing.T) lbtest.World { return newWorld(t) },
		CountsInFlight: true,
		CountsTwice:    true,
		HoldOut: func(_ *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
		},
		HeldOut: func(_ *testing.T, w lbtest.World, target string) bool {
			return w.(*world).phase(target) == lbclient.PhaseForeignOut
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*world).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Readmit: func(_ *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state ready")
		},
		Remove: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
			if said := w.(*world).command("del server web/" + target); !strings.Contains(said, "deleted") {
				t.Skipf("this HAProxy does not delete servers: %s", said)
			}
		},
		Cut: func(_ *testing.T, w lbtest.World) { w.(*world).lb.Stop() },
		Hang: func(t *testing.T, w lbtest.World) {
			path := filepath.Join(w.(*world).dir, "silent.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			w.(*world).link(path)
		},
		Deny: func(_ *testing.T, w lbtest.World) { w.(*world).link(filepath.Join(w.(*world).dir, "operator.sock")) },
		LoseAnswers: func(_ *testing.T, w lbtest.World) func() {
			w.(*world).mode("lose")
			return func() { w.(*world).mode("") }
		},
		Ignore: func(_ *testing.T, w lbtest.World) func() {
			w.(*world).mode("ignore")
			return func() { w.(*world).mode("") }
		},
		Restart: func(_ *testing.T, w lbtest.World, target string, while func()) { w.(*world).Restart(target, while) },
	}
}

func TestContract(t *testing.T) { lbtest.Run(t, harness()) }

// TestWeight: what the snapshot said comes back to the rejoin.
func TestWeight(t *testing.T) {
	w := newWorld(t)
	w.command("set server web/w1 weight 42")
	p := w.Provider("w1")
	r, err := p.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	w.command("set server web/w1 weight 7")
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if said := w.command("get weight web/w1"); !strings.HasPrefix(said, "42 ") {
		t.Errorf("the weight is %s, want 42", said)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		st, err := p.RejoinStatus(t.Context(), r)
		if err == nil && st.Stage == lbclient.RejoinServing {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %+v, %v", st, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
