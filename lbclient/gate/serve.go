package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// firstInherited is the first file that systemd passes.
const firstInherited = 3

// stopTimeout bounds how long the polls under way are answered after the end.
const stopTimeout = 5 * time.Second

// Inherited returns the listener that systemd passed under a name
// ("FileDescriptorName=" of the socket unit), or nil if it passed none. Polls
// that come while the gate restarts wait in such a socket and are answered
// then, so that a restart takes nobody out.
func Inherited(name string) (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	return inherited(name, os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"), firstInherited)
}

func inherited(name, count, names string, first int) (net.Listener, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("cannot use the sockets that systemd passed: LISTEN_FDS is %q, want a number", count)
	}
	for i, has := range strings.Split(names, ":") {
		if i >= n || has != name {
			continue
		}
		f := os.NewFile(uintptr(first+i), name)
		l, err := net.FileListener(f) // which has a file of its own
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("cannot use the socket %q that systemd passed: %w", name, err)
		}
		return l, nil
	}
	return nil, nil
}

// Serve answers with h on l until ctx ends, finishes what is under way, and
// closes l. The handler is a [*Gate], or a mux of the gates of several targets.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h,
		// Strangers may connect too.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("cannot serve the gate on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := s.Shutdown(stop)
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	if err != nil {
		return fmt.Errorf("cannot stop the gate on %s in %s: %w", l.Addr(), stopTimeout, err)
	}
	return nil
}
