// Package filelock keeps a second process from what one works with.
package filelock

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Lock is held until it is released or the process ends, however it ends.
type Lock struct{ f *os.File }

// HeldError is the error of [Acquire] where another holds the lock.
type HeldError struct {
	PID string // of the one that holds it, "" if unknown
}

func (e *HeldError) Error() string {
	if e.PID == "" {
		return "another process holds the lock"
	}
	return fmt.Sprintf("process %s holds the lock", e.PID)
}

const (
	// A child that is between fork and exec as its parent is killed has a copy of the
	// file, and with it the lock, until it gets there.
	patience = 2 * time.Second
	often    = 10 * time.Millisecond
)

// Acquire takes the lock that the file at path stands for, which is made if need
// be, for its owner alone. One that is held is waited for a little, in case that
// its holder has just ended; then the error is a [*HeldError].
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = lock(f)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &HeldError{PID: holder(f)}
	}
	if err == nil {
		// For the one who is refused; the lock holds without it.
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintln(f, os.Getpid())
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f}, nil
}

func lock(f *os.File) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(often) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		again := errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR)
		if !again || time.Now().After(deadline) {
			return err
		}
	}
}

// Release gives the lock free. It says so to the kernel: merely closed, the lock
// would last as long as a child that is being forked holds a copy of the file.
func (l *Lock) Release() error {
	return errors.Join(unix.Flock(int(l.f.Fd()), unix.LOCK_UN), l.f.Close())
}

// holder is the number that the process left which holds the lock.
func holder(f *os.File) string {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	return strings.TrimSpace(string(buf[:n]))
}
