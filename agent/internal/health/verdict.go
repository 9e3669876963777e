package health

import (
	"fmt"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Verdict judges a target by its probes, in the order that they are added. It
// is unknown until enough probes agree, and then holds until enough probes in a
// row say the opposite, so that one lost packet changes nothing.
//
// It does no I/O and reads no clock. It is not safe for concurrent use.
type Verdict struct {
	needPasses, needFailures int
	passes, failures         int // in a row, up to the last probe
	state                    api.Health
	last                     Probe
}

// NewVerdict returns the verdict of a target that has not been probed yet.
func (c Check) NewVerdict() *Verdict {
	return &Verdict{needPasses: c.Passes, needFailures: c.Failures}
}

// Add takes one more probe into account.
func (v *Verdict) Add(p Probe) {
	v.last = p
	if p.OK {
		v.passes, v.failures = v.passes+1, 0
		if v.passes >= v.needPasses {
			v.state = api.Healthy
		}
		return
	}
	v.passes, v.failures = 0, v.failures+1
	if v.failures >= v.needFailures {
		v.state = api.Unhealthy
	}
}

// State returns the judgement; [api.HealthUnknown] as long as there is none.
func (v *Verdict) State() api.Health {
	if v.state == "" {
		return api.HealthUnknown
	}
	return v.state
}

// Last returns the probe that was added last, the zero Probe before the first.
func (v *Verdict) Last() Probe { return v.last }

// String says the judgement and what it rests on, in one sentence.
func (v *Verdict) String() string {
	if v.last == (Probe{}) {
		return string(api.HealthUnknown) + ": not probed yet"
	}
	n, what, need := v.failures, "failures", v.needFailures
	if v.last.OK {
		n, what, need = v.passes, "passes", v.needPasses
	}
	return fmt.Sprintf("%s: %s in a row (%d), last %s", v.State(), what, min(n, max(need, 1)), v.last.Text)
}
