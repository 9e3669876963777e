package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a sink that keeps deliveries in memory.
type memory struct {
	mu   sync.Mutex
	got  []Delivery
	fail error
}

func (m *memory) Receive(_ context.Context, d Delivery) (Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return Answer{}, m.fail
	}
	for _, g := range m.got {
		if g.ID == d.ID {
			return Answer{Duplicate: true, Apps: []string{"tides"}}, nil
		}
	}
	m.got = append(m.got, d)
	if d.Ignored != "" {
		return Answer{Decision: "ignored", Reason: d.Ignored.Text()}, nil
	}
	return Answer{Decision: "accepted", Apps: []string{"tides"}}, nil
}

var (
	newSecret = []byte("the new secret")
	oldSecret = []byte("the old secret")
)

func sign(secret, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func request(event, id string, secret, body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhook/github", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-GitHub-Delivery", id)
	r.Header.Set("X-Hub-Signature-256", sign(secret, body))
	return r
}

func receiver(t testing.TB, sink Sink) http.Handler {
	t.Helper()
	h, err := New(Options{Secrets: [][]byte{newSecret, oldSecret}, Sink: sink, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func answerOf(t *testing.T, h http.Handler, r *http.Request) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("the answer is no JSON: %q", w.Body)
	}
	return w.Code, body
}

func TestNewRefusesWithoutSecret(t *testing.T) {
	for name, secrets := range map[string][][]byte{
		"none":            nil,
		"empty":           {{}},
		"blank":           {[]byte(" \n")},
		"second is empty": {newSecret, nil},
	} {
		if _, err := New(Options{Secrets: secrets, Sink: &memory{}}); err == nil {
			t.Errorf("%s: built", name)
		}
	}
	if _, err := New(Options{Secrets: [][]byte{newSecret}}); err == nil {
		t.Error("built without a sink")
	}
}

func TestAccept(t *testing.T) {
	body := deliveries(t, recorded)["push.fast-forward"]
	form := []byte("payload=" + url.QueryEscape(string(body)))
	for name, c := range map[string]struct {
		secret, body []byte
		media        string
	}{
		"new secret":      {newSecret, body, "application/json"},
		"old secret":      {oldSecret, body, "application/json"},
		"with a charset":  {newSecret, body, "application/json; charset=utf-8"},
		"form":            {newSecret, form, "application/x-www-form-urlencoded"},
		"form old secret": {oldSecret, form, "application/x-www-form-urlencoded"},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &memory{}
			h := receiver(t, sink)
			for i, want := range []struct {
				status   int
				decision string
			}{{202, "accepted"}, {200, "duplicate"}} {
				r := request("push", "7d1f0a7e-0001", c.secret, c.body)
				r.Header.Set("Content-Type", c.media)
				status, a := answerOf(t, h, r)
				if status != want.status || a["decision"] != want.decision || a["delivery"] != "7d1f0a7e-0001" || a["apps"].([]any)[0] != "tides" {
					t.Errorf("delivery %d: got %d %v, expected %v", i+1, status, a, want)
				}
			}
			if len(sink.got) != 1 {
				t.Fatalf("recorded %d deliveries, expected 1", len(sink.got))
			}
			d := sink.got[0]
			if d.Branch != "main" || d.After != "9c3e5a7f10d2b4868a6c4e2f0d1b3957799bbddf" || d.Received.IsZero() || d.ID == "" {
				t.Errorf("recorded %+v", d)
			}
		})
	}
}

func TestIgnoredAreRecorded(t *testing.T) {
	all := deliveries(t, recorded)
	for name, want := range map[string]Ignored{
		"push.tag":                      IgnoredTag,
		"push.notes":                    IgnoredRef,
		"push.branch-deleted":           IgnoredDeletion,
		"workflow_run.completed":        IgnoredEvent,
		"deployment_review.other-types": IgnoredEvent,
	} {
		sink := &memory{}
		status, a := answerOf(t, receiver(t, sink), request(eventOf(name), "1", newSecret, all[name]))
		if status != 202 || a["decision"] != "ignored" || a["reason"] != want.Text() {
			t.Errorf("%s: got %d %v", name, status, a)
		}
		if len(sink.got) != 1 || sink.got[0].Ignored != want || sink.got[0].Repository.FullName == "" {
			t.Errorf("%s: recorded %+v, expected ignored as %s", name, sink.got, want)
		}
	}
}

