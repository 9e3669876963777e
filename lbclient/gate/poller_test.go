package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// every 2 s with an answer within 1 s, three failures out, two passes in: a
// poller is silent after 3x2+1+2 = 9 s.
var slow = lbclient.Timing{Interval: 2 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2}

func TestPolls(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	const ok, no = http.StatusOK, http.StatusServiceUnavailable
	type p struct {
		at     int // seconds
		who    netip.Addr
		answer int
	}
	for _, c := range []struct {
		name              string
		polls             []p
		now               int
		must              []netip.Addr
		least             int
		refused, admitted bool
	}{
		{"nobody", nil, 100, nil, 1, false, false},
		{"refused twice", []p{{0, a, no}, {2, a, no}}, 6, nil, 1, false, false},
		{"refused three times", []p{{0, a, no}, {2, a, no}, {4, a, no}}, 6, nil, 1, true, false},
		{"refused three times too fast: two balancers may share the address", []p{{0, a, no}, {1, a, no}, {2, a, no}}, 3, nil, 1, false, false},
		{"refused with an admission between", []p{{0, a, no}, {2, a, no}, {4, a, ok}, {6, a, no}}, 8, nil, 1, false, false},
		{"admitted twice", []p{{0, a, ok}, {2, a, ok}}, 4, nil, 1, false, true},
		{"admitted once", []p{{0, a, ok}}, 4, nil, 1, false, false},
		{"one of two was told too little", []p{{0, a, no}, {2, a, no}, {4, a, no}, {3, b, no}, {5, b, no}}, 6, nil, 1, false, false},
		{"both were told", []p{{0, a, no}, {2, a, no}, {4, a, no}, {0, b, no}, {2, b, no}, {4, b, no}}, 6, nil, 1, true, false},
		{"one was told, a pair is wanted", []p{{0, a, no}, {2, a, no}, {4, a, no}}, 6, nil, 2, false, false},
		{"the other stopped long ago", []p{{-20, b, ok}, {0, a, no}, {2, a, no}, {4, a, no}}, 6, nil, 1, true, false},
		{"the other may have stopped", []p{{-2, b, ok}, {0, a, no}, {2, a, no}, {4, a, no}}, 6, nil, 1, false, false},
		{"one that polled before the restart is awaited", []p{{0, a, no}, {2, a, no}, {4, a, no}}, 6, []netip.Addr{a, b}, 1, false, false},
		{"but not for ever", []p{{4, a, no}, {6, a, no}, {8, a, no}}, 10, []netip.Addr{a, b}, 1, true, false},
		{"all have stopped", []p{{0, a, no}, {2, a, no}, {4, a, no}}, 14, nil, 1, false, false},
	} {
		var ps polls
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		for _, p := range c.polls {
			ps.note(p.who, p.answer, at(p.at))
		}
		q := question{times: slow.Fall, timing: slow, least: c.least, must: c.must, since: start, now: at(c.now)}
		refused := ps.known(q)
		q.admitted, q.times = true, slow.Rise
		admitted := ps.known(q)
		if refused.Done != c.refused || admitted.Done != c.admitted {
			t.Errorf("%s: refused %+v, admitted %+v; want %t, %t", c.name, refused, admitted, c.refused, c.admitted)
		}
	}
}

// TestPollsNeverClaimTooMuch: whatever the polls, nobody is both out and in, and
// nobody is called told whose last answer was another.
func TestPollsNeverClaimTooMuch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ps polls
		now := start
		last := make(map[netip.Addr]Poller)
		for range rapid.IntRange(0, 60).Draw(t, "polls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
			who := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "who"))})
			answer := rapid.SampledFrom([]int{http.StatusOK, http.StatusServiceUnavailable}).Draw(t, "answer")
			ps.note(who, answer, now)
			last[who] = Poller{Last: now, Answer: answer}
		}
		q := question{times: slow.Fall, timing: slow, least: 1, since: start, now: now}
		refused := ps.known(q).Done
		q.admitted, q.times = true, slow.Rise
		admitted := ps.known(q).Done
		if refused && admitted {
			t.Fatal("the target is out and in")
		}
		for who, p := range last {
			if now.Sub(p.Last) > silence(slow) {
				continue
			}
			if refused && p.admitted() || admitted && !p.admitted() {
				t.Fatalf("%s was last answered %d, yet refused is %t and admitted is %t", who, p.Answer, refused, admitted)
			}
		}
	})
}

