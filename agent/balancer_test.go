package agent

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// blind is a balancer that holds a drain, and counts only if told to.
type blind struct {
	lbclient.Provider
	counts bool
}

func (b blind) Caps() lbclient.Caps { return lbclient.Caps{InFlight: b.counts} }

func (blind) DrainStatus(context.Context, lbclient.Restore) (lbclient.DrainStatus, error) {
	return lbclient.DrainStatus{Stage: lbclient.DrainBusy, InFlight: -1, Epoch: "1", Evidence: "held"}, nil
}

// What a balancer cannot know is read from the kernel, for those types only.
func TestConnectionsAreWatchedWhereTheBalancerCannotCount(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	visitor, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := visitor.Write([]byte("GET /")); err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	check := health.Check{TCP: l.Addr().String()}
	if p := check.Probe(t.Context()); !p.OK {
		t.Fatal(p.Text)
	}
	for name, c := range map[string]struct {
		typ     string
		counts  bool
		check   health.Check
		watched bool
		idle    *api.Idle
	}{
		"exec":              {"exec", false, check, true, nil},
		"a port by name":    {"hetzner", false, health.Check{}, true, &api.Idle{Ports: []int{port}}},
		"another port":      {"hetzner", false, check, false, &api.Idle{Ports: []int{1}}},
		"visitors ignored":  {"hetzner", false, check, false, &api.Idle{Ignore: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
		"hetzner":           {"hetzner", false, check, true, nil},
		"digitalocean":      {"digitalocean", false, check, true, nil},
		"caddy":             {"caddy", false, check, true, nil},
		"caddy that counts": {"caddy", true, check, false, nil},
		"without a port":    {"exec", false, health.Check{}, false, nil},
		"nginx":             {"nginx", false, check, false, nil}, // says idle itself
		"haproxy":           {"haproxy", true, check, false, nil},
	} {
		lb, err := watched(blind{counts: c.counts}, api.Balancer{Type: c.typ, Idle: c.idle}, c.check)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		st, err := lb.DrainStatus(t.Context(), lbclient.Restore{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// The probe is no visitor, though it came from the same machine.
		want := int64(-1)
		switch {
		case c.watched:
			want = 1
		case c.idle != nil:
			want = 0 // looked at, and found to be nobody's work
		}
		if st.Stage != lbclient.DrainBusy || st.InFlight != want || c.watched != strings.Contains(st.Evidence, visitor.LocalAddr().String()) {
			t.Errorf("%s: got %+v, want %d in flight", name, st, want)
		}
	}
}

// A neighbour on the same machine and port must not hold a drain up, and no
// visitor may be overlooked because the check goes to another address.
func TestWhichAddressesAreATargetsOwn(t *testing.T) {
	for check, want := range map[health.Check]string{
		{TCP: "127.0.0.12:8080"}:                  "127.0.0.12",
		{HTTP: "http://127.0.0.12:8080/healthz"}:  "127.0.0.12",
		{HTTP: "http://[::ffff:127.0.0.12]:8080"}: "127.0.0.12",
		{TCP: "127.0.0.1:8080"}:                   "invalid IP",
		{TCP: "[::1]:8080"}:                       "invalid IP",
		{TCP: "10.0.0.11:8080"}:                   "invalid IP",
		{TCP: "localhost:8080"}:                   "invalid IP",
		{}:                                        "invalid IP",
	} {
		if got := ownLoopback(check.Address()).String(); got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}
}

// The window of silence is the one that fleet.yaml gives.
func TestTheQuietWindowIsConfigured(t *testing.T) {
	lb, err := watched(blind{}, api.Balancer{Type: "exec", Idle: &api.Idle{Ports: []int{1}, Window: api.Duration(time.Nanosecond)}}, health.Check{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []lbclient.DrainStage{lbclient.DrainBusy, lbclient.DrainIdle} {
		if st, err := lb.DrainStatus(t.Context(), lbclient.Restore{}); err != nil || st.Stage != want && st.Stage != lbclient.DrainIdle {
			t.Errorf("got %+v, %v, want %s", st, err, want)
		}
	}
}

// Without a token of its own the agent says where to write it.
func TestACloudNeedsAToken(t *testing.T) {
	b := api.Balancer{Name: "front", Type: "hetzner", Cloud: &api.Cloud{LoadBalancer: "front", Mode: "remove"}}
	_, err := openWith(Config{}.BalancerToken)(b, "web1", "web1")
	if lbclient.ClassOf(err) != lbclient.ClassDenied || !strings.Contains(err.Error(), "balancers: {front: {token: {file:") {
		t.Errorf("got %v", err)
	}
}