func TestPing(t *testing.T) {
	all := deliveries(t, recorded)
	sink := &memory{}
	h := receiver(t, sink)
	status, a := answerOf(t, h, request("ping", "1", newSecret, all["ping.push-events"]))
	if status != 200 || a["decision"] != "pong" || a["reason"] != nil {
		t.Errorf("got %d %v", status, a)
	}
	status, a = answerOf(t, h, request("ping", "2", newSecret, all["ping.no-push-events"]))
	if status != 200 || a["decision"] != "pong" || !strings.Contains(a["reason"].(string), "push events") {
		t.Errorf("a hook that never sends pushes: got %d %v", status, a)
	}
	if len(sink.got) != 0 {
		t.Errorf("a ping was recorded: %+v", sink.got)
	}
}

func TestRefuse(t *testing.T) {
	body := deliveries(t, recorded)["push.fast-forward"]
	set := func(key string, values ...string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Del(key)
			for _, v := range values {
				r.Header.Add(key, v)
			}
		}
	}
	legacy := hmac.New(sha1.New, newSecret)
	legacy.Write(body)
	sha1Signature := "sha1=" + hex.EncodeToString(legacy.Sum(nil))
	good := sign(newSecret, body)

	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"unsigned":                 {set("X-Hub-Signature-256"), 401},
		"empty signature":          {set("X-Hub-Signature-256", ""), 401},
		"only SHA-1":               {func(r *http.Request) { set("X-Hub-Signature-256")(r); set("X-Hub-Signature", sha1Signature)(r) }, 401},
		"SHA-1 in SHA-256's place": {set("X-Hub-Signature-256", sha1Signature), 401},
		"other secret":             {set("X-Hub-Signature-256", sign([]byte("guess"), body)), 401},
		"empty secret":             {set("X-Hub-Signature-256", sign(nil, body)), 401},
		"both secrets joined":      {set("X-Hub-Signature-256", sign(append(slices.Clone(newSecret), oldSecret...), body)), 401},
		"other body":               {set("X-Hub-Signature-256", sign(newSecret, append([]byte(" "), body...))), 401},
		"cut signature":            {set("X-Hub-Signature-256", good[:len(good)-2]), 401},
		"two signatures":           {set("X-Hub-Signature-256", good, sign([]byte("guess"), body)), 401},
		"no delivery id":           {set("X-GitHub-Delivery"), 400},
		"id of lines":              {set("X-GitHub-Delivery", "a b\tc"), 400},
		"endless id":               {set("X-GitHub-Delivery", strings.Repeat("a", 101)), 400},
		"no event":                 {set("X-GitHub-Event"), 400},
		"no content type":          {set("Content-Type"), 415},
		"text":                     {set("Content-Type", "text/plain"), 415},
		"multipart":                {set("Content-Type", "multipart/form-data; boundary=x"), 415},
		"JSON called a form":       {set("Content-Type", "application/x-www-form-urlencoded"), 400},
		"GET":                      {func(r *http.Request) { r.Method = http.MethodGet }, 405},
		"announced too large":      {func(r *http.Request) { r.ContentLength = MaxBody + 1; r.Body = unreadable{t} }, 413},
		"unsigned is not read":     {func(r *http.Request) { set("X-Hub-Signature-256")(r); r.Body = unreadable{t} }, 401},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &memory{}
			r := request("push", "1", newSecret, body)
			c.change(r)
			status, a := answerOf(t, receiver(t, sink), r)
			if status != c.status {
				t.Errorf("got %d %v, expected %d", status, a, c.status)
			}
			text, _ := a["text"].(string)
			if text == "" || a["kind"] == "" {
				t.Errorf("the answer says nothing: %v", a)
			}
			if strings.Contains(text, good[7:]) {
				t.Errorf("the answer shows the right signature: %s", text)
			}
			if len(sink.got) != 0 {
				t.Errorf("recorded %+v", sink.got)
			}
		})
	}
}

