package haproxy

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

func TestConfig(t *testing.T) {
	good := Config{Name: "front", Endpoints: []string{"unix:///run/haproxy/admin.sock", "tcp://[::1]:9999", "tcp://lb2:9999"},
		Backends: []string{"web", "web-api.2:x"}, Server: "web1"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spoil func(*Config)
		says  string
	}{
		{func(c *Config) { c.Name = "" }, "no name"},
		{func(c *Config) { c.Server = "" }, "server name"},
		{func(c *Config) { c.Server = "w1 state ready;shutdown" }, "server name"},
		{func(c *Config) { c.Endpoints = nil }, "no endpoints"},
		{func(c *Config) { c.Endpoints = []string{"/run/haproxy.sock"} }, "unix:///"},
		{func(c *Config) { c.Endpoints = []string{"unix://run/haproxy.sock"} }, "absolute"},
		{func(c *Config) { c.Endpoints = []string{"unix:///run/../etc/x"} }, "absolute"},
		{func(c *Config) { c.Endpoints = []string{"unix:///" + strings.Repeat("x", 107)} }, "107 bytes"},
		{func(c *Config) { c.Endpoints = []string{"unix:///run/x?mode=1"} }, "more than an address"},
		{func(c *Config) { c.Endpoints = []string{"tcp://lb1"} }, "tcp://host:port"},
		{func(c *Config) { c.Endpoints = []string{"tcp://:9999"} }, "tcp://host:port"},
		{func(c *Config) { c.Endpoints = []string{"tcp://lb1:0"} }, "1 to 65535"},
		{func(c *Config) { c.Endpoints = []string{"tcp://lb1:65536"} }, "1 to 65535"},
		{func(c *Config) { c.Endpoints = []string{"tcp://lb1:9999/x"} }, "tcp://host:port"},
		{func(c *Config) { c.Endpoints = []string{"tcp://me:pw@lb1:9999"} }, "more than an address"},
		{func(c *Config) { c.Endpoints = []string{"http://lb1:9999"} }, "unix:///"},
		{func(c *Config) { c.Endpoints = []string{"tcp://lb1:1", "tcp://lb1:1"} }, "twice"},
		{func(c *Config) { c.Backends = nil }, "no backends"},
		{func(c *Config) { c.Backends = []string{"web", "web"} }, "twice"},
		{func(c *Config) { c.Backends = []string{"web;disable frontend x"} }, "backend name"},
		{func(c *Config) { c.SocketTimeout = -1 }, "socket timeout"},
		{func(c *Config) { c.SocketTimeout = time.Hour }, "socket timeout"},
	} {
		bad := good
		c.spoil(&bad)
		_, err := New(bad)
		if err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: got error %v, want invalid with %q", bad, err, c.says)
		}
	}
}

func TestErrorsOfTheSocket(t *testing.T) {
	dial := func(errno error) error {
		return dialError(t.Context(), "read", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
	}
	for _, c := range []struct {
		err  error
		want lbclient.Class
		says string
	}{
		{dial(syscall.EACCES), lbclient.ClassDenied, "group"},
		{dial(syscall.ENOENT), lbclient.ClassTransient, "no such socket"},
		{dial(syscall.ECONNREFUSED), lbclient.ClassTransient, "nobody listens"},
		{refusal("drain", "Permission denied\n"), lbclient.ClassDenied, "level admin"},
		{refusal("drain", "No such server.\n"), lbclient.ClassNotFound, "No such server."},
		{refusal("drain", "Unknown command: 'set'\nmore"), lbclient.ClassUnsupported, `"Unknown command: 'set'"`},
	} {
		if lbclient.ClassOf(c.err) != c.want || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("got %s: %v, want %s with %q", lbclient.ClassOf(c.err), c.err, c.want, c.says)
		}
	}
}

// TestPhase covers what takes chance or patience to see in a real HAProxy.
func TestPhase(t *testing.T) {
	const checks = checkConfigured | checkEnabled
	// As rise 2 and fall 3 make it: full health is 4, 2 and more is up.
	state := func(op opState, result int64) stateRow {
		return stateRow{op: op, weight: 1, result: result, checkState: checks}
	}
	stat := func(check string, health int64) statRow {
		return statRow{checkStatus: check, rise: 2, fall: 3, health: health}
	}
	for _, c := range []struct {
		what string
		s    server
		want lbclient.Phase
	}{
		{"UP", server{stateRow: state(opRunning, 3), statRow: stat("L7OK", 4)}, lbclient.PhaseServing},
		{"UP, next check under way", server{stateRow: state(opRunning, 0), statRow: stat("* L7OK", 4)}, lbclient.PhaseServing},
		{"UP, conditionally passed", server{stateRow: state(opRunning, 4), statRow: stat("L7OKC", 4)}, lbclient.PhaseServing},
		{"UP 1/3 before the first check", server{stateRow: state(opRunning, 0), statRow: stat("INI", 2)}, lbclient.PhasePending},
		{"UP 1/1 before the first check", server{stateRow: state(opRunning, 0),
			statRow: statRow{checkStatus: "* INI", rise: 2, fall: 1, health: 2}}, lbclient.PhasePending},
		{"UP 2/3 going down", server{stateRow: state(opRunning, 2), statRow: stat("L4TOUT", 3)}, lbclient.PhasePending},
		{"UP 1/3 after maintenance", server{stateRow: state(opRunning, 3), statRow: stat("L7OK", 2)}, lbclient.PhasePending},
		{"DOWN", server{stateRow: state(opStopped, 2), statRow: stat("L4CON", 0)}, lbclient.PhaseUnhealthy},
		{"DOWN, next check under way", server{stateRow: state(opStopped, 0), statRow: stat("* L4CON", 0)}, lbclient.PhaseUnhealthy},
		{"DOWN 1/2", server{stateRow: state(opStopped, 3), statRow: stat("L7OK", 1)}, lbclient.PhasePending},
		{"slowstart", server{stateRow: state(opStarting, 3), statRow: stat("L7OK", 4)}, lbclient.PhasePending},
		{"NOLB", server{stateRow: state(opStopping, 4), statRow: stat("L7OKC", 4)}, lbclient.PhaseUnhealthy},
		{"a state to come", server{stateRow: state(9, 3), statRow: stat("L7OK", 4)}, lbclient.PhaseUnknown},
		{"follows one going down", server{stateRow: stateRow{op: opRunning, weight: 1},
			follows: &server{stateRow: state(opRunning, 2), statRow: stat("L7STS", 3)}}, lbclient.PhasePending},
		{"inherits a drain", server{stateRow: stateRow{admin: inheritedDrain, op: opRunning, weight: 1}}, lbclient.PhaseDraining},
		{"no address", server{stateRow: stateRow{admin: resolverMaint, op: opStopped, weight: 1}}, lbclient.PhaseForeignOut},
		{"enabled by hand", server{stateRow: stateRow{admin: disabledInFile, op: opRunning, weight: 1}}, lbclient.PhaseServing},
	} {
		if got := c.s.phase(); got != c.want {
			t.Errorf("%s stands as %s, want %s", c.what, got, c.want)
		}
	}
}

