package gates

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// stage is a directory of gates, and an app that is well.
type stage struct {
	*testing.T
	dir string
	app string
	log bytes.Buffer
	set *Set
}

func newStage(t *testing.T) *stage {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // who connects finds it well
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &stage{T: t, dir: filepath.Join(t.TempDir(), "gates"), app: l.Addr().String()}
	s.set = Open(s.dir, slog.New(slog.NewTextHandler(&s.log, nil)))
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) definition(path string) Definition {
	return Definition{
		Server: "web1", Health: api.HealthCheck{TCP: s.app},
		Gate: api.Gate{Path: path, Refusal: 503, MinPollers: 1, Check: &api.BalancerCheck{
			Interval: api.Duration(time.Nanosecond), Timeout: api.Duration(time.Minute), Fall: 2, Rise: 2,
		}},
	}
}

func (s *stage) files(target string) Files {
	s.Helper()
	f, err := FilesOf(s.dir, target)
	if err != nil {
		s.Fatal(err)
	}
	return f
}

func (s *stage) write(target string, d Definition) {
	s.Helper()
	if err := Write(s.files(target).Definition, d); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) garble(target, text string) {
	s.Helper()
	if err := os.WriteFile(s.files(target).Definition, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) want(when, path string, status int) {
	s.Helper()
	w := httptest.NewRecorder()
	s.set.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	if w.Code != status {
		s.Errorf("%s: %s is answered %d (%s), want %d", when, path, w.Code, strings.TrimSpace(w.Body.String()), status)
	}
}

func TestTheDirectoryIsFollowed(t *testing.T) {
	s := newStage(t)
	s.want("without a directory", "/ready/hello", 404)
	s.write("hello@web1", s.definition("/ready/hello"))
	s.write("shop@web1", s.definition("/ready/shop"))
	s.set.Refresh()
	s.want("written", "/ready/hello", 200)
	s.want("written", "/ready/shop", 200)
	s.want("written", "/ready/hello/status", 200)
	s.want("written", "/", 404)

	kept := s.set.gates["hello@web1.json"].gate
	moved := s.definition("/up")
	s.write("shop@web1", moved)
	s.set.Refresh()
	s.want("moved", "/up", 200)
	s.want("moved", "/ready/shop", 404)
	if s.set.gates["hello@web1.json"].gate != kept {
		t.Error("a gate whose definition is the same forgot who polls it")
	}
	if err := os.Remove(s.files("shop@web1").Definition); err != nil {
		t.Fatal(err)
	}
	s.set.Refresh()
	s.want("removed", "/up", 404)
	s.want("another removed", "/ready/hello", 200)
	s.set.dir = s.files("hello@web1").Definition // no directory at all
	s.set.Refresh()
	s.set.Refresh()
	s.want("while the directory cannot be read", "/ready/hello", 200)
	if n := strings.Count(s.log.String(), "cannot read the definitions"); n != 1 {
		t.Errorf("the log says %d times that the directory cannot be read: %s", n, &s.log)
	}
}

func TestAHoldFileCloses(t *testing.T) {
	s := newStage(t)
	s.write("hello@web1", s.definition("/ready/hello"))
	s.set.Refresh()
	if err := os.WriteFile(s.files("hello@web1").Hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.want("held", "/ready/hello", 503)
}

// Nonsense closes a gate that was never understood, leaves one that was as it
// is, and is nobody else's trouble.
func TestNonsense(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "cut off": `{"version":1,"serv`, "another form": `{"version":2}`, "more": `{"version":1} {}`,
		"unknown": `{"version":1,"colour":"red"}`, "no gate": `{"version":1,"server":"web1"}`,
		"no check":   `{"version":1,"server":"web1","gate":{"path":"/ready/hello","refusal":503},"health":{"tcp":"127.0.0.1:1"}}`,
		"no health":  `{"version":1,"server":"web1","gate":{"path":"/ready/hello","refusal":503,"check":{"interval":"1s","timeout":"1s","fall":1,"rise":1}},"health":{}}`,
		"bad poller": `{"version":1,"server":"web1","gate":{"path":"/ready/hello","refusal":503,"pollers":["x"],"check":{"interval":"1s","timeout":"1s","fall":1,"rise":1}},"health":{"tcp":"127.0.0.1:1"}}`,
		"huge":       strings.Repeat(" ", maxDefinition+1),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.garble("hello@web1", text)
			s.write("shop@web1", s.definition("/ready/shop"))
			s.set.Refresh()
			s.want("never understood", "/ready/hello", 503)
			s.want("beside it", "/ready/shop", 200)
			s.garble("shop@web1:8001", text)
			s.set.Refresh()
			s.want("never understood, an instance", "/ready/shop/8001", 503)
			s.want("beside an instance", "/ready/shop", 200)
			if log := s.log.String(); strings.Count(log, "makes no sense") != 2 || !strings.Contains(log, "hello@web1.json") {
				t.Errorf("the log names no file: %s", log)
			}
			s.set.Refresh()
			if strings.Count(s.log.String(), "makes no sense") != 2 {
				t.Errorf("the log says it again and again: %s", &s.log)
			}
			s.write("hello@web1", s.definition("/ready/hello"))
			s.set.Refresh()
			s.want("mended", "/ready/hello", 200)
			s.garble("hello@web1", text)
			s.set.Refresh()
			s.want("garbled while it serves", "/ready/hello", 200)
		})
	}
}