// unreadable fails the test when somebody reads it.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}
func (u unreadable) Close() error { return nil }

func TestRefuseSignedGarbage(t *testing.T) {
	for _, body := range []string{"", "null", "[]", "7", "{", `{"ref":1}`, "{}", strings.Repeat(`{"a":`, 20000)} {
		sink := &memory{}
		status, a := answerOf(t, receiver(t, sink), request("push", "1", newSecret, []byte(body)))
		if status != 400 || a["text"] == "" || len(sink.got) != 0 {
			t.Errorf("%.20q: got %d %v", body, status, a)
		}
	}
}

func TestBodyIsCapped(t *testing.T) {
	h := receiver(t, &memory{})
	body := append([]byte(`{"pad":"`), bytes.Repeat([]byte("a"), MaxBody)...)
	body = append(body, `"}`...)
	post := func(body []byte) (int, map[string]any) {
		r := request("star", "1", newSecret, body)
		r.ContentLength = -1 // as a chunked body comes
		return answerOf(t, h, r)
	}
	if status, a := post(body); status != 413 || a["kind"] != "too_large" {
		t.Errorf("beyond the cap: got %d %v", status, a)
	}
	exact := append(body[:MaxBody-2:MaxBody-2], `"}`...)
	if status, a := post(exact); status != 202 {
		t.Errorf("a body of exactly the cap: got %d %v", status, a)
	}
}

func TestSinkFailure(t *testing.T) {
	body := deliveries(t, recorded)["push.fast-forward"]
	sink := &memory{fail: errors.New("disk /secret/path is full")}
	h := receiver(t, sink)
	status, a := answerOf(t, h, request("push", "1", newSecret, body))
	if status != 503 || a["kind"] != "unavailable" || strings.Contains(a["text"].(string), "/secret/path") {
		t.Errorf("got %d %v", status, a)
	}
	sink.fail = nil
	if status, a = answerOf(t, h, request("push", "1", newSecret, body)); status != 202 {
		t.Errorf("redelivered: got %d %v", status, a)
	}
}

type stuck struct{}

func (stuck) Receive(ctx context.Context, _ Delivery) (Answer, error) {
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

func TestStuckSinkIsAnsweredBeforeTheSenderGivesUp(t *testing.T) {
	body := deliveries(t, recorded)["push.fast-forward"]
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		status, _ := answerOf(t, receiver(t, stuck{}), request("push", "1", newSecret, body))
		if took := time.Since(start); status != 503 || took >= 10*time.Second {
			t.Errorf("got %d after %v, expected 503 within GitHub's 10s", status, took)
		}
	})
}

func BenchmarkAccept(b *testing.B) {
	body := deliveries(b, recorded)["push.fast-forward"]
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		m := hmac.New(sha256.New, newSecret)
		m.Write(got)
		want := "sha256=" + hex.EncodeToString(m.Sum(nil))
		if err != nil || !hmac.Equal([]byte(want), []byte(r.Header.Get("X-Hub-Signature-256"))) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	one, err := New(Options{Secrets: [][]byte{newSecret}, Sink: discard{}})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"webhook", one}} {
		b.Run("call/"+c.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			template := request("push", "1", newSecret, body)
			for b.Loop() {
				template.Body = io.NopCloser(bytes.NewReader(body))
				w := httptest.NewRecorder()
				c.h.ServeHTTP(w, template)
				if w.Code != http.StatusAccepted {
					b.Fatalf("got %d", w.Code)
				}
			}
		})
		b.Run("loopback/"+c.name, func(b *testing.B) {
			server := httptest.NewServer(c.h)
			defer server.Close()
			header := request("push", "1", newSecret, body).Header
			client := server.Client()
			for b.Loop() {
				r, err := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				r.Header = header
				resp, err := client.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					b.Fatalf("got %d", resp.StatusCode)
				}
			}
		})
	}
}

type discard struct{}

func (discard) Receive(context.Context, Delivery) (Answer, error) {
	return Answer{Decision: "accepted"}, nil
}
