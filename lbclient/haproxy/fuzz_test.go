package haproxy

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func sample(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestParseSamples reads answers in the words of HAProxy 2.6.12, shortened.
func TestParseSamples(t *testing.T) {
	i, err := parseInfo(sample(t, "info.txt"))
	if want := (info{version: "2.6.12-1+deb12u4", pid: 17041, start: 1795218001, uptime: 2, processes: 1}); err != nil || i != want {
		t.Errorf("got %+v, error %v; want %+v", i, err, want)
	}
	states, err := parseState(sample(t, "state.txt"))
	if err != nil || len(states) != 5 {
		t.Fatalf("got %+v, error %v", states, err)
	}
	if want := (stateRow{backend: "3", server: "w2", op: opRunning, admin: forcedDrain, weight: 25, configured: 30, result: 3, checkState: 6}); states[1] != want {
		t.Errorf("got %+v, want %+v", states[1], want)
	}
	stats, err := parseStat(sample(t, "stat.csv"))
	if err != nil || len(stats) != 5 { // of 6 rows, one is the backend's
		t.Fatalf("got %+v, error %v", stats, err)
	}
	if want := (statRow{server: "w1", current: 2, queued: 3, status: "DOWN", checkStatus: "L4CON", rise: 2, fall: 2}); stats[0] != want {
		t.Errorf("got %+v, want %+v", stats[0], want)
	}
	if s := stats[2]; s.tracked != "be/w1" {
		t.Errorf("got %+v, want one that tracks be/w1", s)
	}
	if s := stats[4]; !s.backup {
		t.Errorf("got %+v, want a backup", s)
	}
	if _, err := join("be", states, stats); err != nil {
		t.Error(err)
	}
	if _, err := join("be", states[1:], stats); err == nil {
		t.Error("a server without a state was accepted")
	}
	if _, err := join("be", states, stats[1:]); err == nil {
		t.Error("a server without statistics was accepted")
	}
}

// TestParseByName moves the columns about, as HAProxy versions do.
func TestParseByName(t *testing.T) {
	states, err := parseState("1\n# srv_check_state srv_check_result srv_iweight srv_uweight new srv_admin_state srv_op_state srv_name be_id\n6 3 30 25 x 8 2 w2 4\n")
	if want := (stateRow{backend: "4", server: "w2", op: opRunning, admin: forcedDrain, weight: 25, configured: 30, result: 3, checkState: 6}); err != nil || len(states) != 1 || states[0] != want {
		t.Errorf("got %+v, error %v", states, err)
	}
	stats, err := parseStat("# type,new,check_health,check_fall,check_rise,check_status,tracked,status,scur,qcur,svname,pxname\n" +
		"2,\"a,\n\nb\",3,2,2,L7OK,,UP,1,0,w2,be\n")
	if want := (statRow{server: "w2", current: 1, status: "UP", checkStatus: "L7OK", rise: 2, fall: 2, health: 3}); err != nil || len(stats) != 1 || stats[0] != want {
		t.Errorf("got %+v, error %v", stats, err)
	}
}

func TestParseRefuses(t *testing.T) {
	cut := func(s string, n int) string { return s[:len(s)-n] }
	state, stat := sample(t, "state.txt"), sample(t, "stat.csv")
	for what, err := range map[string]error{
		"no pid":             second(parseInfo("Name: HAProxy\nUptime_sec: 2\n")),
		"no number":          second(parseInfo("Pid: x\nUptime_sec: 2\n")),
		"another format":     second(parseState(strings.Replace(state, "1\n", "2\n", 1))),
		"no admin state":     second(parseState(strings.Replace(state, "srv_admin_state", "x", 1))),
		"a row cut off":      second(parseState(cut(state, 20))),
		"a word for a state": second(parseState(strings.Replace(state, " 2 8 25 ", " 2 drain 25 ", 1))),
		"no header":          second(parseStat("")),
		"no queue":           second(parseStat(strings.Replace(stat, "qcur", "x", 1))),
		"a line cut off":     second(parseStat(cut(stat, 200))),
		"no count":           second(parseStat(strings.Replace(stat, "be,w1,3,", "be,w1,,", 1))),
	} {
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzParseInfo(f *testing.F) {
	f.Add(sample(f, "info.txt"))
	f.Add("Pid: 1\nUptime_sec: 0\nStopping: 1\nNbproc: 4")
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := parseInfo(text); err == nil && (i.pid <= 0 || i.processes < 1 || i.uptime < 0 || i.start < 0) {
			t.Errorf("accepted %+v", i)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add(sample(f, "state.txt"))
	f.Add("1\n# srv_name srv_op_state srv_admin_state srv_uweight srv_iweight srv_check_result srv_check_state\nw 2 0 1 1 3 6\n")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseState(text)
		if err != nil && rows != nil {
			t.Error("rows beside an error")
		}
		for _, r := range rows {
			s := server{stateRow: r}
			_, _, _ = s.phase(), s.takesWork(), s.words()
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add(sample(f, "stat.csv"))
	f.Add("# pxname,svname,qcur,scur,status,type,tracked,check_status,check_rise,check_fall,check_health\nbe,w,0,0,UP,2,,,,,\n")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseStat(text)
		if err != nil && rows != nil {
			t.Error("rows beside an error")
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"instances":[{"endpoint":"unix:///run/a","process":{"pid":1,"start":2},"places":[{"backend":"web","admin_state":0,"weight":1,"configured_weight":1}]}]}`))
	f.Add([]byte(`{"instances":[{"endpoint":"unix:///run/a","places":[{"backend":"web;quit","weight":1}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		// What was accepted can be asked about, and nothing else slips in.
		for _, q := range rec.questions() {
			for _, b := range q.backends {
				if strings.ContainsAny(b, "; \n\\") {
					t.Errorf("accepted the backend name %q", b)
				}
			}
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"unix:///run/haproxy/admin.sock", "tcp://lb1:9999", "tcp://[::1]:9999", "tcp://a:b@c:1", "unix:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseEndpoint(text)
		if err != nil {
			return
		}
		again, err := parseEndpoint(e.String())
		if err != nil || again != e || e.address == "" {
			t.Errorf("%q became %+v, then %+v, error %v", text, e, again, err)
		}
	})
}

func FuzzProc(f *testing.F) {
	f.Add("20 (ha (pro) xy) S 1 20 20 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 300 0 0", "haproxy\x00-sf\x0011\x0012\x00-Ws\x00")
	f.Add("", "-st\x00-1\x00")
	f.Fuzz(func(t *testing.T, stat, cmdline string) {
		parseProcStat(stat)
		for _, pid := range parseReplaced(cmdline) {
			if pid <= 0 {
				t.Errorf("process number %d", pid)
			}
		}
	})
}

func TestParseReplaced(t *testing.T) {
	for cmdline, want := range map[string][]int{
		"haproxy\x00-f\x00x.cfg\x00":                          nil,
		"haproxy\x00-sf\x0011\x0012\x00-Ws\x0013\x00":         {11, 12},
		"haproxy\x00-x\x00sockpair@3\x00-st\x007\x00-sf\x008": {7, 8},
	} {
		if got := parseReplaced(cmdline); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", cmdline, got, want)
		}
	}
	if name, state, start := parseProcStat("20 (ha (pro) xy) S 1 20 20 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 300 0 0"); name != "ha (pro) xy" || state != "S" || start != 300 {
		t.Errorf("got %q %q %d", name, state, start)
	}
}
