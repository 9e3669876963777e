// Package traffic gives the tests of balancers applications to stand behind one,
// and visitors who count everything that goes wrong for them.
package traffic

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"
)

// TB is the part of [testing.TB] that this package needs.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Slow is how long an application takes to answer /slow.
const Slow = 150 * time.Millisecond

// App is one instance of an application on loopback. It answers / with its name,
// posts with what was posted, one of /healthz and /readyz as it was told, and /hold?for=NAME, if
// that is its name, when it is told; for another name it answers 409 at once.
type App struct {
	Name    string
	Address string // host:port, for its whole life
	// Held gets one value for each request that is held; a value sent to Finish
	// answers one.
	Held, Finish chan struct{}

	sick    atomic.Bool
	ready   atomic.Bool // it is at /readyz that it answers
	handler http.Handler
	server  *httptest.Server
	mu      sync.Mutex
	done    map[string]int // requests carried out, by their id
}

// NewApp starts an application, and stops it when the test ends.
func NewApp(tb TB, name string) *App {
	tb.Helper()
	a := &App{Name: name, Held: make(chan struct{}, 16), Finish: make(chan struct{}, 16), done: make(map[string]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the visitor is told by the cut
		}
		if r.URL.Path == "/slow" {
			time.Sleep(Slow)
		}
		a.mu.Lock()
		a.done[r.Header.Get(idHeader)]++
		a.mu.Unlock()
		if r.Method == http.MethodPost {
			_, _ = w.Write(body) // the visitor checks it
			return
		}
		fmt.Fprint(w, name)
	})
	check := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case a.ready.Load() != (r.URL.Path == "/readyz"):
			w.WriteHeader(http.StatusNotFound)
		case a.sick.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	mux.HandleFunc("/healthz", check)
	mux.HandleFunc("/readyz", check)
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("for") != name {
			w.WriteHeader(http.StatusConflict)
			return
		}
		a.Held <- struct{}{}
		select {
		case <-a.Finish:
			fmt.Fprint(w, name)
		case <-r.Context().Done():
		}
	})
	a.handler = mux
	a.server = httptest.NewServer(mux)
	a.Address = a.server.Listener.Addr().String()
	tb.Cleanup(func() { a.server.Close() })
	return a
}

// SetReadyz moves the answer to checks from /healthz, where it is at first, to
// /readyz, or back.
func (a *App) SetReadyz(ready bool) { a.ready.Store(ready) }

// SetHealthy makes the application pass or fail checks.
func (a *App) SetHealthy(healthy bool) { a.sick.Store(!healthy) }

// Healthy tells whether it passes checks.
func (a *App) Healthy() bool { return !a.sick.Load() }

// Restart closes the application's port, cutting nobody but waiting for nobody
// long either, and opens it again after down.
func (a *App) Restart(tb TB, down func()) {
	tb.Helper()
	a.server.Close()
	down()
	l, err := net.Listen("tcp", a.Address)
	if err != nil {
		tb.Fatalf("cannot open the port of %s again: %v", a.Name, err)
	}
	a.server = httptest.NewUnstartedServer(a.handler)
	a.server.Listener.Close()
	a.server.Listener = l
	a.server.Start()
}

// carriedOut is how often the application carried out a request.
func (a *App) carriedOut(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done[id]
}
