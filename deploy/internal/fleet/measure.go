package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// AppDir is where a node keeps the app.
func (f *Fleet) AppDir(node string) string { return f.path(node, "apps", "hello") }

// Cache is what the app's builds on a node find as $LOCKSTEP_CACHE, once there was
// one. A program "before" in it is run at the beginning of each.
func (f *Fleet) Cache(node string) string { return f.path(node, "state", "cache", "hello") }

// Before has builds on the nodes begin with a shell script, or no more when it is
// empty.
func (f *Fleet) Before(script string, nodes ...string) error {
	for _, n := range nodes {
		name := filepath.Join(f.Cache(n), "before")
		if err := os.RemoveAll(name); err != nil {
			return err
		}
		if script == "" {
			continue
		}
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Health is the URL that is probed on the node of the index.
func (f *Fleet) Health(i int) string { return fmt.Sprintf("http://%s:%d/healthz", address(i), f.port) }

// Resident is the resident memory of a daemon in MB (of 2^20 bytes).
func (f *Fleet) Resident(daemon string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.daemons[daemon].pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return float64(kb) / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of %s", daemon)
}

// Timeline waits for a rollout to end with the status and returns its timeline.
func (f *Fleet) Timeline(ctx context.Context, id, status string) ([]api.Event, error) {
	if err := f.Await(ctx, id); err != nil {
		return nil, err
	}
	if err := f.Deployctl(ctx, io.Discard, "show", "--follow", id); err != nil {
		return nil, err
	}
	r, err := f.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Status != status {
		return nil, fmt.Errorf("%s is %s (%s), expected %s", id, r.Status, r.Text, status)
	}
	return f.events(ctx, id)
}

func (f *Fleet) events(ctx context.Context, id string) ([]api.Event, error) {
	token, err := os.ReadFile(f.path("admin-token"))
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient("http://"+f.Coordinator, string(bytes.TrimSpace(token)))
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	page, err := c.Events(ctx, id, 0, 0)
	return page.Events, err
}

// Delivered is when the remote's hook last began to send a push.
func (f *Fleet) Delivered() (time.Time, error) {
	var t time.Time
	b, err := os.ReadFile(f.path("hello.git", "delivered"))
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(b, &t)
}
