package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// window is how long the app's answers are timed each time.
const window = 10 * time.Second

// What a build that eats everything and its bench tell each other by files.
const (
	begunName  = "begun"
	enoughName = "enough"
)

// beside measures how fast an app answers that serves beside a greedy build: with
// no build, with one that runs as Lockstep has builds run, and with the same
// started by hand, in turn.
func (b *bench) beside(ctx context.Context, rounds int) error {
	if _, err := exec.LookPath("chrt"); err != nil {
		return fmt.Errorf("chrt (util-linux) is needed to time answers on a busy machine: %w", err)
	}
	size, err := greed()
	if err != nil {
		return err
	}
	var alone, held, loose []time.Duration
	for range rounds {
		for _, m := range []struct {
			p99  *[]time.Duration
			time func(context.Context) (time.Duration, error)
		}{{&alone, b.timed}, {&held, b.besideBuild}, {&loose, b.besideLoose}} {
			d, err := m.time(ctx)
			if err != nil {
				return err
			}
			*m.p99 = append(*m.p99, d)
		}
	}
	ratio := func(ds []time.Duration) float64 { return float64(middle(ds)) / float64(middle(alone)) }
	fmt.Printf("p99 of an app at %d requests a second (medians of %d): %s without a build; beside one that eats every CPU and %d MB %s held in: %.1f x, %s let loose: %.1f x\n",
		perSecond, rounds, short(middle(alone)), size>>20, short(middle(held)), ratio(held), short(middle(loose)), ratio(loose))
	return b.tellHeld(ctx)
}

// besideBuild times the app while a rollout builds on its node.
func (b *bench) besideBuild(ctx context.Context) (p99 time.Duration, err error) {
	dir := b.f.Cache(b.f.Nodes[0])
	if err := copyself(filepath.Join(dir, "eat")); err != nil {
		return 0, err
	}
	if err := b.f.Before(`exec "$LOCKSTEP_CACHE/eat" eat "$LOCKSTEP_CACHE"`, b.f.Nodes[0]); err != nil {
		return 0, err
	}
	rolled := make(chan error, 1)
	go func() {
		_, err := b.roll(ctx)
		rolled <- err
	}()
	p99, err = b.whileEating(ctx, dir)
	return p99, errors.Join(err, <-rolled, b.f.Before("", b.f.Nodes[0]))
}

// besideLoose times it while the same program runs as anything does that is
// started over ssh.
func (b *bench) besideLoose(ctx context.Context) (p99 time.Duration, err error) {
	dir, err := os.MkdirTemp("", "bench-eat")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := exec.CommandContext(ctx, "/proc/self/exe", "eat", dir)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return 0, err
	}
	p99, err = b.whileEating(ctx, dir)
	return p99, errors.Join(err, c.Wait())
}

// whileEating times the app from when the program in dir has begun, and ends that.
func (b *bench) whileEating(ctx context.Context, dir string) (p99 time.Duration, err error) {
	begun, enough := filepath.Join(dir, begunName), filepath.Join(dir, enoughName)
	for _, name := range []string{begun, enough} {
		if err := os.RemoveAll(name); err != nil {
			return 0, err
		}
	}
	defer func() { err = errors.Join(err, os.WriteFile(enough, nil, 0o644)) }()
	ctx, cancel := context.WithTimeoutCause(ctx, eatTimeout, errors.New("the greedy build did not begin"))
	defer cancel()
	for {
		if _, err := os.Stat(begun); err == nil {
			return b.timed(ctx)
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// timed times the first node's app. What sends the requests goes before everything
// else on the machine, so that its own waits are not taken for the app's.
func (b *bench) timed(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, window+time.Minute)
	defer cancel()
	self, err := os.Executable() // /proc/self/exe would be chrt
	if err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, "chrt", "--rr", "1", self, "load", strings.TrimSuffix(strings.TrimPrefix(b.f.Health(0), "http://"), "/healthz"))
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("cannot time the app: %w", err)
	}
	var t timing
	if err := json.Unmarshal(out, &t); err != nil {
		return 0, fmt.Errorf("cannot time the app: %w", err)
	}
	return t.P99, nil
}

// tellHeld prints how builds are held in on the machine that all this ran on.
func (b *bench) tellHeld(ctx context.Context) error {
	var out bytes.Buffer
	found := b.f.Deployctl(ctx, &out, "doctor", "--json") // an error also when it finds something
	var d api.Doctor
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		return errors.Join(found, err)
	}
	for _, c := range d.Checks {
		if c.Area == "build" && c.Subject == b.f.Nodes[0] {
			fmt.Printf("of this machine doctor says: %s\n", c.Text)
		}
	}
	return nil
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// copyself puts this program where a build finds it.
func copyself(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
