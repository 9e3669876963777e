package broker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// A brokered provider is as good as the one that the coordinator holds.
func TestContract(t *testing.T) {
	lbtest.Run(t, lbtest.Harness{
		New:            func(t *testing.T) lbtest.World { return newWorld(t) },
		CountsInFlight: true,
		HoldOut: func(_ *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state maint")
		},
		HeldOut: func(_ *testing.T, w lbtest.World, target string) bool {
			return w.(*world).phase(target) == lbclient.PhaseForeignOut
		},
		Forget: func(t *testing.T, w lbtest.World) {
			if err := w.(*world).lb.Reload(); err != nil {
				t.Fatal(err)
			}
		},
		Cut: func(_ *testing.T, w lbtest.World) { w.(*world).lb.Stop() },
		Hang: func(t *testing.T, w lbtest.World) {
			pid := w.(*world).lb.PID()
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
			// Until each of its threads has stopped, one may still answer.
			for deadline := time.Now().Add(30 * time.Second); !stopped(t, pid); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("HAProxy does not stop")
				}
			}
		},
		Readmit: func(_ *testing.T, w lbtest.World, target string) {
			w.(*world).command("set server web/" + target + " state ready")
		},
		LoseAnswers: func(_ *testing.T, w lbtest.World) func() {
			w.(*world).lose.Store(true)
			return func() { w.(*world).lose.Store(false) }
		},
		Restart: func(_ *testing.T, w lbtest.World, target string, while func()) {
			w.(*world).Restart(target, while)
		},
		CountsTwice: true,
		Without: map[string]string{
			"removed":         "HAProxy loses no server without a reload, and haproxy.cfg is not ours",
			"denied":          "the product's own, which the haproxy package tests; what the broker denies is tested beside this",
			"changes ignored": "the product's own, which the haproxy package tests",
		},
	})
}

func stopped(t *testing.T, pid int) bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("cannot see the threads of process %d: %v", pid, err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil || !strings.Contains(string(b), ") T ") {
			return false
		}
	}
	return true
}
