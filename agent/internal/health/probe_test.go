package health_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/health"
)

// accept serves raw connections on a free port until the test ends.
func accept(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// unused returns the address of a port on which nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestHTTPProbe(t *testing.T) {
	mux := http.NewServeMux()
	for _, status := range []int{200, 204, 299, 304, 404, 500, 502, 503} {
		mux.HandleFunc(fmt.Sprintf("/%d", status), func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
	}
	mux.Handle("/old", http.RedirectHandler("/200", http.StatusFound))
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 4<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/stalls", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/breaks", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/aborts", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	secure := httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // a refused certificate is the point
	secure.StartTLS()
	t.Cleanup(secure.Close)
	free := unused(t)

	for _, tc := range []struct {
		url  string
		ok   bool
		text string
	}{
		{srv.URL + "/200", true, "200 OK"},
		{srv.URL + "/204", true, "204 No Content"},
		{srv.URL + "/299", true, "299 "},
		{srv.URL + "/endless", true, "200 OK"},
		{srv.URL + "/304", false, "304 Not Modified: a redirect is not healthy"},
		{srv.URL + "/404", false, "404 Not Found"},
		{srv.URL + "/500", false, "500 Internal Server Error"},
		{srv.URL + "/502", false, "502 Bad Gateway"},
		{srv.URL + "/503", false, "503 Service Unavailable"},
		{srv.URL + "/old", false, "302 Found, a redirect to /200: a redirect is not healthy"},
		{srv.URL + "/slow", false, "timeout after 150ms"},
		{srv.URL + "/stalls", false, "timeout after 150ms"},
		{srv.URL + "/breaks", false, "200 OK, but the answer broke off"},
		{srv.URL + "/aborts", false, "the connection was closed without a complete answer"},
		{"http://" + free + "/", false, "connection refused"},
		{secure.URL + "/200", false, "TLS: the certificate is signed by an unknown authority"},
		{"https" + strings.TrimPrefix(srv.URL, "http") + "/200", false, "TLS: the server does not speak TLS"},
		{"ftp://" + free + "/", false, "unsupported protocol scheme"},
		{"http://bad host/", false, "not a URL that can be asked"},
	} {
		t.Run(strings.TrimPrefix(tc.url, srv.URL), func(t *testing.T) {
			t.Parallel()
			p := health.Check{HTTP: tc.url, Timeout: 2 * time.Second}
			if strings.Contains(tc.text, "150ms") {
				p.Timeout = 150 * time.Millisecond
			}
			got := p.Probe(t.Context())
			if got.OK != tc.ok || !strings.Contains(got.Text, tc.text) {
				t.Errorf("Probe = %v %q, want %v %q", got.OK, got.Text, tc.ok, tc.text)
			}
			if !strings.HasPrefix(got.Text, "GET ") {
				t.Errorf("%q does not say what was asked", got.Text)
			}
			if got.At.IsZero() {
				t.Error("no time")
			}
		})
	}
}

func TestTCPProbe(t *testing.T) {
	listening := accept(t, func(c net.Conn) { c.Close() })
	free := unused(t)
	for _, tc := range []struct {
		addr string
		ok   bool
		want string
	}{
		{listening, true, "TCP " + listening + ": connected"},
		{free, false, "TCP " + free + ": connection refused"},
		{"127.0.0.1", false, "missing port"},
	} {
		p := health.Check{TCP: tc.addr}.Probe(t.Context())
		if p.OK != tc.ok || !strings.Contains(p.Text, tc.want) {
			t.Errorf("%s: Probe = %v %q, want %v %q", tc.addr, p.OK, p.Text, tc.ok, tc.want)
		}
	}
}

// A port that only accepts is not enough where HTTP is asked for too, and the
// other way round.
func TestBothMustPass(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	free := unused(t)
	for _, tc := range []struct {
		c    health.Check
		ok   bool
		want string
	}{
		{health.Check{HTTP: srv.URL, TCP: addr}, true, "200 OK"},
		{health.Check{HTTP: srv.URL, TCP: free}, false, "TCP " + free},
		{health.Check{HTTP: "http://" + free, TCP: addr}, false, "GET http://" + free},
	} {
		if p := tc.c.Probe(t.Context()); p.OK != tc.ok || !strings.Contains(p.Text, tc.want) {
			t.Errorf("%s: %v %q, want %v %q", tc.c, p.OK, p.Text, tc.ok, tc.want)
		}
	}
}

// A process that accepts and then says nothing, or not HTTP, is not healthy.
func TestForeignServers(t *testing.T) {
	hold := make(chan struct{})
	mute := accept(t, func(c net.Conn) {
		<-hold
		c.Close()
	})
	t.Cleanup(func() { close(hold) }) // before the listener's own cleanup waits
	babble := accept(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4<<10))
		_, _ = io.WriteString(c, "220 mail ready\r\n")
		c.Close()
	})
	if p := (health.Check{HTTP: "http://" + mute, Timeout: 100 * time.Millisecond}).Probe(t.Context()); p.OK || !strings.Contains(p.Text, "timeout after 100ms") {
		t.Errorf("mute: %+v", p)
	}
	if p := (health.Check{HTTP: "http://" + babble}).Probe(t.Context()); p.OK {
		t.Errorf("babble: %+v", p)
	}
}

// Each look must reach the process that listens now, not one that a kept
// connection still leads to; nor may connections pile up.
func TestProbesKeepNoConnection(t *testing.T) {
	closed := make(chan struct{}, 3)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	}
	srv.Start()
	defer srv.Close()
	for range 3 {
		if p := (health.Check{HTTP: srv.URL}).Probe(t.Context()); !p.OK {
			t.Fatal(p.Text)
		}
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Fatal("the connection of a probe stays open")
		}
	}
}

// A proxy of the environment would answer for the target, or in its place.
func TestProbesIgnoreProxies(t *testing.T) {
	// net/http reads the environment once, so a process of its own is needed;
	// loopback is never sent to a proxy, so the name is another.
	if os.Getenv("HTTP_PROXY") != "" {
		p := health.Check{HTTP: "http://target.invalid/", Timeout: 2 * time.Second}.Probe(t.Context())
		if p.OK {
			t.Errorf("the proxy answered: %+v", p)
		}
		return
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProbesIgnoreProxies$")
	cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pass, _ := r.BasicAuth(); pass != "hidden" {
			t.Errorf("password %q", pass)
		}
		http.Redirect(w, r, "http://u:hidden@127.0.0.1/", http.StatusFound)
	}))
	defer srv.Close()
	c := health.Check{HTTP: strings.Replace(srv.URL, "//", "//probe:hidden@", 1)}
	p := c.Probe(t.Context())
	if strings.Contains(p.Text, "hidden") || strings.Contains(c.String(), "hidden") {
		t.Errorf("leaks: %q %q", p.Text, c)
	}
	bad := health.Check{HTTP: "http://u:hidden@bad host/"}
	if p := bad.Probe(t.Context()); strings.Contains(p.Text, "hidden") || strings.Contains(bad.String(), "hidden") {
		t.Errorf("leaks: %q %q", p.Text, bad)
	}
}

func TestBrokenOffIsNotATimeout(t *testing.T) {
	mute := accept(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p := health.Check{HTTP: "http://" + mute, Timeout: time.Minute}.Probe(ctx)
	if p.OK || !strings.Contains(p.Text, "broken off") || strings.Contains(p.Text, "timeout") {
		t.Errorf("%+v", p)
	}
}
