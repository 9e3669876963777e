package nginx_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// world is one nginx before several apps.
type world struct {
	*lbtest.Front
	t        *testing.T
	lb       *nginxtest.Process
	upstream []string
	mood     string // a file, see unfaithful
}

// newWorld starts apps, which are servers of every given upstream.
func newWorld(t *testing.T, apps int, o nginxtest.Options, upstreams ...string) *world {
	t.Helper()
	w := &world{Front: lbtest.NewFrontByAddress(t, apps), t: t, upstream: upstreams}
	if o.Upstreams == nil {
		for _, u := range upstreams {
			o.Upstreams = append(o.Upstreams, nginxtest.Upstream{Name: u, Servers: w.Names})
		}
	}
	w.lb = nginxtest.Start(t, o)
	w.mood = filepath.Join(t.TempDir(), "mood")
	w.feign("")
	w.URL = w.lb.URL(upstreams[0])
	return w
}

func (w *world) config(server string) nginx.Config {
	return nginx.Config{
		Name: "front", File: w.lb.Upstreams(), Upstreams: w.upstream, Server: server, PIDFile: w.lb.PIDFile(),
		Test: w.lb.Command("-t"), Reload: append([]string{"sh", "-c", unfaithful, w.mood}, w.lb.Command("-s", "reload")...),
		ReloadTimeout: 3 * time.Second,
	}
}

// unfaithful runs its arguments, unless the file $0 says what else to do.
const unfaithful = `case "$(cat "$0")" in ignore) ;; lose) "$@"; exit 3 ;; *) exec "$@" ;; esac`

// feign sets what becomes of reloads, until mend.
func (w *world) feign(mood string) (mend func()) {
	w.t.Helper()
	set := func(mood string) {
		if err := os.WriteFile(w.mood, []byte(mood), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	set(mood)
	return func() { set("") }
}

func provider(t *testing.T, c nginx.Config) lbclient.Provider {
	t.Helper()
	p, err := nginx.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) Provider(target string) lbclient.Provider { return provider(w.t, w.config(target)) }

// get returns the address of the app that answered.
func (w *world) get(upstream string) (string, error) { return w.At(w.lb.URL(upstream)).Get() }

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time; nginx said:\n%s", what, w.lb.Output())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// text is the upstream file, and edit changes it as another hand would.
func (w *world) text() string {
	w.t.Helper()
	b, err := os.ReadFile(w.lb.Upstreams())
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func (w *world) edit(change func(string) string) {
	w.t.Helper()
	before := w.text()
	after := change(before)
	if before == after {
		w.t.Fatalf("nothing to change in %q", before)
	}
	if err := os.WriteFile(w.lb.Upstreams(), []byte(after), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reload() {
	w.t.Helper()
	if err := w.lb.Reload(); err != nil {
		w.t.Fatal(err)
	}
}

// line is the target's line.
func (w *world) line(target string) string {
	w.t.Helper()
	for l := range strings.Lines(w.text()) {
		if strings.Contains(l, target) {
			return strings.TrimSuffix(l, "\n")
		}
	}
	return ""
}
func harness() lbtest.Harness {
	return lbtest.Harness{
		New: func(t *testing.T) lbtest.World {
			return newWorld(t, 3, nginxtest.Options{}, "web")
		},
		NoHealth: "open source nginx checks nothing by itself and tells nobody which requests failed",
		HoldOut: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).edit(func(s string) string { return strings.Replace(s, target+";", target+" down;", 1) })
			w.(*world).reload()
		},
		HeldOut: func(t *testing.T, w lbtest.World, target string) bool {
			return strings.HasSuffix(w.(*world).line(target), target+" down;")
		},
		Forget: func(t *testing.T, w lbtest.World) {
			// As configuration management does: its own text, and a reload.
			w.(*world).edit(func(string) string {
				s := "upstream web {\n"
				for _, n := range w.Targets() {
					s += "    server " + n + ";\n"
				}
				return s + "}\n"
			})
			w.(*world).reload()
		},
		Cut: func(t *testing.T, w lbtest.World) { w.(*world).lb.Quit() },
		Remove: func(t *testing.T, w lbtest.World, target string) {
			w.(*world).edit(func(s string) string { return strings.Replace(s, "    server "+target+";\n", "", 1) })
			w.(*world).reload()
		},
		Readmit: func(t *testing.T, w lbtest.World, target string) {
			line := w.(*world).line(target)
			w.(*world).edit(func(s string) string { return strings.Replace(s, line, "    server "+target+";", 1) })
			w.(*world).reload()
		},
		LoseAnswers: func(t *testing.T, w lbtest.World) func() { return w.(*world).feign("lose") },
		Ignore:      func(t *testing.T, w lbtest.World) func() { return w.(*world).feign("ignore") },
		Restart: func(t *testing.T, w lbtest.World, target string, while func()) {
			w.(*world).Apps[target].Restart(t, while)
		},
		CountsTwice: true, // under a lock, so that once is enough
		Without: map[string]string{
			"in flight": "nginx counts nothing; TestBusyWhileAnOldWorkerLives",
			"force":     "nginx counts nothing",
			"denied":    "there are no credentials, only the files' permissions; TestMayNotWrite",
			"hangs":     "nothing is asked over a connection; commands that hang: TestCommandThatHangs",
		},
	}
}

func TestContract(t *testing.T) { lbtest.Run(t, harness()) }
