// Command table rolls a fleet behind every balancer that there is a package for,
// one deploy and one rollback each, while clients send requests all the time. It
// prints what the clients noticed, and fails if a request failed in a way that
// is not documented of the balancer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "post-receive" {
		exit(fleet.PostReceive(os.Args[2:], os.Stdin))
	}
	bin := flag.String("bin", "build", "`directory` of deploy-coordinator, deploy-agent, and deployctl")
	only := flag.String("only", "", "only the rows whose name has this `text`, such as hetzner")
	atOnce := flag.Int("at-once", 5, "how many fleets run at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, *bin, *only, *atOnce))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "table: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// timeLimit ends a row that hangs.
const timeLimit = 5 * time.Minute

func run(ctx context.Context, bin, only string, atOnce int) error {
	var rows []*row
	for _, k := range fleet.Kinds {
		if strings.Contains(k.Name, only) {
			rows = append(rows, &row{kind: k})
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("no row has %q in its name", only)
	}
	began := time.Now()
	turns := make(chan struct{}, max(1, atOnce))
	var wg sync.WaitGroup
	for _, r := range slices.Backward(rows) { // the clouds take longest
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			limited, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("not done in %s", timeLimit))
			defer cancel()
			r.err = r.measure(limited, bin)
			fmt.Printf("%s: %s\n", r.kind.Name, r.word())
		})
	}
	wg.Wait()
	print(rows)
	fmt.Printf("\nThe table took %s.\n", time.Since(began).Round(time.Second))
	var errs []error
	for _, r := range rows {
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.kind.Name, r.err))
		}
	}
	return errors.Join(errs...)
}
