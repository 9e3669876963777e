// Command deploy-coordinator receives pushes and walks a fleet through each
// release.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/lockstep-deploy/lockstep/cmd/internal/daemon"
	"github.com/lockstep-deploy/lockstep/coordinator"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "deploy-coordinator: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	config := flag.String("config", "/etc/lockstep/fleet.yaml", "fleet `file`")
	format := flag.String("log-format", "text", "text or json")
	level := flag.String("log-level", "info", "debug, info, warn, or error")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println(daemon.Version())
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; `deploy-coordinator -h` shows what there is", flag.Arg(0))
	}
	log, err := daemon.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	ln, err := daemon.Listener()
	if err != nil {
		return err
	}
	ctx, stop := daemon.Context()
	defer stop()
	return coordinator.Run(ctx, coordinator.Options{
		Config: *config, Version: daemon.Version(), Log: log, Listener: ln,
		Ready: func(net.Addr) { daemon.Ready() },
	})
}
