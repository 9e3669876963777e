package haproxy_test

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// quick is how the servers of the tests are checked.
const quick = "check inter 50ms fastinter 20ms downinter 20ms rise 2 fall 2"

// world is one HAProxy before several apps.
type world struct {
	*lbtest.Front
	t        *testing.T
	lb       *haproxytest.Process
	backend  []string
	frontend string // its name, "" as usual
}

// newWorld starts apps w1, w2, ... which are servers of every given backend.
func newWorld(t *testing.T, apps int, o haproxytest.Options, backends ...string) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFront(t, apps), t: t, backend: backends}
	w.start(o)
	return w
}

// twin is another HAProxy before the same apps.
func (w *world) twin(o haproxytest.Options) *world {
	w.t.Helper()
	out := *w
	out.start(o)
	return &out
}

func (w *world) start(o haproxytest.Options) {
	w.t.Helper()
	if o.Backends == nil {
		for _, b := range w.backend {
			be := haproxytest.Backend{Name: b, Frontend: w.frontend, Lines: []string{"option httpchk GET /healthz"}}
			for _, n := range w.Names {
				be.Servers = append(be.Servers, haproxytest.Server{Name: n, Address: w.Apps[n].Address, Options: quick})
			}
			o.Backends = append(o.Backends, be)
		}
	}
	w.lb = haproxytest.Start(w.t, o)
	if len(w.backend) > 0 {
		w.Front = w.At(w.lb.URL(w.backend[0]))
	}
	for _, b := range w.backend {
		for _, n := range w.Names {
			w.await(b+"/"+n+" passes its first check", func() bool {
				s := w.show(b, n)
				return s["status"] == "UP" && strings.HasPrefix(s["check_status"], "L7OK") || s["check_status"] == ""
			})
		}
	}
}

// show is a server's line of "show stat", by column.
func (w *world) show(backend, server string) map[string]string {
	w.t.Helper()
	answer := w.command("show stat -1 4 -1")
	lines := strings.Split(strings.TrimPrefix(answer, "# "), "\n")
	names := strings.Split(lines[0], ",")
	for _, l := range lines[1:] {
		f := strings.Split(l, ",")
		if len(f) == len(names) && f[0] == backend && f[1] == server {
			out := make(map[string]string)
			for i := range f {
				out[names[i]] = f[i]
			}
			return out
		}
	}
	w.t.Fatalf("no server %s in %q", server, answer)
	return nil
}

// state is a server's administrative state and weight in use, as HAProxy
// numbers them.
func (w *world) state(backend, server string) (admin, weight string) {
	w.t.Helper()
	for l := range strings.Lines(w.command("show servers state " + backend)) {
		if f := strings.Fields(l); len(f) > 8 && f[3] == server {
			return f[6], f[7]
		}
	}
	w.t.Fatalf("no server %s/%s", backend, server)
	return "", ""
}

func (w *world) command(line string) string {
	w.t.Helper()
	answer, err := w.lb.Command(line)
	if err != nil {
		w.t.Fatalf("%s: %v", line, err)
	}
	return answer
}

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	w.Await(what, ok)
}

func (w *world) config(server string) haproxy.Config {
	return haproxy.Config{Name: "front", Endpoints: []string{w.lb.Endpoint()}, Backends: w.backend, Server: server}
}

func provider(t *testing.T, c haproxy.Config) lbclient.Provider {
	t.Helper()
	p, err := haproxy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) Provider(target string) lbclient.Provider { return provider(w.t, w.config(target)) }

func (w *world) get(backend string) (string, error) { return w.At(w.lb.URL(backend)).Get() }
func harness() lbtest.Harness {
	return lbtest.Harness{
		New: func(t *testing.T) lbtest.World {
			return newWorld(t, 3, haproxytest.Options{}, "web")
		},
		CountsInFlight: true,
		HoldOut: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
		},
		HeldOut: func(t *testing.T, w lbtest.World, target string) bool {
			admin, _ := w.(*world).state("web", target)
			return admin == "1"
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*world).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Cut: func(t *testing.T, w lbtest.World) { w.(*world).lb.Stop() },
		Readmit: func(_ *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state ready")
		},
		Remove: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
			if said := w.(*world).command("del server web/" + target); !strings.Contains(said, "deleted") {
				t.Skipf("this HAProxy does not delete servers: %s", said)
			}
		},
		Restart:     func(_ *testing.T, w lbtest.World, target string, while func()) { w.(*world).Restart(target, while) },
		CountsTwice: true,
		Without: map[string]string{
			"hangs":           "TestContractOfAPair, TestHangingSocketMeetsTheDeadline",
			"denied":          "a rejoin that has nothing to change needs no leave; TestDrainIsUndoneWhenAnotherInstanceRefuses",
			"answers lost":    "TestContractOfAPair",
			"changes ignored": "TestContractOfAPair",
		},
	}
}

func TestContract(t *testing.T) { lbtest.Run(t, harness()) }
