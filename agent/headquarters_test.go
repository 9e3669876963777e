package agent_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	lockstep "github.com/lockstep-deploy/lockstep/coordinator"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// book is a log that can be read while it is written.
type book struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *book) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *book) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// headquarters is a real coordinator over HTTP, of one node and one app.
type headquarters struct {
	t          *testing.T
	log        *book
	admin, own *api.Client // own is that of node web1
}

// startHeadquarters runs a coordinator until the test ends, with the fleet.yaml
// that yaml returns. In its directory lie the secrets admin, webhook and web1, and
// those that are given.
func startHeadquarters(t *testing.T, yaml func(dir string) string, secrets map[string]string) *headquarters {
	t.Helper()
	dir, h := t.TempDir(), &headquarters{t: t, log: &book{}}
	files := map[string]string{"fleet.yaml": yaml(dir)}
	maps.Copy(files, secrets)
	for _, name := range []string{"admin", "webhook", "web1"} {
		files[name] = strings.Repeat(name, 12)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- lockstep.Run(ctx, lockstep.Options{
			Config: filepath.Join(dir, "fleet.yaml"), Version: "test", Listener: ln, Log: slog.New(slog.NewTextHandler(h.log, nil)),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	client := func(secret string) *api.Client {
		c, err := api.NewClient("http://"+ln.Addr().String(), files[secret], api.WithRetries(20), api.WithBackoff(50*time.Millisecond, 50*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	h.admin, h.own = client("admin"), client("web1")
	return h
}

// deploy deploys a commit and looks on until that has succeeded. Automation, which
// finds it by itself, may have been quicker to begin.
func (h *headquarters) deploy(sha string, look func()) {
	h.t.Helper()
	_, refused := h.admin.Deploy(h.t.Context(), hello, api.DeployRequest{Ref: sha, By: "ann"})
	var e *api.Error
	if refused != nil && (!errors.As(refused, &e) || e.Kind != api.ErrorConflict) {
		h.t.Fatal(refused)
	}
	all, err := h.admin.Rollouts(h.t.Context(), hello)
	if err != nil || len(all) == 0 || all[0].Release.SHA != sha {
		h.t.Fatalf("%s is not being deployed: %v, %v", sha, all, errors.Join(refused, err))
	}
	r := all[0]
	for deadline := time.Now().Add(4 * patience); !r.Done; time.Sleep(20 * time.Millisecond) {
		page, err := h.admin.Events(h.t.Context(), r.ID, 0, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		if r = page.Rollout; time.Now().After(deadline) {
			h.t.Fatalf("%s is still %s: %s\n%s", r.ID, r.Status, r.Text, h.log)
		}
		look()
	}
	if r.Status != "succeeded" {
		h.t.Fatalf("%s is %s: %s\n%s", r.ID, r.Status, r.Text, h.log)
	}
}
