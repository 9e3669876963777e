package activate_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func hookStories() map[string]expectation {
	hooked := func(a app, step api.Step) scenario {
		return change(base(with(a)), func(s *scenario) { s.Hooks, s.HookFails, s.HookTakes = true, step, 700*time.Millisecond })
	}
	failed := func(step api.Step, restarts int) expectation {
		return expectation{s: hooked(app{}, step), reverted: true, reason: api.ReasonHookFailed, restarts: restarts, text: string(step) + " command"}
	}
	sick := func(step api.Step) scenario {
		return change(hooked(app{Sick: true}, step), func(s *scenario) { s.HookUndo = true })
	}
	stops := func(s scenario) scenario { return change(s, func(s *scenario) { s.How = api.RestartStopStart }) }
	return map[string]expectation{
		"a hook while it is stopped": {s: stops(hooked(app{}, "")), ok: true, restarts: 1},
		// The new release is never started.
		"while_stopped fails": {
			s: stops(hooked(app{}, api.StepWhileStopped)), reverted: true, reason: api.ReasonHookFailed, restarts: 1, text: "while_stopped command"},
		"while_stopped fails on the way back": {s: stops(sick(api.StepWhileStopped)), reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"while_stopped fails at first deployment": {
			s: change(stops(hooked(app{}, api.StepWhileStopped)), func(s *scenario) { s.First, s.Fallback = true, "" }), reason: api.ReasonHookFailed},

		"hooks":                                 {s: hooked(app{}, ""), ok: true, restarts: 1},
		"hooks of a first deployment":           {s: change(hooked(app{}, ""), func(s *scenario) { s.First, s.Fallback = true, "" }), ok: true, restarts: 1},
		"before_drain fails":                    failed(api.StepBeforeDrain, 0),
		"after_drain fails":                     failed(api.StepAfterDrain, 0),
		"before_rejoin fails":                   failed(api.StepBeforeRejoin, 2),
		"after_rejoin fails and is named":       {s: hooked(app{}, api.StepAfterRejoin), ok: true, restarts: 1},
		"after_drain fails at first deployment": {s: change(hooked(app{}, api.StepAfterDrain), func(s *scenario) { s.First, s.Fallback = true, "" }), reason: api.ReasonHookFailed},
		"a sick release with hooks":             {s: hooked(app{Sick: true}, ""), reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"before_rejoin fails on the way back":   {s: sick(api.StepBeforeRejoin), reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"after_rejoin fails on the way back":    {s: sick(api.StepAfterRejoin), reverted: true, reason: api.ReasonUnhealthy, restarts: 2},
		"revoked in a hook": {
			s: change(hooked(app{}, ""), func(s *scenario) { s.HookTakes, s.RevokeAt = 5*time.Second, 7*time.Second }), reverted: true, reason: api.ReasonRevoked},
	}
}

func TestTheOrderOfHooks(t *testing.T) {
	for name, c := range map[string]struct {
		story string
		want  string
	}{
		"forward": {"hooks", "before_drain of new-1, after_drain of new-1, before_rejoin of new-1, after_rejoin of new-1"},
		"back":    {"a sick release with hooks", "before_drain of new-1, after_drain of new-1, before_rejoin of old-1, after_rejoin of old-1"},
		"between stop and start": {"a hook while it is stopped",
			"before_drain of new-1, after_drain of new-1, while_stopped of new-1, before_rejoin of new-1, after_rejoin of new-1"},
		"back from between": {"while_stopped fails",
			"before_drain of new-1, after_drain of new-1, while_stopped of new-1, while_stopped of old-1, before_rejoin of old-1, after_rejoin of old-1"},
		"before it begins":  {"before_drain fails", "before_drain of new-1"},
		"before the switch": {"after_drain fails", "before_drain of new-1, after_drain of new-1, before_rejoin of old-1, after_rejoin of old-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := run(t, hookStories()[c.story].s, nil)
			if got := strings.Join(w.hooks, ", "); got != c.want {
				t.Errorf("got %s; want %s", got, c.want)
			}
		})
	}
}

// What is no reason to undo anything is named all the same.
func TestAHookThatFailsInVainIsNamed(t *testing.T) {
	for _, story := range []string{"after_rejoin fails and is named", "before_rejoin fails on the way back"} {
		w := run(t, hookStories()[story].s, nil)
		if len(w.results) != 1 || !slices.ContainsFunc(w.results[0].Steps, func(s api.StepTime) bool { return strings.Contains(s.Note, "exit status 1") }) {
			t.Errorf("%s: %+v", story, w.results)
		}
	}
}

// What was stopped is started again, whenever the turn is taken back: also while
// the balancer, which forgot the drain, is asked for it anew.
func TestATurnTakenBackWhileStoppedIsUndone(t *testing.T) {
	for look := range 30 {
		s := change(hookStories()["a hook while it is stopped"].s, func(s *scenario) {
			s.DrainTakes, s.ForgetAt, s.RevokeAt = 3*time.Second, 1+look, 6*time.Second
		})
		w := run(t, s, nil)
		if len(w.results) != 1 || !w.results[0].Reverted || len(w.broken) > 0 {
			t.Errorf("forgotten at look %d: %+v, broken %v", 1+look, w.results, w.broken)
		}
	}
}
