package api_test

import (
	"context"
	"encoding/json"
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

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const token = "s3cret-token-that-must-not-leak"

// newClient returns a client of a server that runs h, with short waits.
func newClient(t *testing.T, h http.HandlerFunc, opts ...api.ClientOption) *api.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return clientOf(t, srv.URL, opts...)
}

func clientOf(t *testing.T, url string, opts ...api.ClientOption) *api.Client {
	t.Helper()
	opts = append([]api.ClientOption{api.WithRetries(2), api.WithBackoff(time.Millisecond, 4*time.Millisecond)}, opts...)
	c, err := api.NewClient(url, token, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Every method must ask for exactly the route and body of the contract.
func TestRoutes(t *testing.T) {
	var got string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(b))
		if a := r.Header.Get("Authorization"); a != "Bearer "+token {
			t.Errorf("Authorization = %q", a)
		}
		if r.URL.Path == "/agent/v1/logs" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/rollouts") {
			answer(w, 200, []api.Rollout{{ID: "hello-3"}})
			return
		}
		answer(w, 202, map[string]any{"rollout": api.Rollout{ID: "hello-3"}, "app": "hello"})
	})
	ctx := t.Context()
	action := api.ActionRequest{By: "ann"}
	for _, tc := range []struct {
		want string
		call func() error
	}{
		{`GET /v1/status`, func() error { _, err := c.Status(ctx); return err }},
		{`GET /v1/apps/hello/rollouts`, func() error {
			list, err := c.Rollouts(ctx, "hello")
			if len(list) != 1 {
				return fmt.Errorf("got %v", list)
			}
			return err
		}},
		{`GET /v1/apps/a%2Fb/rollouts`, func() error { _, err := c.Rollouts(ctx, "a/b"); return err }},
		{`GET /v1/rollouts/hello-3`, func() error { _, err := c.Rollout(ctx, "hello-3"); return err }},
		{`GET /v1/rollouts/hello-3/events`, func() error { _, err := c.Events(ctx, "hello-3", 0, 0); return err }},
		{`GET /v1/rollouts/hello-3/events?after=7&wait=25s`, func() error { _, err := c.Events(ctx, "hello-3", 7, time.Hour); return err }},
		{`GET /v1/rollouts/hello-3/logs?after=9&node=web1&step=build&wait=5s`, func() error {
			_, err := c.Logs(ctx, "hello-3", api.LogQuery{Node: "web1", Step: api.StepBuild, After: 9, Wait: 5 * time.Second})
			return err
		}},
		{`GET /v1/apps/hello/plan?ref=feature%2Fx`, func() error { _, err := c.Plan(ctx, "hello", "feature/x"); return err }},
		{`GET /v1/apps/hello/plan?kind=rollback&to=3f2a91c`, func() error { _, err := c.PlanRollback(ctx, "hello", "3f2a91c"); return err }},
		{`POST /v1/apps/hello/deploy {"ref":"main","by":"ann"}`, func() error {
			ro, err := c.Deploy(ctx, "hello", api.DeployRequest{Ref: "main", By: "ann"})
			if ro.ID != "hello-3" {
				return fmt.Errorf("got %+v", ro)
			}
			return err
		}},
		{`POST /v1/apps/hello/rollback {"by":"ann"}`, func() error { _, err := c.Rollback(ctx, "hello", api.RollbackRequest{By: "ann"}); return err }},
		{`POST /v1/apps/hello/pause {"by":"ann"}`, func() error { _, err := c.Pause(ctx, "hello", action); return err }},
		{`POST /v1/apps/hello/resume {"by":"ann"}`, func() error { _, err := c.Resume(ctx, "hello", action); return err }},
		{`POST /v1/apps/hello/abort {"by":"ann"}`, func() error { _, err := c.Abort(ctx, "hello", action); return err }},
		{`POST /v1/apps/hello/retry {"by":"ann"}`, func() error { _, err := c.Retry(ctx, "hello", action); return err }},
		{`POST /v1/apps/hello/hold {"by":"ann","reason":"freeze","for":"1h0m0s"}`, func() error {
			as, err := c.Hold(ctx, "hello", api.HoldRequest{By: "ann", Reason: "freeze", For: api.Duration(time.Hour)})
			if as.App != "hello" {
				return fmt.Errorf("got %+v", as)
			}
			return err
		}},
		{`POST /v1/apps/hello/unhold {"by":"ann"}`, func() error { _, err := c.Unhold(ctx, "hello", action); return err }},
		{`GET /v1/balancers`, func() error { _, err := c.Balancers(ctx, ""); return err }},
		{`GET /v1/balancers?name=a%2Fb`, func() error { _, err := c.Balancers(ctx, "a/b"); return err }},
		{`GET /v1/doctor`, func() error { _, err := c.Doctor(ctx); return err }},
		{`POST /agent/v1/balancer {"node":"web1","app":"hello","target":"hello@web1","op":"begin_drain",` +
			`"restore":{"provider":"haproxy","target":"web1","version":1,"was_serving":true,"data":{"a":1}},"min_healthy":1,"session":"s","number":4}`, func() error {
			_, err := c.Balancer(ctx, api.BalancerRequest{
				Node: "web1", App: "hello", Target: "hello@web1", Op: api.OpBeginDrain, MinHealthy: 1, Session: "s", Number: 4,
				Restore: &api.BalancerRestore{Provider: "haproxy", Target: "web1", Version: 1, WasServing: true, Data: json.RawMessage(`{"a":1}`)},
			})
			return err
		}},
		{`POST /agent/v1/logs {"node":"web1","chunks":null}`, func() error { return c.PostLogs(ctx, api.LogRequest{Node: "web1"}) }},
		{`POST /agent/v1/sync {"node":"web1","version":"","instance":"","epoch":0,"seq":4,"wait":true,"apps":null}`, func() error {
			_, err := c.Sync(ctx, api.SyncRequest{Node: "web1", Seq: 4, Wait: true})
			return err
		}},
	} {
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", tc.want, err)
		}
		if got != tc.want {
			t.Errorf("sent  %s\nwant  %s", got, tc.want)
		}
	}
}

