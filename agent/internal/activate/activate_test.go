package activate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// run works on one turn, starting a new process whenever one dies or stops, and
// returns the world and every promise that was broken.
func run(t *testing.T, s scenario, arrange func(*world), stopAfter ...time.Duration) (w *world) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(s)
		if arrange != nil {
			arrange(w)
		}
		w.begin(1)
		revoked := make(chan struct{})
		if s.RevokeAt > 0 {
			timer := time.AfterFunc(s.RevokeAt, func() { close(revoked) })
			defer timer.Stop()
		}
		for n := 0; ; n++ {
			if n > 40 {
				w.violate("the turn did not end after %d processes", n)
				break
			}
			stop, cancel := context.WithCancel(t.Context())
			if n < len(stopAfter) {
				stop, cancel = context.WithTimeout(t.Context(), stopAfter[n])
			}
			begun := time.Now()
			err, died := w.process(n == 0, stop, t.Context(), revoked)
			if stop.Err() != nil && n < len(stopAfter) && time.Since(begun) > stopAfter[n]+callLimit {
				w.violate("stopping took %s", time.Since(begun)-stopAfter[n])
			}
			cancel()
			if err == nil && !died {
				break
			}
			if err != nil && !errors.Is(err, activate.ErrStopped) {
				w.violate("the turn ended with an error: %v", err)
				break
			}
			time.Sleep(100 * time.Millisecond) // systemd starts the agent again
		}
		if w.falls {
			time.Sleep(time.Second) // what it boots with comes up
		}
		w.judge()
	})
	return w
}

// callLimit is what one operation of the made world may take at most.
const callLimit = 2 * time.Second

// judge compares how the world ended with what the outcome says of it.
func (w *world) judge() {
	if len(w.results) != 1 {
		w.violate("%d outcomes were journaled, want 1", len(w.results))
		return
	}
	o := w.results[0]
	// One that crashes every now and then may have done so just after the last look.
	serving := w.serving() || w.release().DiesIn > 0 && !w.drained
	switch {
	case o.OK && (o.Reverted || o.Reason != ""):
		w.violate("an outcome says both well and not: %+v", o)
	case o.OK && (w.running != goal || w.current != goal || !serving):
		w.violate("the outcome is well, but %q runs, %q is current, serving: %v", w.running, w.current, w.serving())
	case o.Reverted && (w.running != fallback || w.current != fallback || !serving):
		w.violate("the outcome is reverted, but %q runs, %q is current, serving: %v", w.running, w.current, w.serving())
	case !o.OK && (o.Reason == "" || o.Text == ""):
		w.violate("a failure without reason or text: %+v", o)
	case !o.OK && !o.Reverted && w.drained && w.held == nil:
		w.violate("left out of rotation without a record of how to put it back")
	case !w.drained && w.held != nil && o.OK:
		w.violate("in rotation, and a record says that it is held out")
	}
	if w.restarts > 0 && !w.drained && w.running == goal && !o.OK && w.release().Sick {
		w.violate("a release that never was healthy was left in rotation")
	}
	if o.Turn != 1 || o.Release != goal {
		w.violate("the outcome is of turn %d, release %s", o.Turn, o.Release)
	}
}

func healthyApps() map[string]app {
	return map[string]app{fallback: {}, goal: {Boot: 300 * time.Millisecond}}
}

func with(a app) map[string]app { return map[string]app{fallback: {}, goal: a} }

func base(apps map[string]app) scenario {
	return scenario{Apps: apps, Fallback: fallback, Others: 2, MinHealthy: 1, Soak: 2 * time.Second, OnTimeout: "abort"}
}

func change(s scenario, f func(*scenario)) scenario { f(&s); return s }

type expectation struct {
	s        scenario
	ok       bool
	reverted bool
	reason   api.Reason
	restarts int
	reloads  int
	text     string
	note     string // of the drain, in the timeline
}

