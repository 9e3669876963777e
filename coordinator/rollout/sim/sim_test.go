package sim

import (
	"errors"
	"flag"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

const defaultSeeds = 2000

var (
	seeds    = flag.Uint64("sim.seeds", defaultSeeds, "how many seeds to run")
	from     = flag.Uint64("sim.from", 1, "the first seed")
	one      = flag.Uint64("sim.seed", 0, "run this seed alone, and print what happens")
	shrink   = flag.Bool("sim.shrink", true, "look for the smallest script that fails")
	failures = flag.Int("sim.failures", 1, "stop after so many seeds that fail")
)

// TestSeeds plays made worlds, and shrinks the first that breaks a promise.
func TestSeeds(t *testing.T) {
	if *one != 0 {
		p := NewPlan(*one)
		t.Log(p.String())
		if _, err := Run(p, func(s string) { t.Log(s) }); err != nil {
			t.Fatal(err)
		}
		return
	}
	var (
		next    = atomic.Uint64{}
		mu      sync.Mutex
		wg      sync.WaitGroup
		all     = Stats{Statuses: map[rollout.Status]int{}}
		ran     int
		broken  []Plan
		because []*Violation
		begin   = time.Now()
	)
	next.Store(*from)
	if raceEnabled && *seeds == defaultSeeds {
		*seeds = defaultSeeds / 10 // the race detector has little to find here: no goroutine is shared
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				mu.Lock()
				enough := len(broken) >= *failures
				mu.Unlock()
				if seed >= *from+*seeds || enough {
					return
				}
				p := NewPlan(seed)
				stats, err := Run(p, nil)
				mu.Lock()
				ran++
				all.Steps += stats.Steps
				all.Turns += stats.Turns
				all.Rollouts += stats.Rollouts
				for s, n := range stats.Statuses {
					all.Statuses[s] += n
				}
				var v *Violation
				if errors.As(err, &v) {
					broken, because = append(broken, p), append(because, v)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	t.Logf("%d schedules in %s: %.0f a second; %d steps, %d turns, %d rollouts %v",
		ran, took.Round(time.Millisecond), float64(ran)/took.Seconds(), all.Steps, all.Turns, all.Rollouts, all.Statuses)
	for i, p := range broken {
		if !*shrink {
			t.Errorf("seed %d: %s", p.Seed, because[i])
			continue
		}
		small, v := Shrink(p, because[i], 300)
		var b strings.Builder
		_, _ = Run(small, func(s string) { b.WriteString(s + "\n") })
		if i == 0 {
			t.Errorf("%s\n\nthe smallest script that fails so:\n%s\n%s\nrun the whole seed with -sim.seed=%d", v, small, b.String(), p.Seed)
		} else {
			t.Errorf("%s\n%s", v, small)
		}
	}
}
