// Command deploy-agent works on one node for the coordinator: it prepares
// releases, activates them when it is the node's turn, and reports.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/cmd/internal/daemon"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "deploy-agent: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	file := flag.String("config", "/etc/lockstep/agent.yaml", "configuration `file`")
	check := flag.Bool("check", false, "check the configuration and exit")
	format := flag.String("log-format", "text", "text or json")
	level := flag.String("log-level", "info", "debug, info, warn, or error")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println(daemon.Version())
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; `deploy-agent -h` shows what there is", flag.Arg(0))
	}
	config, err := agent.LoadConfig(*file)
	if err != nil {
		return err
	}
	if *check {
		if _, err := config.Token(); err != nil {
			return err
		}
		fmt.Printf("%s is in order: node %s, coordinator %s\n", *file, config.Name, config.Coordinator)
		return nil
	}
	log, err := daemon.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	// It shares the machine with what it deploys: memory matters more than the
	// little garbage it makes.
	debug.SetGCPercent(50)
	ctx, stop := daemon.Context()
	defer stop()
	return agent.Run(ctx, config, daemon.Version(), log, daemon.Ready)
}