func stories() map[string]expectation {
	good := base(healthyApps())
	all := map[string]expectation{
		"a good release": {s: good, ok: true, restarts: 1},
		"a release already in place": {
			s: change(good, func(s *scenario) { s.Apps = with(app{}) }), ok: true, restarts: 1},
		"a first deployment": {
			s: change(good, func(s *scenario) { s.First, s.Fallback = true, "" }), ok: true, restarts: 1},
		"a first deployment that is sick": {
			s:      change(base(with(app{Sick: true})), func(s *scenario) { s.First, s.Fallback = true, "" }),
			reason: api.ReasonUnhealthy, restarts: 1, text: "no release to go back to"},
		"a release that is checked at another path": {
			s: change(good, func(s *scenario) { s.Paths = true }), ok: true, restarts: 1},
		"an unhealthy release whose fallback is checked at another path": {
			s:        change(base(with(app{Sick: true})), func(s *scenario) { s.Paths = true }),
			reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"a release that ends in rotation, with a fallback that is checked at another path": {
			s:        change(base(with(app{DiesIn: 1500 * time.Millisecond})), func(s *scenario) { s.Paths = true }),
			reverted: true, reason: api.ReasonSoakFailed, restarts: 2},
		"an unhealthy release": {
			s: base(with(app{Sick: true})), reverted: true, reason: api.ReasonUnhealthy, restarts: 2, text: "connection refused"},
		"a release that does not start": {
			s: base(with(app{NoStart: true})), reverted: true, reason: api.ReasonStartFailed, restarts: 2},
		"a release that crashes at once": {
			s: base(with(app{DiesIn: 100 * time.Millisecond, Boot: time.Second})), reverted: true, reason: api.ReasonStartFailed, restarts: 2},
		"a release that crashes in rotation": {
			s: base(with(app{DiesIn: 1500 * time.Millisecond})), reverted: true, reason: api.ReasonSoakFailed, restarts: 2},
		"a unit that runs something else": {
			s: base(with(app{Strays: true})), reverted: true, reason: api.ReasonWrongRelease, restarts: 2, text: "WorkingDirectory="},
		"both releases sick": {
			s:      base(map[string]app{fallback: {Sick: true}, goal: {Sick: true}}),
			reason: api.ReasonUnhealthy, restarts: 2, text: "stays out of rotation"},
		"foreign maintenance": {
			s: change(good, func(s *scenario) { s.Refuses = true }), reverted: true, reason: api.ReasonBalancerRefused},
		"too few others": {
			s: change(good, func(s *scenario) { s.Others = 0 }), reverted: true, reason: api.ReasonBalancerRefused},
		"a drain that does not end": {
			s: change(good, func(s *scenario) { s.DrainHangs = true }), reverted: true, reason: api.ReasonBalancerFailed, text: "on_drain_timeout"},
		"a drain that does not end and is cut off": {
			s: change(good, func(s *scenario) { s.DrainHangs, s.OnTimeout = true, "proceed" }), ok: true, restarts: 1},
		"a drain that does not end and is forced": {
			s: change(good, func(s *scenario) { s.DrainHangs, s.OnTimeout, s.ForceAt = true, "force", 1 }), ok: true, restarts: 1,
			note: "after 5s (drain_timeout) what was still in flight was ended by force"},
		"a drain that takes force twice": {
			s: change(good, func(s *scenario) { s.DrainHangs, s.OnTimeout, s.ForceAt = true, "force", 2 }), ok: true, restarts: 1,
			note: "ended by force"},
		"a drain that no force ends": {
			s: change(good, func(s *scenario) { s.DrainHangs, s.OnTimeout, s.ForceAt = true, "force", 99 }), ok: true, restarts: 1,
			note: "it went on with work in flight: 1 request"},
		"a balancer that knows no force": {
			s: change(good, func(s *scenario) { s.DrainHangs, s.OnTimeout = true, "force" }), ok: true, restarts: 1,
			note: "could not be ended by force: cannot end the work by force: the balancer has no means to"},
		"a balancer that is locked for two minutes": {
			s: change(good, func(s *scenario) { s.BusyFor, s.Busy = 2*time.Minute, lbclient.ClassBusy }), ok: true, restarts: 1},
		"a balancer that is locked for long": {
			s:        change(good, func(s *scenario) { s.BusyFor, s.Busy = 6*time.Minute, lbclient.ClassBusy }),
			reverted: true, reason: api.ReasonBalancerFailed, text: "previous actions"},
		"a balancer that is away for two minutes": {
			s:        change(good, func(s *scenario) { s.BusyFor, s.Busy = 2*time.Minute, lbclient.ClassTransient }),
			reverted: true, reason: api.ReasonBalancerFailed, text: "previous actions"},
		"a balancer whose calls are used up": {
			s: change(good, func(s *scenario) { s.BusyFor, s.Busy, s.After = 3*time.Minute, lbclient.ClassRateLimited, time.Minute }), ok: true, restarts: 1},
		"a balancer whose calls are used up for an hour": {
			s:        change(good, func(s *scenario) { s.BusyFor, s.Busy, s.After = time.Minute, lbclient.ClassRateLimited, time.Hour }),
			reverted: true, reason: api.ReasonBalancerFailed, text: "previous actions"},
		"a balancer that forgets the drain": {
			s: change(good, func(s *scenario) { s.ForgetAt, s.DrainTakes = 3, time.Second }), ok: true, restarts: 1},
		"a balancer that forgets the drain right before the restart": {
			s: change(good, func(s *scenario) { s.ForgetOn = "switch" }), ok: true, restarts: 1},
		"a balancer that forgets the drain while the release boots": {
			s: change(base(with(app{Boot: 6 * time.Second})), func(s *scenario) { s.ForgetOn = "boot" }), ok: true, restarts: 1},
		"a balancer that fails now and then": {
			s: change(good, func(s *scenario) { s.Flaky = 3 }), ok: true, restarts: 1},
		"a balancer that never calls it healthy": {
			s: change(good, func(s *scenario) { s.RejoinStuck = true }), reverted: true, reason: api.ReasonRejoinTimeout, restarts: 2},
		"a switch that fails": {
			s: change(good, func(s *scenario) { s.SwitchFails = true }), reverted: true, reason: api.ReasonInternal, text: "read-only"},
		"a release that is not here": {
			s: change(good, func(s *scenario) { s.Missing = true }), reverted: true, reason: api.ReasonReleaseMissing},
		"a unit that is not allowed": {
			s: change(good, func(s *scenario) { s.Forbidden = true }), reverted: true, reason: api.ReasonUnitNotAllowed},
		"revoked while draining": {
			s:        change(good, func(s *scenario) { s.DrainTakes, s.RevokeAt = 3*time.Second, time.Second }),
			reverted: true, reason: api.ReasonRevoked},
		"revoked while verifying": {
			s:        change(base(with(app{Boot: 5 * time.Second})), func(s *scenario) { s.RevokeAt = 2 * time.Second }),
			reverted: true, reason: api.ReasonRevoked, restarts: 2},
		"revoked while soaking": {
			s:        change(good, func(s *scenario) { s.Soak, s.RevokeAt = time.Minute, 30*time.Second }),
			reverted: true, reason: api.ReasonRevoked, restarts: 2},
		"a full disk before the drain":   {s: change(good, func(s *scenario) { s.DiskFull = 1 }), reverted: true, reason: api.ReasonInternal},
		"a full disk before the restart": {s: change(good, func(s *scenario) { s.DiskFull = 3 }), reverted: true, reason: api.ReasonInternal},
		"a full disk before the rejoin":  {s: change(good, func(s *scenario) { s.DiskFull = 5 }), reverted: true, reason: api.ReasonInternal, restarts: 2},
		"a full disk at the end":         {s: change(good, func(s *scenario) { s.DiskFull = 7 }), ok: true, restarts: 1},
	}
	maps.Copy(all, unitStories())
	maps.Copy(all, hookStories())
	return all
}

func TestStories(t *testing.T) {
	for name, e := range stories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := run(t, e.s, nil)
			for _, b := range w.broken {
				t.Error(b)
			}
			if t.Failed() {
				return
			}
			o := w.results[0]
			if o.OK != e.ok || o.Reverted != e.reverted || o.Reason != e.reason {
				t.Errorf("outcome: ok %v, reverted %v, reason %q (%s); want %v, %v, %q", o.OK, o.Reverted, o.Reason, o.Text, e.ok, e.reverted, e.reason)
			}
			if w.restarts != e.restarts || w.reloads != e.reloads {
				t.Errorf("%d restarts and %d reloads, want %d and %d", w.restarts, w.reloads, e.restarts, e.reloads)
			}
			if note := drainNote(o); !strings.Contains(note, e.note) || e.note == "" && note != "" && e.s.OnTimeout != "proceed" {
				t.Errorf("the drain's note is %q, want %q", note, e.note)
			}
			if !strings.Contains(o.Text, e.text) {
				t.Errorf("text %q does not say %q", o.Text, e.text)
			}
		})
	}
}

