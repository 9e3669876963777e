package unit_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// forker is a server of the kind that is reloaded: the main process stays where
// it was started, and starts a worker from where dir/current leads at SIGHUP. The
// old worker stays for as long as there is a file dir/busy.
func forker(t *testing.T, dir string) string {
	t.Helper()
	script := filepath.Join(dir, "forker")
	text := `#!/bin/sh
worker() {
	(cd ` + dir + `/current && exec sleep 1000) &
	w=$!
}
reload() {
	[ -e ` + dir + `/busy ] || kill $w
	worker
}
trap reload HUP
worker
touch ` + dir + `/ready
while :; do wait; done
`
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

func point(t *testing.T, dir, release string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, release), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, "current"))
	if err := os.Symlink(release, filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A reload leaves the main process where it is. What its workers run from shows
// what serves.
func TestReloadAndItsProcesses(t *testing.T) {
	w := newWorld(t)
	ctx, dir := within(t), realDir(t)
	point(t, dir, "one")
	w.write(t, "app.service", "[Service]\nType=exec\nWorkingDirectory="+dir+"/current\nExecStart="+forker(t, dir)+"\nExecReload=/bin/kill -HUP $MAINPID\n")
	// Down, it is started.
	first, err := w.units.Reload(ctx, "app.service")
	if err != nil {
		t.Fatal(err)
	}
	running := func(release string) (found []unit.Process) {
		all, err := w.units.Processes(ctx, "app.service")
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range all {
			if (p.PID == first.MainPID) != (i == 0) {
				t.Errorf("process %d of %+v: the main process is %d, and comes first", i, all, first.MainPID)
			}
			if p.Paths[1] == filepath.Join(dir, release) && p.PID != first.MainPID {
				found = append(found, p)
			}
		}
		return found
	}
	eventually(t, "a worker runs", func() bool { return len(running("one")) == 1 })
	eventually(t, "it can be told to reload", func() bool { _, err := os.Stat(dir + "/ready"); return err == nil })
	if err := os.WriteFile(dir+"/busy", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := running("one")[0]
	point(t, dir, "two")
	again, err := w.units.Reload(ctx, "app.service")
	if err != nil || again.MainPID != first.MainPID || again.InvocationID != first.InvocationID {
		t.Fatalf("%+v, %v; before: %+v", again, err, first)
	}
	eventually(t, "a worker of the new release runs", func() bool { return len(running("two")) == 1 })
	if p := running("two")[0]; p.Started < old.Started || p.Started == 0 {
		t.Errorf("the new worker %+v is older than the old one %+v", p, old)
	}
	if len(running("one")) != 1 {
		t.Error("the old worker is not shown any more, though it runs")
	}
	if err := w.units.Settled(ctx, "app.service", again.InvocationID, again.NRestarts); err != nil {
		t.Errorf("a reload is not settled: %v", err)
	}
	if err := w.units.Stop(ctx, "app.service"); err != nil {
		t.Fatal(err)
	}
	if all, err := w.units.Processes(ctx, "app.service"); len(all) > 0 || err != nil {
		t.Errorf("of a unit that is down: %+v, %v", all, err)
	}
}

func TestReloadThatFails(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name   string
		text   string
		reason api.Reason
		words  []string
	}{
		{"none", service("exec sleep 1000", "Type=exec"), api.ReasonNoReload, []string{"has no ExecReload=", "write ExecReload="}},
		{"fails", service("exec sleep 1000", "Type=exec", "ExecReload=/bin/true", "ExecReload=/bin/sh -c 'exit 4'"), api.ReasonStartFailed,
			[]string{"ExecReload=/bin/sh -c exit 4 failed", "status 4"}},
		{"hangs", service("exec sleep 1000", "Type=exec", "ExecReload=/bin/sleep 1000", "TimeoutStartSec=300ms"), api.ReasonStartFailed,
			[]string{"ExecReload=/bin/sleep 1000 did not end within TimeoutStartSec=300ms"}},
		{"kills", service("exec sleep 1000", "Type=exec", "ExecReload=/bin/kill -KILL $MAINPID"), api.ReasonStartFailed, []string{"signal 9"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, name := within(t), "reload-"+tc.name+".service"
			w.write(t, name, tc.text)
			before, err := w.units.Restart(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			st, err := w.units.Reload(ctx, name)
			if tc.name == "kills" && err == nil {
				err = w.crash(t, name, st) // it may die a moment later
			}
			if fault.ReasonOf(err) != tc.reason {
				t.Fatalf("reason %s, want %s: %v", fault.ReasonOf(err), tc.reason, err)
			}
			for _, word := range append(tc.words, name) {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q lacks %q", err, word)
				}
			}
			if tc.name != "kills" {
				if err := w.units.Settled(ctx, name, before.InvocationID, before.NRestarts); err != nil {
					t.Errorf("the old processes do not run on: %v", err)
				}
			}
			if wrong := w.units.Reloads(ctx, name); (tc.name == "none") != (wrong != nil) {
				t.Errorf("Reloads = %v", wrong)
			}
		})
	}
}

func TestStopStart(t *testing.T) {
	w := newWorld(t)
	ctx, dir := within(t), realDir(t)
	w.write(t, "s.service", service("exec sleep 1000", "Type=exec", "ExecStartPre=/bin/sh -c 'echo start >>"+dir+"/log'", "ExecStopPost=/bin/sh -c 'echo stop >>"+dir+"/log'"))
	first, err := w.units.StopStart(ctx, "s.service") // down before
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.units.StopStart(ctx, "s.service")
	if err != nil || second.InvocationID == first.InvocationID || !second.Up() {
		t.Errorf("%+v, %v; before: %+v", second, err, first)
	}
	if b, _ := os.ReadFile(dir + "/log"); string(b) != "start\nstop\nstart\n" {
		t.Errorf("it was: %q", b)
	}
	w.write(t, "bad.service", service("exit 3", "Type=notify"))
	if _, err := w.units.StopStart(ctx, "bad.service"); fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "exited with status 3") {
		t.Errorf("err = %v", err)
	}
}

