package unit_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// machine is the systemd of the machine, with its journal, for units whose files
// are gone after a restart of the machine.
func machine(t *testing.T) *unit.Manager {
	t.Helper()
	if os.Getenv("LOCKSTEP_TEST_SYSTEMD") == "" {
		t.Skip("LOCKSTEP_TEST_SYSTEMD is not set: the machine's own systemd is left alone")
	}
	m := unit.New(unit.System)
	t.Cleanup(m.Close)
	return m
}

// service writes a unit of the machine's systemd, and returns its name.
func (w theMachine) service(text string) string {
	w.t.Helper()
	name := "lockstep-test-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(len(text)) + ".service"
	file := filepath.Join("/run/systemd/system", name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = exec.CommandContext(ctx, "systemctl", "stop", name).Run() // it may be gone
		_ = exec.CommandContext(ctx, "systemctl", "reset-failed", name).Run()
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			w.t.Error(err)
		}
		if err := w.ReloadUnits(ctx); err != nil {
			w.t.Error(err)
		}
	})
	if err := w.ReloadUnits(within(w.t)); err != nil {
		w.t.Fatal(err)
	}
	return name
}

type theMachine struct {
	t *testing.T
	*unit.Manager
}

// What the real journal has of a program that another one keeps from its port is
// told, of the start that failed and of no earlier one.
func TestTheJournalTellsWhyAPortIsTaken(t *testing.T) {
	w := theMachine{t, machine(t)}
	for _, program := range []string{"python3", "journalctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// A program of Type=exec is up before it has failed; one that systemd starts again
	// is so again and again.
	name := w.service("[Service]\nType=exec\nRestart=always\nRestartSec=100ms\nExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 " + port + "\n")
	ctx := within(t)
	st, err := w.Restart(ctx, name)
	for err == nil {
		err = w.Settled(ctx, name, st.InvocationID, st.NRestarts)
	}
	if fault.ReasonOf(err) != api.ReasonStartFailed || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("the error is %v", err)
	}
}

// A unit that is missing or masked is told of with what to do, and is not started.
func TestUnitsThatTheMachineDoesNotStart(t *testing.T) {
	w := theMachine{t, machine(t)}
	name := w.service("[Service]\nExecStart=/bin/sleep 600\n")
	file := filepath.Join("/run/systemd/system", name)
	if err := errors.Join(os.Remove(file), os.Symlink("/dev/null", file), w.ReloadUnits(within(t))); err != nil {
		t.Fatal(err)
	}
	for unit, want := range map[string]string{
		name:                           "systemctl unmask " + name,
		"lockstep-test-nobody.service": "install it",
	} {
		_, err := w.Restart(within(t), unit)
		if fault.ReasonOf(err) != api.ReasonUnitMissing || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want it to say %q", unit, err, want)
		}
		if _, err := w.Environment(within(t), unit); fault.ReasonOf(err) != api.ReasonUnitMissing {
			t.Errorf("%s: its surroundings: %v", unit, err)
		}
	}
}