func drainNote(o api.Outcome) string {
	for _, s := range o.Steps {
		if s.Step == api.StepDrain && !s.Undo {
			return s.Note
		}
	}
	return ""
}

// A balancer that says how long to leave it alone is left alone.
func TestRetryAfterIsHonoured(t *testing.T) {
	s := base(healthyApps())
	s.BusyFor, s.Busy, s.After = 3*time.Minute, lbclient.ClassRateLimited, time.Minute
	w := run(t, s, nil)
	// At 0, 1, 2, and 3 minutes, and the rejoin.
	if w.asks != 5 {
		t.Errorf("asked %d times for 2 changes, and it wanted to be left alone for a minute each time", w.asks)
	}
}

func TestATargetInPlaceIsNotTouched(t *testing.T) {
	w := run(t, base(healthyApps()), func(w *world) { w.running, w.current = goal, goal })
	if len(w.broken) > 0 || !w.results[0].OK {
		t.Fatalf("%+v: %v", w.results, w.broken)
	}
	if w.restarts > 0 || !w.asked.IsZero() {
		t.Errorf("%d restarts, drained at %v; want none", w.restarts, w.asked)
	}
}

// TestADeathAtEveryOperation lets the process die once at every operation of
// every story, before its effect and after it. Of looks that repeat in one step
// the first stands for the rest.
func TestADeathAtEveryOperation(t *testing.T) {
	for name, e := range stories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trace := run(t, e.s, nil).trace
			seen := map[string]int{}
			for n := 1; n <= len(trace); n++ {
				if seen[trace[n-1]]++; seen[trace[n-1]] > 1 {
					continue
				}
				for _, late := range []bool{false, true} {
					w := run(t, e.s, func(w *world) { w.dieAt[n], w.dieLate = true, late })
					for _, b := range w.broken {
						t.Errorf("death at operation %d, %s (late: %v): %s", n, trace[n-1], late, b)
					}
					if len(w.broken) > 0 {
						return
					}
					// A passing fault of the world may be spent before the death.
					if o := w.results[0]; o.OK != e.ok && e.s.DiskFull == 0 && (e.ok || e.s.BusyFor == 0) {
						t.Errorf("death at operation %d, %s (late: %v): ok %v (%s), want %v", n, trace[n-1], late, o.OK, o.Text, e.ok)
					}
				}
			}
		})
	}
}

