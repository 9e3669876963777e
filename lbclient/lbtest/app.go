package lbtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// App is one instance of an application on loopback, for worlds that put real
// balancers before it. It answers / with its name, /healthz as it was told, and
// /hold?for=NAME, if that is its name, only when it is told; for another name it
// answers 409 at once.
type App struct {
	Name    string
	Address string // host:port, the same over restarts
	handler http.Handler
	server  *httptest.Server
	sick    atomic.Bool
	held    chan struct{} // one for each request that is held
	finish  chan struct{}
}

// NewApp starts an app that ends with the test.
func NewApp(t *testing.T, name string) *App {
	t.Helper()
	a := &App{Name: name, held: make(chan struct{}, 16), finish: make(chan struct{}, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("for") != name {
			w.WriteHeader(http.StatusConflict)
			return
		}
		a.held <- struct{}{}
		select {
		case <-a.finish:
			fmt.Fprint(w, name)
		case <-r.Context().Done():
		}
	})
	a.handler = mux
	a.server = httptest.NewServer(mux)
	t.Cleanup(func() { a.server.Close() })
	a.Address = strings.TrimPrefix(a.server.URL, "http://")
	return a
}

// SetHealthy makes /healthz answer 200 or 503.
func (a *App) SetHealthy(healthy bool) { a.sick.Store(!healthy) }

// Healthy tells what /healthz answers.
func (a *App) Healthy() bool { return !a.sick.Load() }

// Restart closes the app's port, calls while, and opens the port again.
func (a *App) Restart(t *testing.T, while func()) {
	t.Helper()
	a.server.Close()
	while()
	l, err := net.Listen("tcp", a.Address)
	if err != nil {
		t.Fatal(err)
	}
	a.server = httptest.NewUnstartedServer(a.handler)
	a.server.Listener.Close()
	a.server.Listener = l
	a.server.Start()
}

// Front is the part of a [World] that is the same before any real balancer that
// forwards HTTP to apps: everything but the providers. Worlds embed it.
type Front struct {
	t      *testing.T
	URL    string // where the balancer answers, without a trailing slash
	Apps   map[string]*App
	names  []string
	client *http.Client
}

// NewFront starts apps w1, w2, ... for a balancer that the caller then starts,
// setting URL.
func NewFront(t *testing.T, apps int) *Front {
	t.Helper()
	f := &Front{
		t: t, Apps: make(map[string]*App),
		// Each request comes on a connection of its own, as new visitors do.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second},
	}
	for i := range apps {
		name := fmt.Sprintf("w%d", i+1)
		f.names = append(f.names, name)
		f.Apps[name] = NewApp(t, name)
	}
	return f
}

// Targets implements [World].
func (f *Front) Targets() []string { return f.names }

// SetHealthy implements [World].
func (f *Front) SetHealthy(target string, healthy bool) { f.Apps[target].SetHealthy(healthy) }

// Get implements [World]. It may be called from several goroutines.
func (f *Front) Get() (string, error) { return f.fetch(f.URL + "/") }

var errElsewhere = errors.New("another target answered")

func (f *Front) fetch(url string) (string, error) {
	r, err := f.client.Get(url)
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

// Hold implements [World].
func (f *Front) Hold(target string) func() error {
	f.t.Helper()
	a := f.Apps[target]
	ended := make(chan error, 1)
	go func() {
		for {
			_, err := f.fetch(f.URL + "/hold?for=" + target)
			if !errors.Is(err, errElsewhere) {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-a.held:
	case err := <-ended:
		f.t.Fatalf("the request to hold ended early: %v", err)
	}
	return func() error {
		a.finish <- struct{}{}
		return <-ended
	}
}

// Restart is a [Harness.Restart] for worlds that embed a Front.
func (f *Front) Restart(target string, while func()) { f.Apps[target].Restart(f.t, while) }

// Await polls until ok, and ends the test when that takes too long.
func (f *Front) Await(what string, ok func() bool) {
	f.t.Helper()
	eventually(f.t, what, ok)
}
