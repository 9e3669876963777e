package filelock_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/internal/filelock"
)

func TestOneHoldsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := filelock.Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	var held *filelock.HeldError
	if _, err := filelock.Acquire(path); !errors.As(err, &held) || held.PID != strconv.Itoa(os.Getpid()) {
		t.Errorf("a second one got it: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	l, err = filelock.Acquire(path)
	if err != nil {
		t.Fatalf("it was released: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// A holder that is killed leaves the lock to a child that it was just forking.
func TestAChildThatIsNotThereYetIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "0.2")
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := filelock.Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Release(), child.Wait()); err != nil {
		t.Error(err)
	}
}
