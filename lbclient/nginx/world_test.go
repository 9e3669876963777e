package nginx_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// world is one nginx before several apps.
type world struct {
	t        *testing.T
	lb       *nginxtest.Process
	apps     map[string]*traffic.App // by address
	names    []string                // their addresses
	upstream []string
	client   *http.Client
	mood     string // a file, see unfaithful
}

// newWorld starts apps, which are servers of every given upstream.
func newWorld(t *testing.T, apps int, o nginxtest.Options, upstreams ...string) *world {
	t.Helper()
	w := &world{t: t, apps: make(map[string]*traffic.App), upstream: upstreams}
	for i := range apps {
		a := traffic.NewApp(t, fmt.Sprintf("w%d", i+1))
		w.names = append(w.names, a.Address)
		w.apps[a.Address] = a
	}
	if o.Upstreams == nil {
		for _, u := range upstreams {
			o.Upstreams = append(o.Upstreams, nginxtest.Upstream{Name: u, Servers: w.names})
		}
	}
	w.lb = nginxtest.Start(t, o)
	w.mood = filepath.Join(t.TempDir(), "mood")
	w.feign("")
	// Each request comes on a connection of its own, as new visitors do.
	w.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
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

func (w *world) Targets() []string { return w.names }

func (w *world) Provider(target string) lbclient.Provider { return provider(w.t, w.config(target)) }

func (w *world) Get() (string, error) { return w.get(w.upstream[0]) }

// get returns the address of the app that answered.
func (w *world) get(upstream string) (string, error) {
	name, err := w.fetch(w.lb.URL(upstream) + "/")
	for address, a := range w.apps {
		if a.Name == name {
			return address, err
		}
	}
	return name, err
}

var errElsewhere = errors.New("another target answered")

func (w *world) fetch(url string) (string, error) {
	r, err := w.client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode == http.StatusConflict {
		err = errElsewhere
	} else if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", r.Status)
	}
	return string(body), err
}

func (w *world) Hold(target string) func() error {
	w.t.Helper()
	a := w.apps[target]
	url := w.lb.URL(w.upstream[0]) + "/hold?for=" + a.Name
	ended := make(chan error, 1)
	go func() {
		for {
			_, err := w.fetch(url)
			if !errors.Is(err, errElsewhere) {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-a.Held:
	case err := <-ended:
		w.t.Fatalf("the request to hold ended early: %v", err)
	}
	return func() error {
		a.Finish <- struct{}{}
		return <-ended
	}
}

func (w *world) SetHealthy(target string, healthy bool) { w.apps[target].SetHealthy(healthy) }

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
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

func TestContract(t *testing.T) {
	lbtest.Run(t, lbtest.Harness{
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
			w.(*world).apps[target].Restart(t, while)
		},
		CountsTwice: true, // under a lock, so that once is enough
		Without: map[string]string{
			"in flight": "nginx counts nothing; TestBusyWhileAnOldWorkerLives",
			"force":     "nginx counts nothing",
			"denied":    "there are no credentials, only the files' permissions; TestMayNotWrite",
			"hangs":     "nothing is asked over a connection; commands that hang: TestCommandThatHangs",
		},
	})
}
