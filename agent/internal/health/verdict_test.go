package health

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestNoCheckAlwaysPasses(t *testing.T) {
	c := FromAPI(api.HealthCheck{})
	if !c.None() || !c.Probe(t.Context()).OK {
		t.Errorf("%+v", c)
	}
}

func TestFromAPI(t *testing.T) {
	d := func(d time.Duration) api.Duration { return api.Duration(d) }
	got := FromAPI(api.HealthCheck{HTTP: "http://h/", Interval: d(2 * time.Second), Timeout: d(time.Second), Passes: 3, Failures: 2})
	if want := (Check{HTTP: "http://h/", Interval: 2 * time.Second, Timeout: time.Second, Passes: 3, Failures: 2}); got != want {
		t.Errorf("FromAPI = %+v, want %+v", got, want)
	}
	got = FromAPI(api.HealthCheck{TCP: "h:1", Interval: -1, Timeout: -1, Passes: -1})
	if want := (Check{TCP: "h:1", Interval: time.Second, Timeout: 3 * time.Second, Passes: 1, Failures: 1}); got != want {
		t.Errorf("defaults: FromAPI = %+v, want %+v", got, want)
	}
}

func TestVerdict(t *testing.T) {
	c := Check{Passes: 2, Failures: 3}
	for probes, want := range map[string]api.Health{
		"":           api.HealthUnknown,
		".":          api.HealthUnknown,
		"xx":         api.HealthUnknown,
		"..":         api.Healthy,
		"..x":        api.Healthy,
		"..xx.xx":    api.Healthy,
		"..xxx":      api.Unhealthy,
		"..xxx.":     api.Unhealthy,
		"..xxx.x.":   api.Unhealthy,
		"..xxx..":    api.Healthy,
		"xxx":        api.Unhealthy,
		".x.x.x.x.x": api.HealthUnknown,
	} {
		v := c.NewVerdict()
		for i, r := range probes {
			v.Add(Probe{OK: r == '.', Text: fmt.Sprintf("probe %d", i)})
		}
		if v.State() != want {
			t.Errorf("%q: %s, want %s", probes, v.State(), want)
		}
		if !strings.HasPrefix(v.String(), string(want)) || (probes != "" && !strings.Contains(v.String(), v.Last().Text)) {
			t.Errorf("%q: String() = %q", probes, v)
		}
	}
}

// Whatever came before: the state changes only by a full run of probes that say
// so, and such a run always changes it.
func TestVerdictNeedsARun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Check{Passes: rapid.IntRange(1, 4).Draw(t, "passes"), Failures: rapid.IntRange(1, 4).Draw(t, "failures")}
		probes := rapid.SliceOf(rapid.Bool()).Draw(t, "probes")
		v := c.NewVerdict()
		for i, ok := range probes {
			before := v.State()
			v.Add(Probe{OK: ok})
			run := 0
			for j := i; j >= 0 && probes[j] == ok; j-- {
				run++
			}
			want := before
			switch {
			case ok && run >= c.Passes:
				want = api.Healthy
			case !ok && run >= c.Failures:
				want = api.Unhealthy
			}
			if v.State() != want {
				t.Fatalf("after %v: %s, want %s", probes[:i+1], v.State(), want)
			}
		}
	})
}

func TestRound(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 30*time.Second + 412*time.Microsecond: "30s", 1234567 * time.Microsecond: "1.23s", 42 * time.Microsecond: "42µs",
	} {
		if got := round(d).String(); got != want {
			t.Errorf("round(%s) = %s, want %s", d, got, want)
		}
	}
}
