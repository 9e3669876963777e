// Command deploy-agent works on one node for the coordinator: it prepares
// releases, activates them when it is the node's turn, and reports.
//
// "deploy-agent gate" is a process beside it: the health gates of the node, for
// balancers that check them.
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
	args := os.Args[1:]
	gate := len(args) > 0 && args[0] == "gate"
	flags := flag.NewFlagSet("deploy-agent", flag.ExitOnError)
	if gate {
		args = args[1:]
		flags.Init("deploy-agent gate", flag.ExitOnError)
	}
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: deploy-agent [gate] [flags]\n\nWith gate it serves the health gates of the node, for balancers that check them,\nand nothing else. Flags:\n")
		flags.PrintDefaults()
	}
	file := flags.String("config", "/etc/lockstep/agent.yaml", "configuration `file`")
	check := flags.Bool("check", false, "check the configuration and exit")
	format := flags.String("log-format", "text", "text or json")
	level := flags.String("log-level", "info", "debug, info, warn, or error")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return err // never: it exits by itself
	}
	if *version {
		fmt.Println(daemon.Version())
		return nil
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; `deploy-agent -h` shows what there is", flags.Arg(0))
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
	if gate {
		ctx, stop := daemon.Context()
		defer stop()
		return agent.RunGate(ctx, config, log, daemon.Ready)
	}
	// It shares the machine with what it deploys: memory matters more than the
	// little garbage it makes.
	debug.SetGCPercent(50)
	ctx, stop := daemon.Context()
	defer stop()
	return agent.Run(ctx, config, daemon.Version(), log, daemon.Ready)
}