// A command before the start that hangs is named, whoever runs out of patience.
func TestACommandBeforeTheStartHangs(t *testing.T) {
	w := newWorld(t)
	w.write(t, "short.service", service("exec sleep 1000", "Type=exec", "ExecStartPre=/bin/sleep 1000", "TimeoutStartSec=300ms"))
	_, err := w.units.Restart(within(t), "short.service")
	if fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "ExecStartPre=/bin/sleep 1000 did not end within TimeoutStartSec=300ms") {
		t.Errorf("err = %v", err)
	}
	w.write(t, "long.service", service("exec sleep 1000", "Type=exec", "ExecStartPre=/bin/sleep 1000", "TimeoutStartSec=infinity"))
	_, err = w.units.Restart(briefly(t), "long.service")
	if fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "its ExecStartPre=/bin/sleep 1000 does not end") {
		t.Errorf("err = %v", err)
	}
}

// The socket of a unit stays open while the unit is restarted, so that whoever
// asks meanwhile waits instead of being refused.
func TestASocketStaysOpen(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skipf("no python3: %v", err)
	}
	w := newWorld(t)
	ctx, dir := within(t), realDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "app.py")
	err = os.WriteFile(program, []byte(`
import http.server, os, socket, time
time.sleep(0.3)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("", 0), H, bind_and_activate=False)
s.socket = socket.socket(fileno=3)
s.serve_forever()
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "app.service", "[Unit]\nRequires=app.socket\nAfter=app.socket\n[Service]\nType=exec\nExecStart=/usr/bin/python3 "+program+"\n")
	w.write(t, "app.socket", "[Socket]\nListenStream="+addr+"\n")
	if _, err := w.units.Restart(ctx, "app.service"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	asked := make(chan struct{}, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			// A connection that the old process had is its own to end: what must not
			// be is that one is refused.
			resp, err := client.Get("http://" + addr)
			if err != nil {
				if strings.Contains(err.Error(), "refused") {
					done <- err
					return
				}
				continue
			}
			_ = resp.Body.Close()
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}()
	<-asked
	for i, restart := range []func() (unit.Status, error){
		func() (unit.Status, error) { return w.units.Restart(ctx, "app.service") },
		func() (unit.Status, error) { return w.units.StopStart(ctx, "app.service") },
	} {
		before, err := w.units.Status(ctx, "app.service")
		if err != nil {
			t.Fatal(err)
		}
		st, err := restart()
		if err != nil || st.InvocationID == before.InvocationID {
			t.Errorf("restart %d: %+v, %v", i, st, err)
		}
		for range 2 { // one may have been answered before
			<-asked
		}
		resp, err := http.Get("http://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(resp.Body, &pid); err != nil || pid != st.MainPID {
			t.Errorf("restart %d: process %d answers, %d was started (%v)", i, pid, st.MainPID, err)
		}
		_ = resp.Body.Close()
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("while it was restarted: %v", err)
	}
}
