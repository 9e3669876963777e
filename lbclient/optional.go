package lbclient

import (
	"context"
	"time"
)

// Forcer is a [Provider] that can end a drain which does not become idle by
// itself, because of visitors who stick to the target or work that does not end.
type Forcer interface {
	// ForceIdle sends away or cuts off what remains of the target's work, after
	// BeginDrain and only when the caller's policy says so: clients may notice.
	// It refuses with ClassConflict when the balancer does not hold the drain,
	// and with ClassUnsupported when the product or its set-up has no such means.
	// What it did is undone by BeginRejoin with the same Restore.
	ForceIdle(ctx context.Context, r Restore) error
}

// Caps says what a provider's answers are worth and what its changes cost. The
// zero value claims nothing.
type Caps struct {
	Health       bool   // RejoinServing is the balancer's own word
	InFlight     bool   // DrainIdle is the balancer's own count
	Disturbs     string // what a change costs other clients; "" when nothing
	Undocumented string // what nobody documents about this product; "" when nothing
}

// Describer is a [Provider] that describes itself. A provider that does not is
// taken to claim nothing.
type Describer interface {
	// Caps is fixed for the life of the provider and asks nobody.
	Caps() Caps
}

// CapsOf returns what p says of itself, and the zero value if it does not.
func CapsOf(p Provider) Caps {
	if d, ok := p.(Describer); ok {
		return d.Caps()
	}
	return Caps{}
}

// Timing is how a balancer checks the health of its members. The zero value is
// a balancer that checks nothing.
type Timing struct {
	Interval time.Duration // from the start of one check to the start of the next
	Timeout  time.Duration // how long one check may go unanswered
	Fall     int           // consecutive failures that take a member out
	Rise     int           // consecutive passes that take it back in
}

// Timed is a [Provider] whose balancer tells how it checks.
type Timed interface {
	// Timing reads the check from the balancer, or says what it was configured to
	// be where the balancer cannot tell. With several checks, such as one for
	// each port, it is of each part the largest. ClassUnsupported when nobody
	// can say.
	Timing(ctx context.Context) (Timing, error)
}

// DownWithin is the longest time from the first moment that a member fails its
// check until the balancer has taken it out.
func (t Timing) DownWithin() time.Duration { return t.within(t.Fall) }

// UpWithin is the longest time from the first moment that a member passes its
// check until the balancer has taken it back in.
func (t Timing) UpWithin() time.Duration { return t.within(t.Rise) }

func (t Timing) within(times int) time.Duration {
	return time.Duration(times)*t.Interval + t.Timeout
}

// Slower returns of each part the larger, which is how two checks that must
// both agree stand together.
func (t Timing) Slower(o Timing) Timing {
	return Timing{
		Interval: max(t.Interval, o.Interval),
		Timeout:  max(t.Timeout, o.Timeout),
		Fall:     max(t.Fall, o.Fall),
		Rise:     max(t.Rise, o.Rise),
	}
}
