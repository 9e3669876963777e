// Package health looks at a target and judges it.
//
// A [Probe] is one look, a [Verdict] the judgement over several. What a look
// found is said in one sentence that tells the usual causes apart: nothing
// listens, it is too slow, it answers with an error or a redirect, its
// certificate is wrong.
package health

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
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

// wanted is what would have been a pass, for the sentence about its absence.
func (c Check) wanted() string {
	if c.HTTP != "" && c.TCP != "" {
		return "no passing " + c.String()
	}
	if c.HTTP != "" {
		return "no 200 from " + redacted(c.HTTP)
	}
	return "no connection to " + c.TCP
}

// Await probes until c.Passes probes in a row passed and then returns nil. When
// the deadline of ctx comes first, the error is [api.ReasonUnhealthy] and names
// the last answer. When ctx is cancelled, the error wraps its cause and has no
// reason of its own: nothing is known about the target then.
func (c Check) Await(ctx context.Context) error { return c.await(ctx, c.Probe) }

func (c Check) await(ctx context.Context, probe func(context.Context) Probe) error {
	if c.None() {
		return nil
	}
	start := time.Now()
	v := c.NewVerdict()
	for {
		p := probe(ctx)
		// A probe that the end of ctx cut short says nothing about the target,
		// unless it is all there is.
		if p.OK || ctx.Err() == nil || v.last == (Probe{}) {
			v.Add(p)
		}
		if v.State() == api.Healthy {
			return nil
		}
		if !sleep(ctx, c.Interval) {
			break
		}
	}
	if cause := context.Cause(ctx); cause != context.DeadlineExceeded {
		return fmt.Errorf("cannot await the health of %s: %w", c, cause)
	}
	last := v.last.Text
	if c.HTTP == "" || c.TCP == "" {
		last = strings.TrimPrefix(last, c.String()+": ")
	}
	return fault.Errorf(api.ReasonUnhealthy, "%s in %s: last probe %s, %d of %d passes",
		c.wanted(), round(time.Since(start)), last, v.passes, max(c.Passes, 1))
}

// sleep waits for d; it returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

// round drops the digits that nobody reads: 30.000412s is 30s.
func round(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	unit := time.Duration(math.Pow10(max(0, int(math.Log10(float64(d)))-2)))
	return d.Round(unit)
}
