// Package daemon is what the coordinator's and the agent's commands share: the
// log, the signals that stop them, and their word to the service manager.
package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
)

// version is set at link time for released builds.
var version string

// Version is the version of this build: as it was released, or the module's or
// the commit's.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

// Logger returns a log that writes to w: as text, or as JSON, one object a line.
func Logger(w io.Writer, format, level string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("cannot use log level %q: expected debug, info, warn, or error", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("cannot use log format %q: expected text or json", format)
}

// Context returns a context that ends at the first SIGTERM or SIGINT, after
// telling the service manager. A second one ends the process at once: what
// must survive that is on disk already. Call stop when the work is done.
func Context() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-done:
			return
		case <-signals:
		}
		notify(sd.SdNotifyStopping)
		cancel()
		select {
		case <-done:
		case s := <-signals:
			fmt.Fprintf(os.Stderr, "%v again: ending at once\n", s)
			os.Exit(1)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
	}
}

// Ready tells the service manager that the start is over.
func Ready() { notify(sd.SdNotifyReady) }

// notify is without effect where no service manager listens, and there is
// nobody to tell when one cannot be reached.
func notify(state string) { _, _ = sd.SdNotify(false, state) }

// Listener returns the socket that the service manager passed, or nil when it
// passed none.
func Listener() (net.Listener, error) {
	ls, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("cannot use the sockets that systemd passed: %w", err)
	}
	switch len(ls) {
	case 0:
		return nil, nil
	case 1:
		return ls[0], nil
	}
	return nil, fmt.Errorf("cannot choose among %d sockets that systemd passed: the .socket unit must name one", len(ls))
}
