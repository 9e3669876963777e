package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// The program itself, as a shell runs it: Ctrl-C detaches from the rollout.
func TestInterruptedProcessDetaches(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(adminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "deploy", "hello")
	cmd.Env = append(os.Environ(), "LOCKSTEP_TEST_DEPLOYCTL=1", envCoordinator+"="+f.url, envTokenFile+"="+tokenFile)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.idle: // it watches
	case <-time.After(20 * time.Second):
		t.Error("it does not watch")
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("%v, want exit 130", err)
	}
	mustSay(t, stderr.String(), "detached; the rollout goes on. Follow it with: deployctl show --follow hello-3")
	if !strings.HasPrefix(stdout.String(), "hello-3 deploy of 9c1d2e3") {
		t.Errorf("standard output: %s", stdout.String())
	}
}
