package quiesce

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// blind is a balancer that holds a drain and cannot count.
type blind struct {
	lbclient.Provider
	st  lbclient.DrainStatus
	err error
}

func (b *blind) DrainStatus(context.Context, lbclient.Restore) (lbclient.DrainStatus, error) {
	return b.st, b.err
}
func (b *blind) BeginRejoin(context.Context, lbclient.Restore) error { return nil }
func (b *blind) Preflight(context.Context) error                     { return nil }

func held() *blind {
	return &blind{st: lbclient.DrainStatus{Stage: lbclient.DrainBusy, InFlight: -1, Epoch: "1", Evidence: "held"}}
}

// quiet is an established connection that nobody has used for a long time.
func quiet(id uint64, peer string) socket {
	return socket{
		id: id, port: 80, peer: netip.MustParseAddrPort(peer), state: netlink.TCP_ESTABLISHED,
		sent: time.Hour, received: time.Hour + time.Minute,
	}
}

func TestWhichConnectionsWork(t *testing.T) {
	change := func(f func(*socket)) socket {
		s := quiet(1, "10.0.0.1:4000")
		f(&s)
		return s
	}
	cfg := Config{Ports: []uint16{80}, Quiet: 3 * time.Second, Ignore: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	patient := cfg
	patient.AnswerWithin = time.Minute
	for _, c := range []struct {
		name  string
		cfg   Config
		s     socket
		works bool
		open  bool
	}{
		{"keep-alive, long answered", cfg, quiet(1, "10.0.0.1:4000"), false, true},
		{"answered a moment ago", cfg, change(func(s *socket) { s.sent = 2 * time.Second; s.received = 9 * time.Second }), true, true},
		{"a question a moment ago", cfg, change(func(s *socket) { s.received = time.Second }), true, true},
		{"a question long ago, not answered", cfg, change(func(s *socket) { s.received = 50 * time.Minute }), true, true},
		{"the same where peers have the last word", patient, change(func(s *socket) { s.received = 50 * time.Minute }), false, true},
		{"a question not long ago where peers have the last word", patient, change(func(s *socket) { s.received = 50 * time.Second }), true, true},
		{"a question that the app has not read", cfg, change(func(s *socket) { s.queued = true }), true, true},
		{"opened and never used", cfg, change(func(s *socket) { s.received = s.sent }), false, true},
		{"a question in the moment of connecting", cfg, change(func(s *socket) { s.received = s.sent; s.unanswered = true }), true, true},
		{"half closed by the peer, not answered", cfg, change(func(s *socket) { s.state = netlink.TCP_CLOSE_WAIT; s.received = time.Minute }), true, true},
		{"half closed by the peer, answered", cfg, change(func(s *socket) { s.state = netlink.TCP_CLOSE_WAIT }), false, true},
		{"closed by the app", cfg, change(func(s *socket) { s.state = netlink.TCP_FIN_WAIT2; s.received = 0 }), false, false},
		{"long gone", cfg, change(func(s *socket) { s.state = netlink.TCP_TIME_WAIT; s.sent, s.received = 0, 0 }), false, false},
		{"of an ignored peer", cfg, change(func(s *socket) { s.peer = netip.MustParseAddrPort("10.9.1.1:5"); s.received = 0 }), false, false},
		{"a listening socket", cfg, change(func(s *socket) { s.peer = netip.AddrPort{}; s.state = netlink.TCP_LISTEN; s.received = 0 }), false, false},
	} {
		w := watch{cfg: c.cfg}
		f := w.look(time.Now(), []socket{c.s})
		if (len(f.working) == 1) != c.works || (f.quiet+len(f.working) == 1) != c.open {
			t.Errorf("%s: works %d, quiet %d; want working %t of open %t", c.name, len(f.working), f.quiet, c.works, c.open)
		}
	}
}

// wrapped wraps a balancer and a list of sockets that the test sets.
func wrapped(t *testing.T, b *blind, c Config) (*provider, *[]socket) {
	t.Helper()
	c.Ports = []uint16{80}
	w, err := Wrap(b, c)
	if err != nil {
		t.Fatal(err)
	}
	p := w.(*provider)
	list := new([]socket)
	p.list = func([]uint16) ([]socket, error) { return *list, nil }
	return p, list
}

func look(t *testing.T, p *provider, want lbclient.DrainStage, inFlight int64) string {
	t.Helper()
	st, err := p.DrainStatus(t.Context(), lbclient.Restore{})
	if err != nil || st.Stage != want || st.InFlight != inFlight {
		t.Errorf("got %+v (%v), want %s with %d", st, err, want, inFlight)
	}
	return st.Evidence
}

func TestIdleOnlyAfterTheQuietWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, list := wrapped(t, held(), Config{})
		*list = []socket{quiet(1, "10.0.0.1:4000")}
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(DefaultQuiet - time.Millisecond)
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(time.Millisecond)
		look(t, p, lbclient.DrainIdle, 0)
		busy := quiet(1, "10.0.0.1:4000")
		busy.received = time.Minute
		*list = []socket{busy}
		if said := look(t, p, lbclient.DrainBusy, 1); !strings.Contains(said, "10.0.0.1:4000 to port 80") {
			t.Errorf("the evidence names no peer: %s", said)
		}
	})
}

func TestNewConnectionsMeanNotDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, list := wrapped(t, held(), Config{Ignore: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:10.8.0.0/112")}})
		old := quiet(1, "10.0.0.1:4000")
		*list = []socket{old}
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(time.Minute)
		*list = []socket{old, quiet(2, "10.0.0.1:4001")}
		if said := look(t, p, lbclient.DrainAccepted, 0); !strings.Contains(said, "10.0.0.1:4001") {
			t.Errorf("the evidence names no peer: %s", said)
		}
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(DefaultQuiet)
		look(t, p, lbclient.DrainIdle, 0)
		// One that has come and gone already leaves its socket behind for a while.
		gone := quiet(3, "10.0.0.1:4002")
		gone.state = netlink.TCP_TIME_WAIT
		*list = []socket{old, gone}
		look(t, p, lbclient.DrainAccepted, 0)
		time.Sleep(DefaultQuiet)
		*list = []socket{old, gone, quiet(4, "127.0.0.1:4003"), quiet(5, "10.8.0.7:4003")}
		look(t, p, lbclient.DrainIdle, 0)
	})
}

func TestChecksOnThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, list := wrapped(t, held(), Config{ChecksOnPort: true})
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(DefaultQuiet)
		*list = []socket{quiet(9, "10.0.0.1:4001")}
		look(t, p, lbclient.DrainIdle, 0)
	})
}

func TestAnotherDrainBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := held()
		p, list := wrapped(t, b, Config{})
		begin := func() {
			t.Helper()
			*list = append(*list, quiet(uint64(len(*list)+1), "10.0.0.1:4001"))
			look(t, p, lbclient.DrainBusy, 0) // and not accepted: nothing was promised before
			time.Sleep(DefaultQuiet)
			look(t, p, lbclient.DrainIdle, 0)
		}
		begin()
		for _, stage := range []lbclient.DrainStage{lbclient.DrainNotAsked, lbclient.DrainAccepted} {
			b.st.Stage = stage
			look(t, p, stage, -1)
			b.st.Stage = lbclient.DrainBusy
			begin()
		}
		if err := p.BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
			t.Fatal(err)
		}
		begin()
		b.st.Epoch = "2"
		begin()
	})
}

func TestTheBalancersOwnCountStands(t *testing.T) {
	b := held()
	p, list := wrapped(t, b, Config{})
	*list = []socket{quiet(1, "10.0.0.1:4000")}
	b.st.InFlight = 4
	look(t, p, lbclient.DrainBusy, 4)
	b.st.Stage, b.st.InFlight = lbclient.DrainIdle, 0
	look(t, p, lbclient.DrainIdle, 0)
	b.err = &lbclient.Error{Class: lbclient.ClassBusy, Op: "look"}
	if _, err := p.DrainStatus(t.Context(), lbclient.Restore{}); !errors.Is(err, b.err) {
		t.Errorf("got error %v, want the balancer's", err)
	}
}

