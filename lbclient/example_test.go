package lbclient_test

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
)

// Restart an app out of rotation. Every step may be taken again, by another
// process too, once the Restore is on disk.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	p, err := haproxy.New(haproxy.Config{
		Name: "edge", Endpoints: []string{"unix:///run/haproxy/admin.sock"}, Backends: []string{"web"}, Server: "web1",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	r, err := p.Snapshot(ctx)
	if err != nil {
		log.Fatal(err)
	}
	journal, err := json.Marshal(r)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("/var/lib/me/restore.json", journal, 0o600); err != nil {
		log.Fatal(err)
	}
	until(ctx, func() (bool, error) {
		if err := p.BeginDrain(ctx, r, 1); err != nil { // one other member at least must serve
			return false, err
		}
		st, err := p.DrainStatus(ctx, r)
		return st.Stage == lbclient.DrainIdle, err
	})
	// Restart the app here, and see that it is healthy.
	until(ctx, func() (bool, error) {
		if err := p.BeginRejoin(ctx, r); err != nil {
			return false, err
		}
		st, err := p.RejoinStatus(ctx, r)
		return st.Stage == lbclient.RejoinServing, err
	})
}

// until asks again as long as an error allows it.
func until(ctx context.Context, done func() (bool, error)) {
	for {
		ok, err := done()
		switch {
		case ok && err == nil:
			return
		case err != nil && !lbclient.ClassOf(err).Retryable():
			log.Fatal(err)
		}
		select {
		case <-ctx.Done():
			log.Fatal(ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}