func TestNamesThatWouldChangeThePath(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("called %s", r.URL) })
	for _, name := range []string{"", ".", ".."} {
		if _, err := c.Rollouts(t.Context(), name); err == nil {
			t.Errorf("app %q was asked for", name)
		}
		if _, err := c.Rollout(t.Context(), name); err == nil {
			t.Errorf("rollout %q was asked for", name)
		}
	}
}

// What may arrive twice is tried again; a deploy never is.
func TestRetries(t *testing.T) {
	hangUp := func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}
	cutShort := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "500")
		_, _ = io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		hangUp(w)
	}
	unavailable := func(w http.ResponseWriter) {
		answer(w, 503, api.Error{Kind: api.ErrorUnavailable, Text: "starting"})
	}
	internal := func(w http.ResponseWriter) {
		answer(w, 500, api.Error{Kind: api.ErrorInternal, Text: "broken"})
	}
	status := func(c *api.Client, ctx context.Context) error { _, err := c.Status(ctx); return err }
	sync := func(c *api.Client, ctx context.Context) error {
		_, err := c.Sync(ctx, api.SyncRequest{Node: "web1"})
		return err
	}
	logs := func(c *api.Client, ctx context.Context) error { return c.PostLogs(ctx, api.LogRequest{Node: "web1"}) }
	deploy := func(c *api.Client, ctx context.Context) error {
		_, err := c.Deploy(ctx, "hello", api.DeployRequest{})
		return err
	}
	balancer := func(op api.BalancerOp) func(*api.Client, context.Context) error {
		return func(c *api.Client, ctx context.Context) error {
			_, err := c.Balancer(ctx, api.BalancerRequest{Op: op})
			return err
		}
	}
	for _, tc := range []struct {
		name  string
		fault func(http.ResponseWriter)
		call  func(*api.Client, context.Context) error
		tries int32
	}{
		{"status, connection lost", hangUp, status, 3},
		{"status, answer cut short", cutShort, status, 3},
		{"status, unavailable", unavailable, status, 3},
		{"status, internal error", internal, status, 1},
		{"sync, connection lost", hangUp, sync, 3},
		{"sync, unavailable", unavailable, sync, 3},
		{"logs, unavailable", unavailable, logs, 3},
		{"deploy, connection lost", hangUp, deploy, 1},
		{"deploy, answer cut short", cutShort, deploy, 1},
		{"deploy, unavailable", unavailable, deploy, 1},
		{"look at a balancer, connection lost", hangUp, balancer(api.OpDrainStatus), 3},
		{"drain, connection lost", hangUp, balancer(api.OpBeginDrain), 1},
		{"drain, answer cut short", cutShort, balancer(api.OpBeginDrain), 1},
		{"rejoin, unavailable", unavailable, balancer(api.OpBeginRejoin), 1},
		{"force, connection lost", hangUp, balancer(api.OpForceIdle), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var tries atomic.Int32
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				tries.Add(1)
				tc.fault(w)
			})
			if err := tc.call(c, t.Context()); err == nil {
				t.Error("no error")
			}
			if n := tries.Load(); n != tc.tries {
				t.Errorf("%d tries, want %d", n, tc.tries)
			}
		})
		t.Run(tc.name+", then well", func(t *testing.T) {
			var tries atomic.Int32
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				if tries.Add(1) == 1 {
					tc.fault(w)
					return
				}
				answer(w, 200, struct{}{})
			})
			if err := tc.call(c, t.Context()); (err == nil) != (tc.tries > 1) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// A refused connection cannot have started anything, so even a deploy is sent
