package cloudhttp

import (
	"context"
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

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// quick is the default policy with pauses that a test can wait out.
func quick() Config {
	return Config{Token: "s3cret", MinWait: time.Millisecond, MaxWait: 4 * time.Millisecond}
}

func call(t *testing.T, c *http.Client, method, address, body string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// cut ends the connection without an answer, or in the middle of one.
func cut(w http.ResponseWriter, half bool) {
	if half {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"action":`)
		_ = http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}

func TestWhatIsTriedAgain(t *testing.T) {
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	lost := func(w http.ResponseWriter) { cut(w, false) }
	half := func(w http.ResponseWriter) { cut(w, true) }
	for _, c := range []struct {
		name    string
		method  string
		fault   func(http.ResponseWriter)
		retried bool
		status  int // when not retried
		lost    bool
	}{
		{"read 429", "GET", status(429), true, 0, false},
		{"read 503", "GET", status(503), true, 0, false},
		{"read 500", "GET", status(500), true, 0, false},
		{"read 501", "GET", status(501), false, 501, false},
		{"read 404", "GET", status(404), false, 404, false},
		{"read 423", "GET", status(423), false, 423, false},
		{"read, no answer", "GET", lost, true, 0, false},
		{"read, half an answer", "GET", half, true, 0, false},
		{"write 429", "POST", status(429), true, 0, false},
		{"write 503", "POST", status(503), false, 503, false},
		{"write 409", "POST", status(409), false, 409, false},
		{"write 423", "DELETE", status(423), false, 423, false},
		{"write, no answer", "POST", lost, false, 0, true},
		{"write, half an answer", "POST", half, false, 0, true},
		{"delete, no answer", "DELETE", lost, false, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tries atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if string(b) != "the body" || r.Header.Get("Authorization") != "Bearer s3cret" {
					t.Errorf("attempt %d has body %q and authorization %q", tries.Load()+1, b, r.Header.Get("Authorization"))
				}
				if tries.Add(1) <= 2 {
					c.fault(w)
					return
				}
				fmt.Fprint(w, "well")
			}))
			defer s.Close()
			client := NewClient(quick())
			defer client.CloseIdleConnections()
			code, body, err := call(t, client, c.method, s.URL, "the body")
			switch {
			case c.retried:
				if code != 200 || body != "well" || err != nil || tries.Load() != 3 {
					t.Errorf("status %d, body %q, error %v after %d attempts", code, body, err, tries.Load())
				}
			case tries.Load() != 1:
				t.Errorf("%d attempts, want one", tries.Load())
			case c.lost:
				if !errors.Is(err, ErrAnswerLost) || ClassOfError(err) != lbclient.ClassAmbiguous {
					t.Errorf("got error %v, want a lost answer", err)
				}
			case code != c.status || err != nil:
				t.Errorf("status %d, error %v", code, err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error has the token: %v", err)
			}
		})
	}
}

func TestAttemptsEnd(t *testing.T) {
	var tries atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, "slow down")
	}))
	defer s.Close()
	code, body, err := call(t, NewClient(quick()), "GET", s.URL, "")
	if code != 429 || body != "slow down" || err != nil || tries.Load() != DefaultAttempts {
		t.Errorf("status %d, body %q, error %v after %d attempts", code, body, err, tries.Load())
	}
}

func TestAWriteThatNeverLeftIsTriedAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dials := 0
	c := quick()
	c.Transport = &http.Transport{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, n, a)
	}}
	_, _, err = call(t, NewClient(c), "POST", "http://"+address, "x")
	if err == nil || errors.Is(err, ErrAnswerLost) || dials != DefaultAttempts {
		t.Errorf("%d dials, error %v; want %d and an error that says that nothing was sent", dials, err, DefaultAttempts)
	}
	if n := strings.Count(err.Error(), address); n > 2 {
		t.Errorf("the error says the address %d times: %v", n, err)
	}
}

func TestOneAttemptIsBounded(t *testing.T) {
	var tries atomic.Int32
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			<-release
		}
	}))
	defer s.Close()
	defer close(release)
	c := quick()
	c.AttemptTimeout = 50 * time.Millisecond
	if code, _, err := call(t, NewClient(c), "GET", s.URL, ""); code != 200 || err != nil {
		t.Errorf("a read after a silent attempt: status %d, error %v", code, err)
	}
	tries.Store(0)
	_, _, err := call(t, NewClient(c), "POST", s.URL, "x")
	if !errors.Is(err, ErrAnswerLost) || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("a write without an answer: %v", err)
	}
}

func TestRetryAfterIsObeyedUpToAPoint(t *testing.T) {
	var tries atomic.Int32
	after := "1"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) == 1 {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer s.Close()
	begun := time.Now()
	if code, _, err := call(t, NewClient(quick()), "POST", s.URL, "x"); code != 200 || err != nil || time.Since(begun) < time.Second {
		t.Errorf("status %d, error %v after %s", code, err, time.Since(begun))
	}
	for _, after = range []string{"31", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)} {
		tries.Store(0)
		if code, _, err := call(t, NewClient(quick()), "GET", s.URL, ""); code != 429 || err != nil || tries.Load() != 1 {
			t.Errorf("Retry-After %s: status %d, error %v after %d attempts", after, code, err, tries.Load())
		}
	}
}

// TestADeadlineIsNotSleptAway has a pause that would outlive the caller.
func TestADeadlineIsNotSleptAway(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	resp, err := NewClient(quick()).Do(req)
	if err != nil || resp.StatusCode != 429 || ctx.Err() != nil {
		t.Fatalf("answer %v, error %v; want the 429 at once", resp, err)
	}
	resp.Body.Close()
}

func TestCancelledInMidWrite(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	}))
	defer s.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "POST", s.URL, strings.NewReader("x"))
	_, err := NewClient(quick()).Do(req)
	if !errors.Is(err, ErrAnswerLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	s := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer s.Close()
	for _, method := range []string{"GET", "POST"} {
		_, _, err := call(t, NewClient(quick()), method, s.URL, "x")
		if !errors.Is(err, ErrRedirected) || ClassOfError(err) != lbclient.ClassInvalid {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestAStrangerIsNotTalkedTo(t *testing.T) {
	var tries atomic.Int32
	s := httptest.NewTLSServer(nil)
	s.Config.ErrorLog = nil
	defer s.Close()
	c := quick()
	c.Transport = &http.Transport{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
		tries.Add(1)
		return new(net.Dialer).DialContext(ctx, n, a)
	}}
	_, _, err := call(t, NewClient(c), "GET", s.URL, "")
	if err == nil || ClassOfError(err) != lbclient.ClassInvalid || tries.Load() != 1 {
		t.Errorf("%d dials, error %v", tries.Load(), err)
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	c := Config{MinWait: 100 * time.Millisecond, MaxWait: 700 * time.Millisecond}.withDefaults()
	for i, most := range []time.Duration{100, 200, 400, 700, 700, 700} {
		most *= time.Millisecond
		for range 100 {
			j := &judge{cfg: c, tries: i + 1}
			if d := j.backoff(); d < most/2 || d > most {
				t.Fatalf("before attempt %d: %s, want %s to %s", i+2, d, most/2, most)
			}
		}
	}
	j := &judge{cfg: c, tries: 1 << 20}
	if d := j.backoff(); d > c.MaxWait {
		t.Errorf("after very many: %s", d)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "99999999999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "soon"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseRetryAfter(s, now); d < 0 || !ok && d != 0 {
			t.Errorf("%q is %s, %t", s, d, ok)
		}
	})
}
