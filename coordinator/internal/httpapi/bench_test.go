package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-github/v60/github"
)

// BenchmarkDeliveries compares how many deliveries a second are taken durably
// (verified, decoded, matched, stored, and synchronised to the disk) with what
// the bare HTTP server does that only reads the body and verifies the same
// signature, both over loopback with the same parallel clients. Reported is
// deliveries/s and, in the first, the ratio of the two. The two take turns, so
// that what else the machine does meets both.
func BenchmarkDeliveries(b *testing.B) {
	body := recordedPush(b)
	signature := sign(body)
	for _, clients := range []int{1, 16, 64, 256} {
		b.Run("clients="+strconv.Itoa(clients), func(b *testing.B) {
			s := newStage(b)
			ctx, cancel := context.WithCancel(b.Context())
			watching := make(chan error, 1)
			go func() { watching <- s.config.Trigger.Run(ctx) }()
			bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var buf bytes.Buffer
				if _, err := buf.ReadFrom(r.Body); err != nil || github.ValidateSignature(r.Header.Get("X-Hub-Signature-256"), buf.Bytes(), []byte(secret)) != nil {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.WriteHeader(http.StatusAccepted)
			}))
			defer bare.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
			defer client.CloseIdleConnections()
			var ids atomic.Int64
			send := func(url string, n int) time.Duration {
				var wg sync.WaitGroup
				var left atomic.Int64
				left.Store(int64(n))
				begun := time.Now()
				for range clients {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if err := post(client, url, fmt.Sprintf("delivery-%d", ids.Add(1)), signature, body); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				return time.Since(begun)
			}
			send(bare.URL, 2*clients) // connect
			send(s.server.URL, 2*clients)
			var durable, plain time.Duration
			const round = 2000
			b.ResetTimer()
			for done := 0; done < b.N; done += round {
				n := min(round, b.N-done)
				durable += send(s.server.URL, n)
				b.StopTimer()
				plain += send(bare.URL, n)
				b.StartTimer()
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/durable.Seconds(), "deliveries/s")
			b.ReportMetric(float64(b.N)/plain.Seconds(), "bare/s")
			b.ReportMetric(plain.Seconds()/durable.Seconds(), "ratio")
			cancel()
			if err := <-watching; err != nil {
				b.Error(err)
			}
		})
	}
}

// recordedPush is a push of GitHub's size, to the repository of the stage.
func recordedPush(b *testing.B) string {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "webhook", "push.fast-forward.json"))
	if err != nil {
		b.Fatal(err)
	}
	body := string(raw)
	for _, u := range []string{"https://github.com/harbour-works/Tide-Table", "git@github.com:harbour-works/Tide-Table", "harbour-works/Tide-Table"} {
		body = strings.ReplaceAll(body, u, strings.Replace(u, "harbour-works/Tide-Table", "me/hello", 1))
	}
	return strings.ReplaceAll(body, "9c3e5a7f10d2b4868a6c4e2f0d1b3957799bbddf", sha("a"))
}

func post(client *http.Client, url, id, signature, body string) error {
	req, err := delivery(url, id, signature, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("answered %d %s", resp.StatusCode, answer)
	}
	return err
}