// TestTheMachineGoesDownAtEveryOperation is of a node that restarts in the middle
// of a turn: what the boot started is proved, and not held against the release.
func TestTheMachineGoesDownAtEveryOperation(t *testing.T) {
	for _, name := range []string{
		"a good release", "a first deployment", "an unhealthy release", "a release that does not start", "a switch that fails",
		"revoked while soaking", "a release that is checked at another path", "hooks", "before_rejoin fails", "a sick release with hooks", "a hook while it is stopped", "while_stopped fails",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, ok := stories()[name]
			if !ok {
				t.Fatal("there is no such story")
			}
			trace := run(t, e.s, nil).trace
			seen := map[string]int{}
			for n := 1; n <= len(trace); n++ {
				if seen[trace[n-1]]++; seen[trace[n-1]] > 2 {
					continue
				}
				for _, late := range []bool{false, true} {
					w := run(t, e.s, func(w *world) { w.dieAt[n], w.dieLate, w.falls = true, late, true })
					for _, b := range w.broken {
						t.Errorf("down at operation %d, %s (late: %v): %s", n, trace[n-1], late, b)
					}
					if len(w.broken) > 0 {
						return
					}
					if o := w.results[0]; o.OK != e.ok || o.Reverted != e.reverted || o.Reason != e.reason {
						t.Errorf("down at operation %d, %s (late: %v): ok %v, reverted %v, reason %q (%s), want %v, %v, %q",
							n, trace[n-1], late, o.OK, o.Reverted, o.Reason, o.Text, e.ok, e.reverted, e.reason)
					}
				}
			}
		})
	}
}

func TestTheAgentStopsAtAnyInstantAndGoesOn(t *testing.T) {
	for name, e := range stories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for ms := 0; ms < 4000; ms += 410 {
				w := run(t, e.s, nil, time.Duration(ms)*time.Millisecond, 300*time.Millisecond)
				for _, b := range w.broken {
					t.Errorf("stopped after %d ms: %s", ms, b)
				}
			}
		})
	}
}

func TestALaterTurnTakesOverWhatAnEarlierOneLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(base(map[string]app{fallback: {Sick: true}, goal: {Sick: true}}))
		w.s.Apps[fallback] = app{}
		w.begin(1)
		w.s.Apps[fallback] = app{Sick: true}
		if err, _ := w.process(true, t.Context(), t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if !w.drained || w.held == nil {
			t.Fatalf("after a failed undo: drained %v, held %v", w.drained, w.held)
		}
		// Out by our own hand looks to the balancer like any other hand.
		w.s.Refuses = true
		w.s.Apps[goal] = app{}
		w.begin(2)
		if err, _ := w.process(true, t.Context(), t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if o := w.results[1]; !o.OK || !w.serving() || w.held != nil || len(w.broken) > 0 {
			t.Errorf("second turn: %+v, serving %v, held %v, broken %v", o, w.serving(), w.held, w.broken)
		}
	})
}

