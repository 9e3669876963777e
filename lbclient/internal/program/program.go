// Package program runs the real programs that tests and the demonstration put
// before their apps.
package program

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Find returns the path of a program, also where /usr/sbin is not in PATH;
// otherwise an error that says that it is not installed.
func Find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	usual := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(usual); err == nil {
		return usual, nil
	}
	return "", Missing(name)
}

// Missing is the error of a program that is not installed.
func Missing(name string) error { return &missing{name} }

type missing struct{ name string }

func (m *missing) Error() string { return m.name + " is not installed" }

// Child is a program that was started. Its methods are for one goroutine at a
// time.
type Child struct {
	cmd      *exec.Cmd
	output   *Output
	patience time.Duration
	done     chan struct{} // closed when the process has been waited for
}

// Start starts the command, with its output to o. The wait for it to start and to
// end is bounded by patience.
func Start(cmd *exec.Cmd, o *Output, patience time.Duration) (*Child, error) {
	cmd.Stdout, cmd.Stderr = o, o
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &Child{cmd: cmd, output: o, patience: patience, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended shows in its output
		close(c.done)
	}()
	return c, nil
}

// PID is its process id, also after its end.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Ended tells whether it has ended.
func (c *Child) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Await returns once ok holds, or an error with the program's words when that is
// not soon, or never: the program has ended.
func (c *Child) Await(what string, ok func() bool) error {
	deadline := time.Now().Add(c.patience)
	for !ok() {
		select {
		case <-c.done:
			return fmt.Errorf("it ended at once and said:\n%s", c.output)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s; it said:\n%s", what, c.patience, c.output)
		}
	}
	return nil
}

// Signal sends it a signal; it may have ended already.
func (c *Child) Signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

// Kill ends it at once, cutting what is in flight.
func (c *Child) Kill() {
	c.Signal(syscall.SIGKILL)
	<-c.done
}

// Wait waits for its end for as long as it has patience, and then kills it.
func (c *Child) Wait() {
	select {
	case <-c.done:
	case <-time.After(c.patience):
		c.Kill()
	}
}

// Output keeps the beginning of what a program writes.
type Output struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kept.Len() < 64<<10 {
		o.kept.Write(b)
	}
	return len(b), nil
}

// String is what was kept.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept.String()
}

// TB is the part of [testing.TB] that a test's programs need; programs of ours
// that are no tests bring their own.
type TB interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// ForTest launches a program for a test and stops it when the test ends. Where it
// is missing, the test is skipped with the name of the Debian package to install.
func ForTest[P interface{ Stop() }](tb TB, launch func() (P, error), debian string) P {
	tb.Helper()
	p, err := launch()
	if gone := new(missing); errors.As(err, &gone) {
		tb.Skipf("%v; install the %s package to run this test", err, debian)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(p.Stop)
	return p
}