func TestTwoGatesAtOnePath(t *testing.T) {
	s := newStage(t)
	first := s.definition("/ready")
	first.Server = "first"
	s.write("a@web1", first)
	s.write("b@web1", s.definition("/ready"))
	s.set.Refresh()
	w := httptest.NewRecorder()
	s.set.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready/status", http.NoBody))
	if !strings.Contains(w.Body.String(), `"first"`) || !strings.Contains(s.log.String(), "target=b@web1") {
		t.Errorf("answered %s; log: %s", w.Body, &s.log)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.set.Watch(ctx) }()
		s.garble("hello@web1", "")
		time.Sleep(lookEvery + time.Millisecond)
		synctest.Wait()
		s.want("a second later", "/ready/hello", 503)
		cancel()
		<-done
	})
}

func TestWriteLeavesWhatIsRight(t *testing.T) {
	s := newStage(t)
	file := s.files("hello@web1").Definition
	stat := func() fs.FileInfo {
		i, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	s.write("hello@web1", s.definition("/ready/hello"))
	before := stat()
	s.write("hello@web1", s.definition("/ready/hello"))
	if !os.SameFile(before, stat()) {
		t.Error("the same definition was written again")
	}
	s.write("hello@web1", s.definition("/up"))
	if os.SameFile(before, stat()) {
		t.Error("a definition was changed in its place, where a crash would leave half of it")
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 1 {
		t.Errorf("files left behind: %v", left)
	}
	if d, err := Load(file); err != nil || d.Gate.Path != "/up" {
		t.Errorf("read back as %+v, %v", d, err)
	}
	for _, bad := range []string{"", ".", "../web1", "a/b", "a\x00", strings.Repeat("x", 300)} {
		if _, err := FilesOf(s.dir, bad); err == nil {
			t.Errorf("target %q names a file", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"server":"web1","gate":{"path":"/ready/hello","refusal":503,"min_pollers":1,"check":{"interval":"1s","timeout":"1s","fall":1,"rise":1}},"health":{"tcp":"127.0.0.1:1"}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parse(b)
		if err != nil {
			return
		}
		g, err := d.open(Files{Definition: "/x.json", State: "/x.state", Hold: "/x.hold"})
		if err == nil && (g.Path() == "" || g.StatusPath() == gate.StatusPath("")) {
			t.Errorf("accepted %q", b)
		}
	})
}