// TestWhatWasLeftOutIsNotPutBackUnproved is of a turn that fails before it has
// touched the app, of a target that the turn before it left out: on what that
// could not bring to health.
func TestWhatWasLeftOutIsNotPutBackUnproved(t *testing.T) {
	for name, mended := range map[string]bool{"sick": false, "mended": true} {
		for _, to := range []string{fallback, ""} {
			t.Run(name+" with fallback "+to, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(base(map[string]app{fallback: {Sick: true}, goal: {Sick: true}}))
					w.begin(1)
					if err, _ := w.process(true, t.Context(), t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					if !w.drained || w.held == nil {
						t.Fatalf("after a failed undo: drained %v, held %v", w.drained, w.held)
					}
					w.s.Apps[fallback] = app{Sick: !mended}
					w.s.Hooks, w.s.HookFails, w.s.Fallback = true, api.StepAfterDrain, to
					w.begin(2)
					if err, _ := w.process(true, t.Context(), t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					back := mended && to != ""
					if o := w.results[1]; o.OK || o.Reverted != back || w.serving() != back || w.drained == back || (w.held == nil) != back {
						t.Errorf("second turn: %+v, serving %v, drained %v, held %v", o, w.serving(), w.drained, w.held)
					}
					for _, b := range w.broken {
						t.Error(b)
					}
				})
			})
		}
	}
}

func TestTimeOutOfRotationIsNearTheFloor(t *testing.T) {
	s := base(with(app{Boot: 300 * time.Millisecond}))
	w := run(t, s, nil)
	// The restart (50 ms), the boot, and a pause between two passes.
	floor := 300*time.Millisecond + 200*time.Millisecond
	if out := w.results[0].Out.D(); out < floor || out > floor+200*time.Millisecond {
		t.Errorf("out of rotation for %s, want at most 200 ms above %s", out, floor)
	}
}

// TestNoFaultBreaksAPromise makes up worlds and lets processes die and stop in
// them anywhere.
func TestNoFaultBreaksAPromise(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ms := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
		}
		odd := func(name string) bool { return rapid.IntRange(0, 4).Draw(rt, name) == 0 }
		behaviour := func(name string) app {
			a := app{NoStart: odd(name + " does not start"), Sick: odd(name + " is sick"), Boot: ms(name+" boots", 12000), Strays: odd(name + " strays")}
			if odd(name + " dies") {
				a.DiesIn = 100*time.Millisecond + ms(name+" dies in", 6000)
			}
			return a
		}
		s := scenario{
			Apps:     map[string]app{goal: behaviour("goal"), fallback: behaviour("fallback")},
			Fallback: rapid.SampledFrom([]string{fallback, fallback, ""}).Draw(rt, "fallback"),
			Soak:     ms("soak", 5000), Others: rapid.IntRange(0, 2).Draw(rt, "others"), MinHealthy: 1,
			DrainTakes: ms("drain takes", 6000), DrainHangs: odd("drain hangs"),
			OnTimeout: rapid.SampledFrom([]string{"abort", "proceed"}).Draw(rt, "on timeout"),
			Refuses:   odd("refuses"), RejoinStuck: odd("rejoin stuck"), SwitchFails: odd("switch fails"),
			Flaky:    rapid.SampledFrom([]int{0, 0, 3, 5, 7}).Draw(rt, "flaky"),
			ForgetAt: rapid.IntRange(0, 6).Draw(rt, "forget at look"),
			ForgetOn: rapid.SampledFrom([]string{"", "", "switch", "boot"}).Draw(rt, "forget on"),
			How:      rapid.SampledFrom([]string{"", "", api.RestartReload, api.RestartStopStart}).Draw(rt, "how"),
			Paths:    odd("own paths"),
			Hooks:    odd("hooks"), HookTakes: 300 * time.Millisecond,
			DiskFull: rapid.SampledFrom([]int{0, 0, 1, 2, 3, 4, 5, 6, 7, 8}).Draw(rt, "disk full"),
		}
		if odd("revoked") {
			s.RevokeAt = time.Millisecond + ms("revoke at", 20000)
		}
		deaths := rapid.SliceOfN(rapid.IntRange(1, 120), 0, 4).Draw(rt, "deaths")
		late := rapid.Bool().Draw(rt, "late")
		var stops []time.Duration
		for n := range rapid.IntRange(0, 2).Draw(rt, "stops") {
			stops = append(stops, ms(fmt.Sprintf("stop %d", n), 8000))
		}
		w := run(t, s, func(w *world) {
			w.dieLate = late
			for _, n := range deaths {
				w.dieAt[n] = true
			}
		}, stops...)
		for _, b := range w.broken {
			rt.Errorf("%s\n%+v", b, w.results)
		}
	})
}
