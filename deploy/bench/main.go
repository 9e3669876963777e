// Command bench measures what Lockstep adds to a rollout, side by side with a
// bare shell loop on the same HAProxy, the same units, and the same health
// policy, in one run. It prints ratios, because the machine decides the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "post-receive":
			exit(fleet.PostReceive(os.Args[2:], os.Stdin))
		case "eat":
			exit(eat(os.Args[2]))
		case "load":
			exit(load(os.Args[2]))
		}
	}
	bin := flag.String("bin", "build", "`directory` of the built programs")
	rounds := flag.Int("rounds", 3, "rollouts of each kind")
	long := flag.Duration("build", time.Minute, "how `long` a slow build takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, *bin, *rounds, *long))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, bin string, rounds int, long time.Duration) (err error) {
	f, err := fleet.New(fleet.Options{Bin: bin, Soak: 10 * time.Millisecond, CheckEvery: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Stop()) }()
	if err := f.Start(ctx); err != nil {
		return errors.Join(err, f.Logs())
	}
	b := &bench{f: f}
	if _, err := b.roll(ctx); err != nil {
		return errors.Join(err, f.Logs())
	}
	var ours, slow, bare, added []time.Duration
	for range rounds {
		watch, late, err := b.watched(ctx)
		if err != nil {
			return errors.Join(err, f.Logs())
		}
		ours, added = append(ours, spans(watch)...), append(added, late(watch))

		if watch, err = b.watchedSlow(ctx, long); err != nil {
			return errors.Join(err, f.Logs())
		}
		slow = append(slow, spans(watch)...)

		watching, stop := context.WithCancel(ctx)
		watch = f.Watch(watching)
		err = shellLoop(ctx, f)
		stop()
		if err := errors.Join(err, watch.Wait()); err != nil {
			return err
		}
		bare = append(bare, spans(watch)...)
	}
	fmt.Printf("out of rotation, of a target: lockstep %s, shell loop %s (medians of %d and %d): %.2f x\n",
		median(ours), median(bare), len(ours), len(bare), float64(median(ours))/float64(median(bare)))
	fmt.Printf("out of rotation, of a target: %s with a build that takes %s, %s with a short one (medians of %d and %d): %.2f x\n",
		median(slow), long, median(ours), len(slow), len(ours), float64(median(slow))/float64(median(ours)))
	fmt.Printf("push received to first drain, less preparing: %s (median of %d; goal at most 250ms)\n", median(added), len(added))
	if err := b.beside(ctx, rounds); err != nil {
		return errors.Join(err, f.Logs())
	}
	return memory(ctx, f)
}

// bench is a fleet with what was rolled out on it so far.
type bench struct {
	f      *fleet.Fleet
	number int
}

// watched rolls a version out, and watches the balancer meanwhile.
func (b *bench) watched(ctx context.Context) (*fleet.Rotation, func(*fleet.Rotation) time.Duration, error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watch := b.f.Watch(watching)
	late, err := b.roll(ctx)
	stop()
	return watch, late, errors.Join(err, watch.Wait())
}

// watchedSlow is watched with a build that takes long on every node.
func (b *bench) watchedSlow(ctx context.Context, long time.Duration) (_ *fleet.Rotation, err error) {
	if err := b.f.Before(fmt.Sprintf("exec sleep %f", long.Seconds()), b.f.Nodes...); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.f.Before("", b.f.Nodes...)) }()
	began := time.Now()
	watch, _, err := b.watched(ctx)
	if took := time.Since(began); err == nil && took < long {
		return nil, fmt.Errorf("a rollout with a build of %s took %s: the build was left out", long, took)
	}
	return watch, err
}

// roll pushes a version and waits for its rollout. The function that it returns
// tells how long it took from the push to the first drain, less preparing.
func (b *bench) roll(ctx context.Context) (func(*fleet.Rotation) time.Duration, error) {
	b.number++
	f, number := b.f, b.number
	id := fmt.Sprintf("hello-%d", number)
	pushed := time.Now()
	if err := f.Push(ctx, fmt.Sprintf("bench %d", number), true); err != nil {
		return nil, err
	}
	events, err := f.Timeline(ctx, id, "succeeded")
	if err != nil {
		return nil, err
	}
	var received, asked, prepared time.Time
	for _, e := range events {
		switch {
		case e.Kind == "requested":
			received = e.At
		case e.Kind == "status" && e.Text == "preparing":
			asked = e.At
		case e.Kind == "prepared":
			prepared = e.At
		}
	}
	// What git and its hook took before the delivery is not the coordinator's;
	// the hook notes when it sent it.
	if sent, err := f.Delivered(); err == nil && sent.After(pushed) && sent.Before(received) {
		pushed = sent
	}
	return func(r *fleet.Rotation) time.Duration {
		return r.First.Sub(pushed) - prepared.Sub(asked)
	}, nil
}

func spans(r *fleet.Rotation) []time.Duration {
	var all []time.Duration
	for _, each := range r.Spans {
		all = append(all, each...)
	}
	return all
}

func median(ds []time.Duration) time.Duration { return middle(ds).Round(time.Millisecond) }

func middle(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(ds))[len(ds)/2]
}

// loop is the floor: what anybody would write, with nothing to fall back on.
const loop = `
set -eu
say() { printf '%s\n' "$1" | socat - "UNIX-CONNECT:$SOCKET"; }
say "set server web/$NODE state drain" >/dev/null
until say "show stat" | awk -F, -v n="$NODE" '$1 == "web" && $2 == n { exit !($5 == 0) }'; do sleep 0.02; done
ln -sfn "$(readlink "$APP/current")" "$APP/current.tmp"
mv -T "$APP/current.tmp" "$APP/current"
nsenter -t "$MANAGER" -m env XDG_RUNTIME_DIR="$RUNTIME" systemctl --user restart hello.service
passes=0
while [ $passes -lt 3 ]; do
  if curl -sf -o /dev/null "$HEALTH"; then passes=$((passes + 1)); else passes=0; fi
  [ $passes -ge 3 ] || sleep 0.2
done
say "set server web/$NODE state ready" >/dev/null
until say "show stat" | awk -F, -v n="$NODE" '$1 == "web" && $2 == n { exit !($18 == "UP") }'; do sleep 0.02; done
`

// shellLoop restarts every target in turn, as a script would.
func shellLoop(ctx context.Context, f *fleet.Fleet) error {
	for i, n := range f.Nodes {
		c := exec.CommandContext(ctx, "bash", "-c", loop)
		c.Env = append(os.Environ(),
			"SOCKET="+strings.TrimPrefix(f.Proxies[0].Endpoint(), "unix://"), "NODE="+n, "APP="+f.AppDir(n), "HEALTH="+f.Health(i),
			fmt.Sprintf("MANAGER=%d", f.Managers[i].PID), "RUNTIME="+f.Managers[i].RuntimeDir)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("the shell loop on %s: %w: %s", n, err, out)
		}
	}
	return nil
}

// memory prints what the daemons hold once they have nothing to do.
func memory(ctx context.Context, f *fleet.Fleet) error {
	const idle = 30 * time.Second
	fmt.Printf("waiting %s for the daemons to be idle\n", idle)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(idle):
	}
	for _, d := range []struct {
		name string
		goal float64
	}{{f.Nodes[0], 25}, {"coordinator", 40}} {
		mb, err := f.Resident(d.name)
		if err != nil {
			return err
		}
		what := "agent"
		if d.name == "coordinator" {
			what = d.name
		}
		fmt.Printf("resident memory of an idle %s: %.1f MB (goal at most %.0f)\n", what, mb, d.goal)
	}
	return nil
}
