// Package health looks at a target and judges it.
//
// A [Probe] is one look, a [Verdict] the judgement over several. What a look
// found is said in one sentence that tells the usual causes apart: nothing
// listens, it is too slow, it answers with an error or a redirect, its
// certificate is wrong.
package health

import (
	"math"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// What a check falls back to where its configuration leaves a number out.
const (
	defaultInterval = time.Second
	defaultTimeout  = 3 * time.Second
)

// Check says how to look at a target and what makes it healthy. Its zero value
// is "health: none": see [Check.None].
type Check struct {
	HTTP string // URL; healthy is a status 200 to 299, redirects are not followed
	TCP  string // host:port; healthy is an accepted connection
	// Version is where the answer says what answered, nil for nowhere.
	Version *api.Version

	Interval time.Duration // from the end of one probe to the start of the next
	Timeout  time.Duration // of one probe
	Passes   int           // in a row that make it healthy
	Failures int           // in a row that make it unhealthy
}

// FromAPI returns the check of a spec. A number that is missing or makes no
// sense becomes its default: an interval of 1 s, a timeout of 3 s, one pass, one
// failure.
func FromAPI(h api.HealthCheck) Check {
	c := Check{
		HTTP:     h.HTTP,
		TCP:      h.TCP,
		Version:  h.Version,
		Interval: h.Interval.D(),
		Timeout:  h.Timeout.D(),
		Passes:   max(h.Passes, 1),
		Failures: max(h.Failures, 1),
	}
	if c.Interval <= 0 {
		c.Interval = defaultInterval
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	return c
}

// None tells whether there is nothing to probe. Such a target is healthy while
// its unit is active, which is for the caller to see; [Check.Probe] of such a
// check always passes.
func (c Check) None() bool { return c.HTTP == "" && c.TCP == "" }

// String names what is probed: "GET http://127.0.0.1:8080/health".
func (c Check) String() string {
	switch {
	case c.HTTP != "" && c.TCP != "":
		return c.http() + " and " + c.tcp()
	case c.HTTP != "":
		return c.http()
	case c.TCP != "":
		return c.tcp()
	}
	return "no health check"
}

// round drops the digits that nobody reads: 30.000412s is 30s.
func round(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	unit := time.Duration(math.Pow10(max(0, int(math.Log10(float64(d)))-2)))
	return d.Round(unit)
}