// again: the coordinator may just be restarting.
func TestDeployIsSentAgainAfterARefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := clientOf(t, "http://"+addr, api.WithRetries(50), api.WithBackoff(20*time.Millisecond, 20*time.Millisecond))
	done := make(chan error, 1)
	go func() {
		_, err := c.Deploy(context.Background(), "hello", api.DeployRequest{})
		done <- err
	}()
	l, err = net.Listen("tcp", addr)
	if err != nil {
		<-done
		t.Skipf("port of %s was taken meanwhile: %v", addr, err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, 202, struct{}{}) })}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestUnreachableNamesTheAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	_, err = clientOf(t, url).Status(t.Context())
	var ue *api.UnreachableError
	if !errors.As(err, &ue) || ue.Base != url || !strings.Contains(err.Error(), url) {
		t.Fatalf("err = %v", err)
	}
}

func TestRefusalIsTyped(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 409, api.Error{Kind: api.ErrorConflict, Reason: "live", Text: "hello-3 is still rolling"})
	})
	_, err := c.Deploy(t.Context(), "hello", api.DeployRequest{})
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.ErrorConflict || e.Reason != "live" || err.Error() != "hello-3 is still rolling" {
		t.Fatalf("err = %#v", err)
	}
}

// What a proxy or another program answers must be told apart from the
// coordinator, by address and status, without repeating what it sent.
func TestForeignAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		kind   string
		body   string
		want   string
	}{
		{"proxy error page", 502, "text/html; charset=utf-8", "<html>Bearer " + token, "502 Bad Gateway with 44 bytes of text/html"},
		{"login page", 200, "text/html", "<html>", "200 OK with 6 bytes of text/html"},
		{"other JSON", 404, "application/json", `{"error":"x"}`, "404 Not Found with 13 bytes of application/json"},
		{"nothing", 500, "", "", "500 Internal Server Error with an empty body"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := c.Status(t.Context())
			var ae *api.AnswerError
			if !errors.As(err, &ae) || ae.Status != tc.status {
				t.Fatalf("err = %v", err)
			}
			for _, want := range []string{tc.want, c.URL() + "/v1/status"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the token leaks: %v", err)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("called with Authorization %q", r.Header.Get("Authorization"))
	}))
	defer other.Close()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/elsewhere?q=hidden", http.StatusTemporaryRedirect)
	})
	_, err := c.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a redirect to "+other.URL+"/elsewhere (") {
		t.Fatalf("err = %v", err)
	}
}

// An endless answer must end in an error, not in memory.
func TestAnswersAreCapped(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	_, err := c.Sync(t.Context(), api.SyncRequest{Node: "web1"})
	if err == nil || !strings.Contains(err.Error(), "more than 4194304 bytes") {
		t.Fatalf("err = %v", err)
	}
}

func TestReportsAreCapped(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) { t.Error("called") })
	_, err := c.Sync(t.Context(), api.SyncRequest{Node: strings.Repeat("x", api.MaxSyncBytes)})
	if err == nil || !strings.Contains(err.Error(), "at most 4194304 are accepted") {
		t.Fatalf("err = %v", err)
	}
}

// An agent ends a held sync when it has news; that is no fault of the
// coordinator and must not look like one.
func TestCancelIsTold(t *testing.T) {
	held := make(chan struct{})
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(held)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-held; cancel() }()
	_, err := c.Sync(ctx, api.SyncRequest{Node: "web1", Wait: true})
	var ue *api.UnreachableError
	if !errors.Is(err, context.Canceled) || errors.As(err, &ue) {
		t.Fatalf("err = %v", err)
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, tc := range []struct{ name, url, token, want string }{
		{"no scheme", "127.0.0.1:7400", token, "expected a URL"},
		{"other scheme", "ftp://host", token, "expected a URL"},
		{"empty", "", token, "expected a URL"},
		{"password in it", "https://u:" + token + "@host", "other", "holds a user or password"},
		{"query", "https://host/?token=" + token, "other", "expected no query"},
		{"broken, with a password", "https://u:" + token + "@ho st", "other", "expected a URL"},
		{"no token", "https://host", " \n", "it is empty"},
		{"two lines", "https://host", token + "\n" + token, "expected one word"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := api.NewClient(tc.url, tc.token)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("err = %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the secret leaks: %v", err)
			}
		})
	}
}
