package nginx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// messy is a file as people keep it.
func messy(names []string) string {
	return fmt.Sprintf("# kept by hand\r\nupstream web {\n\tleast_conn;   # for now\n  server  %s weight=5  max_fails=2 ; # the first\n    server %s;\n    server %s backup;#spare\n    keepalive 4;\n}\n# the end", names[0], names[1], names[2])
}

func newMessyWorld(t *testing.T) *world {
	w := newWorld(t, 3, nginxtest.Options{}, "web")
	w.edit(func(string) string { return messy(w.Names) })
	w.reload()
	return w
}

// TestOnlyOwnLineIsTouched also edits other lines while the target is out.
func TestOnlyOwnLineIsTouched(t *testing.T) {
	w := newMessyWorld(t)
	before := w.text()
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	own := fmt.Sprintf("  server  %s weight=5  max_fails=2 ; # the first", w.Names[0])
	line := w.line(w.Names[0])
	if want := strings.Replace(own, " ;", "  down;", 1); !strings.HasPrefix(line, want+" # lockstep drained ") {
		t.Errorf("the line is %q", line)
	}
	if got := strings.Replace(w.text(), line, own, 1); got != before {
		t.Errorf("the rest is\n%q, want\n%q", got, before)
	}
	w.edit(func(s string) string { return strings.Replace(s, "keepalive 4;", "keepalive 8; # more", 1) })
	lbtest.Rejoin(t, p, r)
	if got, want := w.text(), strings.Replace(before, "keepalive 4;", "keepalive 8; # more", 1); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

// TestEditOfOurLineStands has another hand change the weight of the drained line.
func TestEditOfOurLineStands(t *testing.T) {
	w := newMessyWorld(t)
	before := w.text()
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	w.edit(func(s string) string { return strings.Replace(s, "weight=5", "weight=7", 1) })
	if st := lbtest.DrainStatus(t, p, r); st.Stage == lbclient.DrainNotAsked || !strings.Contains(st.Evidence, "weight=7") {
		t.Errorf("%+v", st)
	}
	lbtest.Rejoin(t, p, r)
	if got, want := w.text(), strings.Replace(before, "weight=5", "weight=7", 1); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

// TestBusyWhileAnOldWorkerLives also has other reloads in mid-drain.
func TestBusyWhileAnOldWorkerLives(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{Workers: 2}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	finish := w.Hold(w.Names[0])
	lbtest.Drain(t, p, r)
	for range 2 {
		st := lbtest.DrainStatus(t, p, r)
		if st.Stage != lbclient.DrainBusy || st.InFlight != -1 {
			t.Errorf("with a request in flight: %+v", st)
		}
		w.reload() // another hand's
	}
	if err := finish(); err != nil {
		t.Errorf("the request in flight did not survive: %v", err)
	}
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
}

// uptime is the machine's, in hundredths of a second.
func uptime(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Replace(strings.Fields(string(b))[0], ".", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHalfDone is what a process leaves that is killed between the edit and the
// reload, on either way.
func TestHalfDone(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	target := w.Names[0]
	p := w.Provider(target)
	r := lbtest.Snapshot(t, p)
	plain := w.text()
	lbtest.Drain(t, p, r)
	boot := regexp.MustCompile(` down; # lockstep drained ([0-9a-f]{8})-[0-9]+$`).FindStringSubmatch(w.line(target))
	if boot == nil {
		t.Fatalf("the line is %q", w.line(target))
	}
	lbtest.Rejoin(t, p, r)
	// leave writes the target's line as if at this moment, which is after the
	// birth of every worker, and does not reload.
	leave := func(down, word string) {
		before := uptime(t)
		w.await("a hundredth of a second", func() bool { return uptime(t) > before })
		line := fmt.Sprintf("%s%s; # lockstep %s %s-%d", target, down, word, boot[1], uptime(t))
		w.edit(func(string) string { return strings.Replace(plain, target+";", line, 1) })
	}

	leave(" down", "drained")
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainAccepted {
		t.Errorf("a drain that nginx has not read: %+v", st)
	}
	lbtest.Drain(t, p, r)
	w.await("the drain is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
	for range 4 {
		if who, err := w.get("web"); err != nil || who == target {
			t.Errorf("%q answers, error %v", who, err)
		}
	}

	leave("", "rejoining")
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinNotAsked {
		t.Errorf("a rejoin that nginx has not read: %+v, error %v", st, err)
	}
	other := w.Provider(w.Names[1])
	lbtest.WantError(t, other.BeginDrain(t.Context(), lbtest.Snapshot(t, other), 1), lbclient.ClassUnsafe, "on its way back")
	lbtest.Rejoin(t, p, r)
	if w.text() != plain {
		t.Errorf("got %q, want %q", w.text(), plain)
	}

	// Taken out and put in by hand, and reloaded only once.
	w.edit(func(s string) string { return strings.Replace(s, target+";", target+" down;", 1) })
	workers := func() int { return strings.Count(w.lb.Output(), "start worker process ") }
	before := workers()
	w.reload()
	w.await("nginx has read it", func() bool { return workers() > before })
	w.edit(func(string) string { return plain })
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinNotAsked {
		t.Errorf("a file that nginx has not read: %+v, error %v", st, err)
	}
	lbtest.Rejoin(t, p, r)
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinServing {
		t.Errorf("%+v, error %v", st, err)
	}
	if w.text() != plain {
		t.Errorf("got %q, want %q", w.text(), plain)
	}
}

func TestBrokenConfiguration(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	conf, err := os.ReadFile(w.lb.Config())
	if err != nil {
		t.Fatal(err)
	}
	breakIt := func() {
		if err := os.WriteFile(w.lb.Config(), append([]byte("nonsense;\n"), conf...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	breakIt()
	before := w.text()
	lbtest.WantError(t, p.Preflight(t.Context()), lbclient.ClassInvalid, "unknown directive", "nonsense")
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassInvalid, "unknown directive")
	if w.text() != before {
		t.Errorf("the file became %q", w.text())
	}
	if err := os.WriteFile(w.lb.Config(), conf, 0o644); err != nil {
		t.Fatal(err)
	}
	lbtest.Drain(t, p, r)
	drained := w.text()
	breakIt()
	lbtest.WantError(t, p.BeginRejoin(t.Context(), r), lbclient.ClassConflict, "unknown directive")
	if w.text() != drained {
		t.Errorf("a refused rejoin made the file %q", w.text())
	}
}

// TestBrokenAfterTheEdit has the test pass before the edit and fail after it.
func TestBrokenAfterTheEdit(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	c := w.config(w.Names[0])
	c.Test = append([]string{"sh", "-c", `if grep -q lockstep "$0"; then echo "nginx: [emerg] no good" >&2; exit 1; fi; exec "$@"`, w.lb.Upstreams()}, c.Test...)
	p := provider(t, c)
	before := w.text()
	r := lbtest.Snapshot(t, p)
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassConflict, "no good", "put back")
	if w.text() != before {
		t.Errorf("the file became %q", w.text())
	}
	if who, err := w.get("web"); err != nil {
		t.Errorf("%s, error %v", who, err)
	}
}

// TestNotRead names a file that nginx does not include.
func TestNotRead(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	c := w.config(w.Names[0])
	c.File = filepath.Join(t.TempDir(), "copy.conf")
	if err := os.WriteFile(c.File, []byte(w.text()), 0o644); err != nil {
		t.Fatal(err)
	}
	p := provider(t, c)
	lbtest.WantError(t, p.Preflight(t.Context()), lbclient.ClassInvalid, "does not read", c.File)
	lbtest.WantError(t, p.BeginDrain(t.Context(), lbtest.Snapshot(t, p), 1), lbclient.ClassInvalid, "does not read")
}

// TestSymbolicLink also keeps the mode, and an upstream in two blocks.
func TestSymbolicLink(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web", "api")
	real := filepath.Join(t.TempDir(), "real.conf")
	if err := os.Rename(w.lb.Upstreams(), real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, w.lb.Upstreams()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	p := w.Provider(w.Names[0])
	if err := p.Preflight(t.Context()); err != nil {
		t.Error(err)
	}
	before := w.text()
	r := lbtest.Snapshot(t, p)
	lbtest.Drain(t, p, r)
	for _, u := range []string{"web", "api"} {
		for range 4 {
			if who, err := w.get(u); err != nil || who != w.Names[1] {
				t.Errorf("a request to %s went to %q, error %v", u, who, err)
			}
		}
	}
	// Half a drain is none.
	w.edit(func(s string) string {
		i := strings.LastIndex(s, " down; #")
		j := strings.Index(s[i:], "\n")
		return s[:i] + ";" + s[i+j:]
	})
	if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked {
		t.Errorf("with one upstream in use: %+v", st)
	}
	lbtest.Drain(t, p, r)
	lbtest.Rejoin(t, p, r)
	info, err := os.Lstat(real)
	if err != nil || info.Mode() != 0o640 || w.text() != before {
		t.Errorf("the file is %v, error %v:\n%s", info.Mode(), err, w.text())
	}
	if info, err := os.Lstat(w.lb.Upstreams()); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, error %v", info, err)
	}
	left, err := os.ReadDir(filepath.Dir(real))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

func TestNeverAllDown(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	a, b := w.Provider(w.Names[0]), w.Provider(w.Names[1])
	lbtest.Drain(t, a, lbtest.Snapshot(t, a))
	lbtest.WantError(t, b.BeginDrain(t.Context(), lbtest.Snapshot(t, b), 0), lbclient.ClassUnsafe, "502", w.Names[0]+" is down")
	w = newMessyWorld(t) // where the third is a backup
	a, b = w.Provider(w.Names[0]), w.Provider(w.Names[1])
	lbtest.Drain(t, a, lbtest.Snapshot(t, a))
	lbtest.WantError(t, b.BeginDrain(t.Context(), lbtest.Snapshot(t, b), 1), lbclient.ClassUnsafe, w.Names[2]+" is a backup")
	if err := b.BeginDrain(t.Context(), lbtest.Snapshot(t, b), 0); err != nil {
		t.Errorf("with a backup left: %v", err)
	}
	if who, err := w.get("web"); err != nil || who != w.Names[2] {
		t.Errorf("%q answers, error %v", who, err)
	}
}

func TestMayNotWrite(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere; run as another user")
	}
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	dir := filepath.Dir(w.lb.Upstreams())
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	lbtest.WantError(t, p.Preflight(t.Context()), lbclient.ClassDenied, dir)
	lbtest.WantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassDenied)
}

func TestHardLink(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	if err := os.Link(w.lb.Upstreams(), w.lb.Upstreams()+".twin"); err != nil {
		t.Fatal(err)
	}
	lbtest.WantError(t, w.Provider(w.Names[0]).Preflight(t.Context()), lbclient.ClassUnsupported, "hard links")
}

func TestCommandThatHangs(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	c := w.config(w.Names[0])
	r := lbtest.Snapshot(t, provider(t, c))
	before := w.text()
	// Its children hold the output open and must end with it.
	c.Test = []string{"sh", "-c", "sleep 1000 & sleep 1000"}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	lbtest.WantError(t, provider(t, c).BeginDrain(ctx, r, 1), lbclient.ClassTransient, "did not end in time")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	c.Test, c.Reload = w.lb.Command("-t"), c.Test
	c.ReloadTimeout = 500 * time.Millisecond
	lbtest.WantError(t, provider(t, c).BeginDrain(t.Context(), r, 1), lbclient.ClassTransient, "did not end in time")
	if !strings.HasPrefix(w.text(), before[:len(before)-2]) {
		t.Errorf("the file became %q", w.text())
	}
	c.Test = []string{"/no/such/program"}
	lbtest.WantError(t, provider(t, c).Preflight(t.Context()), lbclient.ClassInvalid, "/no/such/program")
}

// TestLocked has another agent at work.
func TestLocked(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	p := w.Provider(w.Names[0])
	r := lbtest.Snapshot(t, p)
	d, err := os.Open(filepath.Dir(w.lb.Upstreams()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	lbtest.WantError(t, p.BeginDrain(ctx, r, 1), lbclient.ClassBusy, "another change")
	d.Close()
	lbtest.Drain(t, p, r)
}

// TestWhatTheTargetIs covers names, doubles, and what cannot be edited.
func TestWhatTheTargetIs(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web")
	cases := []struct {
		text, server string
		upstreams    []string
		class        lbclient.Class
		words        string
	}{
		{"upstream web { \nserver a:80;\nserver b:80;\n}", "c:80", []string{"web"}, lbclient.ClassNotFound, "it has a:80, b:80"},
		{"upstream web { \nserver a:80;\n}", "a:80", []string{"web", "api"}, lbclient.ClassNotFound, "no upstream api; it has web"},
		{"upstream web { \nserver a:80;\nserver a:81;\n}", "a", []string{"web"}, lbclient.ClassInvalid, "a:80 in line 2 and a:81 in line 3"},
		{"upstream web { \nserver a:80;\nserver a:80;\n}", "a:80", []string{"web"}, lbclient.ClassInvalid, "line 3"},
		{"upstream web { server a:80;\nserver b:80;\n}", "a:80", []string{"web"}, lbclient.ClassUnsupported, "one line of its own"},
		{"upstream web {\nserver\n a:80;\nserver b:80;\n}", "a:80", []string{"web"}, lbclient.ClassUnsupported, "one line of its own"},
		{"upstream web {\nserver a:80;\n}\nupstream web {\nserver a:80;\n}", "a:80", []string{"web"}, lbclient.ClassInvalid, "lines 1 and 4"},
		{"upstream web {\nserver a:80\n}", "a:80", []string{"web"}, lbclient.ClassInvalid, "is a ';' missing"},
		{"server a:80;\nserver b:80;\n", "b", nil, "", ""},
	}
	for _, c := range cases {
		conf := w.config(c.server)
		conf.File = filepath.Join(t.TempDir(), "u.conf")
		conf.Upstreams = c.upstreams
		if err := os.WriteFile(conf.File, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := provider(t, conf).Snapshot(t.Context())
		if c.class == "" {
			if err != nil || r.Target != c.server {
				t.Errorf("%q: got %+v, error %v", c.text, r, err)
			}
			continue
		}
		lbtest.WantError(t, err, c.class, c.words, conf.File)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := nginx.Config{Name: "front", File: "/etc/nginx/u.conf", Upstreams: []string{"web"}, Server: "10.0.0.1:80"}
	if _, err := nginx.New(good); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*nginx.Config){
		"no name":         func(c *nginx.Config) { c.Name = "" },
		"relative":        func(c *nginx.Config) { c.File = "u.conf" },
		"two words":       func(c *nginx.Config) { c.Server = "a b" },
		"a semicolon":     func(c *nginx.Config) { c.Upstreams = []string{"a;"} },
		"twice":           func(c *nginx.Config) { c.Upstreams = []string{"a", "a"} },
		"no program":      func(c *nginx.Config) { c.Reload = []string{""} },
		"negative":        func(c *nginx.Config) { c.ReloadTimeout = -1 },
		"too long":        func(c *nginx.Config) { c.ReloadTimeout = time.Hour },
		"relative pid":    func(c *nginx.Config) { c.PIDFile = "nginx.pid" },
		"a zero byte":     func(c *nginx.Config) { c.Test = []string{"nginx", "\x00"} },
		"no server named": func(c *nginx.Config) { c.Server = "" },
	} {
		c := good
		change(&c)
		_, err := nginx.New(c)
		if err == nil || lbclient.ClassOf(err) != lbclient.ClassInvalid {
			t.Errorf("%s: got error %v", what, err)
		}
	}
	p, err := nginx.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if d := lbclient.CapsOf(p).Disturbs; !strings.Contains(d, "keep-alive") {
		t.Errorf("what a reload costs is not named: %q", d)
	}
}

// TestRestoreOfOtherPlaces has the configuration change between two turns.
func TestRestoreOfOtherPlaces(t *testing.T) {
	w := newWorld(t, 2, nginxtest.Options{}, "web", "api")
	r := lbtest.Snapshot(t, w.Provider(w.Names[0]))
	c := w.config(w.Names[0])
	c.Upstreams = []string{"web"}
	lbtest.WantError(t, provider(t, c).BeginDrain(t.Context(), r, 1), lbclient.ClassInvalid, "record it again")
	r.Data = json.RawMessage(strings.Replace(string(r.Data), "server ", "evil; server ", 1))
	lbtest.WantError(t, w.Provider(w.Names[0]).BeginRejoin(t.Context(), r), lbclient.ClassInvalid)
}
