package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// script answers probes from a string, one letter each: "." passes, "x" fails,
// "~" takes longer than anybody waits. The last letter repeats.
func script(s string, seen *[]time.Duration) func(context.Context) Probe {
	start, n := time.Now(), 0
	return func(ctx context.Context) Probe {
		*seen = append(*seen, time.Since(start))
		c := s[min(n, len(s)-1)]
		n++
		p := Probe{At: time.Now(), OK: c == '.', Text: "GET http://h/: 200 OK"}
		switch c {
		case 'x':
			p.Text = "GET http://h/: 502 Bad Gateway"
		case '~':
			<-ctx.Done()
			p.Text = "GET http://h/: broken off"
		}
		return p
	}
}

func TestAwait(t *testing.T) {
	for _, tc := range []struct {
		script string
		took   time.Duration
		want   string // "" is healthy
	}{
		{"...", 2 * time.Second, ""},
		{"xx...", 4 * time.Second, ""},
		{"..x..x...", 8 * time.Second, ""}, // passes must be in a row
		{"x", 10 * time.Second, "no 200 from http://h/ in 10s: last probe 502 Bad Gateway, 0 of 3 passes"},
		{"xxxxxxxx..", 10 * time.Second, ""},
		{"xxxxxxxxx.", 10 * time.Second, "last probe 200 OK, 2 of 3 passes"},
		{"xx~", 10 * time.Second, "last probe 502 Bad Gateway, 0 of 3 passes"}, // the cut one tells nothing
		{"~", 10 * time.Second, "last probe broken off, 0 of 3 passes"},
	} {
		t.Run(tc.script, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Half a second past, so that a probe never falls on the deadline.
				deadline := 10*time.Second + 500*time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				var seen []time.Duration
				start := time.Now()
				err := Check{HTTP: "http://h/", Interval: time.Second, Passes: 3, Failures: 1}.await(ctx, script(tc.script, &seen))
				took := time.Since(start)
				if tc.want == "" {
					if err != nil || took != tc.took {
						t.Fatalf("healthy after %s, err %v; want after %s", took, err, tc.took)
					}
				} else {
					want := strings.Replace(tc.want, "in 10s", "in 10.5s", 1)
					if fault.ReasonOf(err) != api.ReasonUnhealthy || !strings.Contains(err.Error(), want) {
						t.Fatalf("err = %v, want %q", err, want)
					}
					if took != deadline {
						t.Errorf("gave up after %s, not at the deadline", took)
					}
				}
				for i := 1; i < len(seen); i++ {
					if seen[i]-seen[i-1] != time.Second {
						t.Fatalf("probes at %v, want one a second", seen)
					}
				}
			})
		})
	}
}

// That somebody called it off says nothing about the release.
func TestAwaitCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("the unit crashed")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(90*time.Second, func() { cancel(gone) })
		var seen []time.Duration
		err := Check{HTTP: "http://h/", Interval: time.Second, Passes: 1}.await(ctx, script("x", &seen))
		if !errors.Is(err, gone) || fault.ReasonOf(err) == api.ReasonUnhealthy {
			t.Errorf("err = %v", err)
		}
	})
}

func TestNoCheckIsHealthyAtOnce(t *testing.T) {
	c := FromAPI(api.HealthCheck{})
	if !c.None() || c.Await(t.Context()) != nil || !c.Probe(t.Context()).OK {
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
