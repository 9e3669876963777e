package haproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestNoRequestFails restarts every app in turn, as a rollout does, under
// visitors who keep their connections and whose posts nobody may send twice.
func TestNoRequestFails(t *testing.T) {
	w := newWorld(t, 3, haproxytest.Options{}, "web")
	url := w.lb.URL("web") + "/"
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		client := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(client.CloseIdleConnections)
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n < 10 {
						t.Errorf("visitor %d sent only %d requests", i, n)
					}
					return
				default:
				}
				if err := visit(client, url, n); err != nil {
					t.Errorf("visitor %d, request %d: %v", i, n, err)
				}
			}
		})
	}
	for _, name := range w.Names {
		p := w.Provider(name)
		r := lbtest.Snapshot(t, p)
		w.await(name+" is drained", func() bool { return p.BeginDrain(t.Context(), r, 2) == nil })
		w.await(name+" is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
		w.Apps[name].Restart(t, func() {
			w.await("HAProxy finds "+name+" down", func() bool { return w.show("web", name)["status"] == "DOWN" })
		})
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w.await(name+" serves", func() bool {
			st, err := p.RejoinStatus(t.Context(), r)
			return err == nil && st.Stage == lbclient.RejoinServing
		})
	}
	close(done)
	wg.Wait()
}

func visit(client *http.Client, url string, n int) error {
	method := http.MethodGet
	if n%2 == 1 {
		method = http.MethodPost
	}
	q, err := http.NewRequest(method, url, strings.NewReader("n"))
	if err != nil {
		return err
	}
	a, err := client.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", a.Status)
	}
	return nil
}
