package httpapi_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/webhook"
)

// push returns the body of a push to a branch of the repository.
func push(branch, after string) string {
	return fmt.Sprintf(`{"ref":"refs/heads/%s","before":"%s","after":"%s","repository":{"full_name":"me/hello","clone_url":"https://github.com/me/hello.git"},
		"head_commit":{"message":"change"},"sender":{"login":"ann"}}`, branch, sha("0"), after)
}

func sign(body string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func delivery(url, id, signature, body string) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodPost, url+"/webhook/github", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", id)
	req.Header.Set("X-Hub-Signature-256", signature)
	return req, nil
}

func TestDeliveries(t *testing.T) {
	s := newStage(t)
	deliver := func(id, signature, body string) (int, webhook.Response) {
		t.Helper()
		req, err := delivery(s.server.URL, id, signature, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a webhook.Response
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, a
	}
	main, dev := push("main", sha("a")), push("dev", sha("b"))
	if status, a := deliver("d1", sign(main), main); status != http.StatusAccepted || a.Decision != "accepted" || a.Delivery != "d1" || len(a.Apps) != 1 {
		t.Errorf("answered %d %+v", status, a)
	}
	if status, a := deliver("d1", sign(main), main); status != http.StatusOK || a.Decision != "duplicate" {
		t.Errorf("again: answered %d %+v", status, a)
	}
	if status, a := deliver("d2", sign(dev), dev); status != http.StatusAccepted || a.Decision != "ignored" || a.Reason == "" {
		t.Errorf("another branch: answered %d %+v", status, a)
	}
	if status, _ := deliver("d3", sign(dev), main); status != http.StatusUnauthorized {
		t.Errorf("a wrong signature: answered %d", status)
	}
	ds, err := s.admin.Deliveries(t.Context())
	if err != nil || len(ds) != 2 {
		t.Fatalf("deliveries: %+v, %v", ds, err)
	}
	if d := ds[0]; d.ID != "d2" || d.Decision != "ignored" || d.Reason == "" || d.Ref != "refs/heads/dev" {
		t.Errorf("newest: %+v", d)
	}
	if d := ds[1]; d.ID != "d1" || d.Decision != "accepted" || d.Repository != "me/hello" || d.After != sha("a") || d.Sender != "ann" || d.Received.IsZero() || d.Apps[0] != "hello" {
		t.Errorf("oldest: %+v", d)
	}
}

// TestLargeDeliveriesDoNotKeepSmallOnesOut: whoever sends slowly, or much.
func TestLargeDeliveriesDoNotKeepSmallOnesOut(t *testing.T) {
	s := newStage(t)
	reading := make(chan bool, 100)
	s.restart(func(c *httpapi.Config) {
		next := c.Webhook
		c.Webhook = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reading <- true
			next.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var ends []*io.PipeWriter
	defer func() {
		cancel()
		for _, end := range ends {
			end.Close()
		}
		wg.Wait()
	}()
	for range 20 {
		body, end := io.Pipe() // of unknown length
		req, err := delivery(s.server.URL, "large", sign("x"), "")
		if err != nil {
			t.Fatal(err)
		}
		req.Body, req.ContentLength = body, -1
		wg.Go(func() {
			if resp, err := http.DefaultClient.Do(req.WithContext(ctx)); err == nil {
				resp.Body.Close()
			}
		})
		ends = append(ends, end)
	}
	for range 4 {
		<-reading
	}
	body := push("main", sha("a"))
	req, err := delivery(s.server.URL, "small", sign(body), body)
	if err != nil {
		t.Fatal(err)
	}
	short, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	resp, err := http.DefaultClient.Do(req.WithContext(short))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("answered %d", resp.StatusCode)
	}
	<-reading // the small one
	if n := len(reading); n != 0 {
		t.Errorf("%d large ones are read beyond the four", n)
	}
}