func TestWeightBack(t *testing.T) {
	for _, c := range []struct {
		what                         string
		was, wasConfigured, is, conf int64
		want                         int64 // 0 for leave as is
	}{
		{"untouched", 10, 10, 10, 10, 0},
		{"changed by command meanwhile", 10, 10, 5, 10, 10},
		{"set by command before, lost by a reload", 40, 10, 10, 10, 40},
		{"configured anew meanwhile", 10, 10, 20, 20, 0},
		{"set to 0 meanwhile", 10, 10, 0, 10, 10},
	} {
		s := &server{stateRow: stateRow{weight: c.is, configured: c.conf}}
		got, differs := weightBack(s, placeRecord{Weight: c.was, Configured: c.wasConfigured})
		if got != c.want || differs != (c.want != 0) {
			t.Errorf("%s: put back %d (%t), want %d", c.what, got, differs, c.want)
		}
	}
}

// TestFormer has processes that a test cannot make: numbers used again, chains.
func TestFormer(t *testing.T) {
	f := procfs{root: t.TempDir()}
	add := func(pid int, name, state string, start int, args ...string) {
		dir := filepath.Join(f.root, fmt.Sprint(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (%s) %s 1%s %d 0 0\n", pid, name, state, strings.Repeat(" 0", 17), start)
		for file, text := range map[string]string{"stat": stat, "cmdline": strings.Join(args, "\x00") + "\x00"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(10, "haproxy", "S", 100, "haproxy", "-Ws")
	add(11, "haproxy", "S", 200, "haproxy", "-sf", "10", "9", "-Ws")
	add(12, "haproxy", "Z", 200)
	add(13, "haproxy", "S", 900, "haproxy") // 13 ended; its number went to a later HAProxy
	add(14, "nginx", "S", 100)
	add(15, "haproxy", "S", 50, "haproxy")
	add(20, "haproxy", "S", 300, "haproxy", "-x", "sock", "-sf", "11", "12", "13", "14")

	if got, visible := f.former(20, nil); !slices.Equal(got, []int{10, 11}) || !visible {
		t.Errorf("got %v, %t; want 11 and, through it, 10", got, visible)
	}
	if got, _ := f.former(20, []int{15, 20}); !slices.Equal(got, []int{10, 11, 15}) {
		t.Errorf("got %v, want the recorded 15 as well", got)
	}
	for _, pid := range []int{14, 99} {
		if got, visible := f.former(pid, []int{10}); visible {
			t.Errorf("process %d is no HAProxy, yet %v came of it", pid, got)
		}
	}
}

func TestProcessIsToldFromTheNext(t *testing.T) {
	a := process{PID: 7, Start: 1000}
	for _, c := range []struct {
		b    process
		want bool
	}{
		{a, true},
		{process{7, 1001}, true},  // computed from the uptime
		{process{7, 1060}, false}, // the same number, as in a container
		{process{8, 1000}, false}, // reloaded at once
	} {
		if a.same(c.b) != c.want {
			t.Errorf("%v same as %v: want %t", a, c.b, c.want)
		}
	}
}

func TestRecordSurvivesTheJournal(t *testing.T) {
	p, err := New(Config{Name: "front", Endpoints: []string{"unix:///run/a", "tcp://b:1"}, Backends: []string{"web", "api"}, Server: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	pr := p.(*provider)
	var want record
	for _, e := range pr.cfg.Endpoints {
		want.Instances = append(want.Instances, instanceRecord{Endpoint: e, Process: process{1, 2}, Places: []placeRecord{
			{"web", 0, 40, 10}, {"api", disabledInFile, 1, 1}}})
	}
	r, err := pr.records().Put("test", want, true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pr.decode("test", r)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, error %v; want %+v", got, err, want)
	}
	if !got.covers(pr) {
		t.Error("the record does not cover what it was taken from")
	}
	got.Instances = got.Instances[:1]
	if got.covers(pr) {
		t.Error("a record of one instance covers two")
	}
}