func TestStrangersTakeNoMemory(t *testing.T) {
	var ps polls
	steady := netip.MustParseAddr("10.0.0.1")
	for i := range 10 * maxPollers {
		now := start.Add(time.Duration(i) * time.Millisecond)
		ps.note(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), http.StatusOK, now)
		ps.note(steady, http.StatusOK, now)
	}
	if len(ps.list) != maxPollers {
		t.Errorf("%d pollers are remembered, want %d", len(ps.list), maxPollers)
	}
	for _, p := range ps.list {
		if p.Address == steady && p.Streak != 10*maxPollers {
			t.Errorf("of the one that polls steadily %d polls are remembered", p.Streak)
		}
	}
}

func TestInherited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // closed already by the one who took it
	fd := int(f.Fd())
	if got, err := inherited("gate", "1", "other:gate", fd-1); got != nil || err != nil {
		t.Errorf("a name beyond the count gives %v, %v", got, err)
	}
	if _, err := inherited("gate", "many", "gate", fd); err == nil {
		t.Error("nonsense gives no error")
	}
	got, err := inherited("gate", "2", "other:gate", fd-1)
	if err != nil || got == nil || got.Addr().String() != l.Addr().String() {
		t.Fatalf("got %v, %v; want %s", got, err, l.Addr())
	}
	got.Close()
	if got, err := Inherited("gate"); got != nil || err != nil {
		t.Errorf("without systemd: %v, %v", got, err)
	}
}

func TestStateIsWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gate.json")
	if s, err := loadState(path, "w1"); err != nil || s.Drained {
		t.Errorf("no file: %+v, %v", s, err)
	}
	want := state{Server: "w1", Drained: true, At: start, Pollers: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}
	if err := want.save(path); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(path, "w1")
	if err != nil || !got.Drained || !got.At.Equal(start) || fmt.Sprint(got.Pollers) != "[2001:db8::1]" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := loadState(path, "w2"); !errors.Is(err, errBadState) {
		t.Errorf("another target's: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"server":"w1","drained":true,"at":"2026-01-02T03:04:05Z","pollers":["10.0.0.1"]}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(``))
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			if !errors.Is(err, errBadState) {
				t.Errorf("error %v does not say that the file is bad", err)
			}
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Skip("a date that JSON cannot write")
		}
		if back, err := parseState(again); err != nil || back.Drained != s.Drained || back.Server != s.Server {
			t.Errorf("%s is read again as %+v, %v", again, back, err)
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"server":"w1","epoch":"2026","drained":true,"refused":{"done":true,"text":"x"},"pollers":[{"address":"10.0.0.1"}]}`))
	f.Add([]byte(`{"server":"w1","epoch":"2026","pollers":[{"address":""}]}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStatus(data)
		if err != nil {
			return
		}
		if s.Server == "" || s.Epoch == "" {
			t.Errorf("%+v is taken for a gate's", s)
		}
		if ph := s.Phase(); ph == lbclient.PhaseServing && (s.Drained || s.Held || s.Unhealthy != "" || s.Unreadable != "") {
			t.Errorf("%+v serves", s)
		}
		_ = s.words()
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"file":"/var/lib/lockstep/gate.json"}`))
	f.Add([]byte(`{"file":"/x"} y`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		if again, err := json.Marshal(rec); err != nil {
			t.Error(err)
		} else if back, err := decodeRecord(again); err != nil || back != rec {
			t.Errorf("%s is read again as %+v, %v", again, back, err)
		}
	})
}
