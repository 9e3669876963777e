// Command deployctl is the operator's view of a Lockstep coordinator: what runs
// where, what a deploy would do, and the means to start, watch, and stop one.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set when a release is linked.
var version = "dev"

func main() {
	os.Exit(start())
}

func start() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once, should detaching ever hang.
	context.AfterFunc(ctx, stop)

	c := &cli{
		stdout:     os.Stdout,
		stderr:     os.Stderr,
		getenv:     os.Getenv,
		now:        time.Now,
		tick:       time.Second,
		retryPause: time.Second,
	}
	if t := stdoutTerminal(); t != nil {
		c.term = t
	}
	return c.run(ctx, os.Args[1:])
}
