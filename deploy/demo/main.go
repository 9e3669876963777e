// Command demo runs a whole fleet on this machine and deploys to it: three
// agents with a systemd user manager each, a balancer, a coordinator,
// and a git remote whose hook sends signed pushes. It pushes a version, a better one,
// and a bad one, then rolls back, while clients send requests all the time. It
// fails if one of them fails or a target ends on the wrong version.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "post-receive" {
		exit(fleet.PostReceive(os.Args[2:], os.Stdin))
	}
	keep := flag.Bool("keep", false, "leave the fleet running at the end, until Ctrl-C")
	kill := flag.String("kill", "", "kill -9 the `coordinator` or `agent` in the middle of the second rollout")
	via := flag.String("via", "agent", "who speaks to the balancer: `agent or coordinator`")
	balancer := flag.String("balancer", "haproxy", "`what` the nodes are behind: "+strings.Join(names(), ", "))
	bin := flag.String("bin", "build", "`directory` of deploy-coordinator, deploy-agent, and deployctl")
	flag.Parse()
	if *kill != "" && *kill != "coordinator" && *kill != "agent" {
		exit(fmt.Errorf("cannot kill %q: expected coordinator or agent", *kill))
	}
	if *via != "agent" && *via != "coordinator" {
		exit(fmt.Errorf("cannot speak to the balancer via %q: expected agent or coordinator", *via))
	}
	if _, err := fleet.KindOf(*balancer); err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, fleet.Options{Bin: *bin, Soak: time.Second, CheckEvery: 200 * time.Millisecond, Balancer: *balancer, Via: *via}, *kill, *keep))
}

// names are what -balancer takes.
func names() []string {
	var all []string
	for _, k := range fleet.Kinds {
		all = append(all, k.Name)
	}
	return all
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// timeLimit ends a demonstration that hangs; it takes about a minute.
const timeLimit = 5 * time.Minute

func run(ctx context.Context, o fleet.Options, kill string, keep bool) (err error) {
	began := time.Now()
	f, err := fleet.New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Stop()) }()
	limited, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("not done in %s", timeLimit))
	defer cancel()
	say("Starting %s, a git remote, a coordinator, and three nodes, all on loopback.", f.Kind.Product)
	if err := f.Start(limited); err != nil {
		return err
	}
	fmt.Printf("%s answers on http://%s, the coordinator on http://%s; everything is in %s\n", f.Kind.Product, f.Address(), f.Coordinator, f.Dir)
	if err := story(limited, f, kill); err != nil {
		return errors.Join(err, f.Logs())
	}
	fmt.Printf("\nThe demonstration took %s.\n", time.Since(began).Round(time.Second))
	if keep {
		explain(f, o.Bin)
		<-ctx.Done()
	}
	return nil
}

// story is what the demonstration shows.
func story(ctx context.Context, f *fleet.Fleet, kill string) error {
	say("1. The first version is pushed. Nothing serves yet; one target after the other comes up.")
	if err := push(ctx, f, "v1", true); err != nil {
		return err
	}
	if err := f.Follow(ctx, "hello-1", "succeeded"); err != nil {
		return err
	}

	loading, quiet := context.WithCancel(ctx)
	clients := f.Load(loading, 10*time.Millisecond)
	defer func() { quiet(); clients.Wait() }()
	watch := f.Watch(loading)

	say("2. A second version is pushed, while clients send requests through %s.", f.Kind.Product)
	if err := push(ctx, f, "v2", true); err != nil {
		return err
	}
	if kill != "" {
		if err := f.KillDuring(ctx, kill, "hello-2"); err != nil {
			return err
		}
	}
	if err := f.Follow(ctx, "hello-2", "succeeded"); err != nil {
		return err
	}

	say("3. A third version starts, but is not healthy. It is rolled back by itself.")
	if err := push(ctx, f, "v3", false); err != nil {
		return err
	}
	if err := f.Follow(ctx, "hello-3", "rolled_back"); err != nil {
		return err
	}

	say("4. Somebody runs `deployctl rollback hello`: back to the first version, without a build.")
	if err := f.Deployctl(ctx, os.Stdout, "rollback", "hello", "--by", "demo"); err != nil {
		return err
	}

	say("5. `deployctl status`:")
	if err := f.Deployctl(ctx, os.Stdout, "status"); err != nil {
		return err
	}
	quiet()
	clients.Wait()
	if err := watch.Wait(); err != nil {
		return fmt.Errorf("cannot watch %s: %w", f.Kind.Product, err)
	}
	return summary(ctx, f, clients.Result(), watch, "v1")
}

func push(ctx context.Context, f *fleet.Fleet, version string, healthy bool) error {
	fmt.Printf("$ git push origin main    # hello %s\n", version)
	return f.Push(ctx, version, healthy)
}

func explain(f *fleet.Fleet, bin string) {
	fmt.Printf(`
The fleet keeps running until Ctrl-C. In another terminal:

  export LOCKSTEP_COORDINATOR=http://%s LOCKSTEP_TOKEN_FILE=%s/admin-token PATH=%s:$PATH
  deployctl status
  git clone %s/hello.git /tmp/hello && cd /tmp/hello
  sed -i 's/version = ".*"/version = "v4"/' main.go && git commit -qam v4 && git push
  deployctl show --follow hello-5
  curl http://%s/
`, f.Coordinator, f.Dir, bin, f.Dir, f.Address())
}

func say(format string, a ...any) { fmt.Printf("\n== "+format+"\n", a...) }