func TestKernelRefuses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want lbclient.Class
	}{
		{unix.EPERM, lbclient.ClassDenied},
		{unix.EAFNOSUPPORT, lbclient.ClassUnsupported},
		{netlink.ErrDumpInterrupted, lbclient.ClassTransient},
	} {
		p, _ := wrapped(t, held(), Config{})
		p.list = func([]uint16) ([]socket, error) { return nil, c.err }
		if _, err := p.DrainStatus(t.Context(), lbclient.Restore{}); err == nil || lbclient.ClassOf(err) != c.want {
			t.Errorf("%v: got error %v, want class %s", c.err, err, c.want)
		}
		if err := p.Preflight(t.Context()); err == nil || lbclient.ClassOf(err) != c.want {
			t.Errorf("%v: Preflight gives %v, want class %s", c.err, err, c.want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for what, c := range map[string]Config{
		"no ports":          {},
		"port 0":            {Ports: []uint16{0}},
		"a port twice":      {Ports: []uint16{80, 80}},
		"a negative window": {Ports: []uint16{80}, Quiet: -1},
		"an endless window": {Ports: []uint16{80}, Quiet: time.Hour},
		"a negative answer": {Ports: []uint16{80}, AnswerWithin: -1},
		"an empty range":    {Ports: []uint16{80}, Ignore: []netip.Prefix{{}}},
	} {
		if _, err := Wrap(held(), c); err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
}

// able is a balancer with every optional ability.
type able struct{ *blind }

func (able) ForceIdle(context.Context, lbclient.Restore) error { return nil }
func (able) Caps() lbclient.Caps                               { return lbclient.Caps{Health: true} }
func (able) Timing(context.Context) (lbclient.Timing, error)   { return lbclient.Timing{Rise: 2}, nil }

func TestAbilitiesShowThrough(t *testing.T) {
	for _, c := range []struct {
		p   lbclient.Provider
		can bool
	}{{held(), false}, {able{held()}, true}} {
		p, err := Wrap(c.p, Config{Ports: []uint16{80}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.(lbclient.Forcer).ForceIdle(t.Context(), lbclient.Restore{}); c.can != (err == nil) || !c.can && lbclient.ClassOf(err) != lbclient.ClassUnsupported {
			t.Errorf("ForceIdle: %v", err)
		}
		if timing, err := p.(lbclient.Timed).Timing(t.Context()); c.can != (err == nil) || c.can && timing.Rise != 2 {
			t.Errorf("Timing: %+v, %v", timing, err)
		}
		if got := lbclient.CapsOf(p).Health; got != c.can {
			t.Errorf("Caps: health %t", got)
		}
	}
}

func TestOwnConnectionsAreNoTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := netip.MustParseAddrPort("127.0.0.1:4001")
		under := true // way, the check
		p, list := wrapped(t, held(), Config{Own: func(peer netip.AddrPort, open bool) bool { return peer == own && (under || !open) }})
		*list = []socket{quiet(1, "127.0.0.1:4000")}
		look(t, p, lbclient.DrainBusy, 0)
		time.Sleep(DefaultQuiet)
		check := quiet(2, own.String())
		check.received = 0
		*list = append(*list, check)
		look(t, p, lbclient.DrainIdle, 0)
		under = false
		(*list)[1].state = netlink.TCP_CLOSE_WAIT
		look(t, p, lbclient.DrainIdle, 0)
		(*list)[1].state = netlink.TCP_ESTABLISHED // somebody else, who was given its port
		look(t, p, lbclient.DrainAccepted, 1)
		*list = (*list)[:1]
		time.Sleep(DefaultQuiet)
		look(t, p, lbclient.DrainIdle, 0)
		*list = append(*list, quiet(3, "127.0.0.1:4002"))
		look(t, p, lbclient.DrainAccepted, 0)
	})
}
