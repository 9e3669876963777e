package digitalocean

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// Probes is what a health gate saw of one checker: the latest unbroken run of
// equal answers that it gave it.
type Probes struct {
	From   string    // the checker's address, without port
	Passed bool      // what the gate answered
	Count  int       // how many times in a row
	Since  time.Time // when the run began
	Last   time.Time // when it was last asked
}

// ProbeEvidence is what a target's health gate saw of the balancer's checks: one
// entry for each address that probed, by this machine's clock. Looks that give
// themselves the user agent "lockstep-look" must be left out.
type ProbeEvidence interface {
	ProbesSeen(ctx context.Context) ([]Probes, error)
}

// FromGate is the evidence of one of our own health gates.
func FromGate(v gate.Viewer) ProbeEvidence { return fromGate{v} }

type fromGate struct{ gate.Viewer }

// ProbesSeen implements [ProbeEvidence].
func (g fromGate) ProbesSeen(ctx context.Context) ([]Probes, error) {
	s, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Probes, 0, len(s.Pollers))
	for _, p := range s.Pollers {
		out = append(out, Probes{From: p.Address.String(), Passed: p.Answer == http.StatusOK, Count: p.Streak, Since: p.Since, Last: p.Last})
	}
	return out, nil
}

// tally is what probes say together.
type tally struct {
	checkers int // that still probe
	opposed  int // of those, how many got the other answer last
	ready    int // of those, how many got the wanted answer often enough
	asked    int // probes with the wanted answer, of the checker that had fewest
}

// count tallies the probes against a wanted answer. Runs that began before
// `since` count as present but not as ready. One more answer is wanted than the
// threshold, because the last one may still be on its way, and they must span
// as many intervals, because several checkers may share an address.
func count(probes []Probes, passed bool, c lbclient.Timing, since, now time.Time) tally {
	threshold := c.Fall
	if passed {
		threshold = c.Rise
	}
	var t tally
	first := true
	for _, p := range probes {
		if now.Sub(p.Last) > fresh(c) {
			continue
		}
		t.checkers++
		if p.Passed != passed {
			t.opposed++
			continue
		}
		if first || p.Count < t.asked {
			t.asked, first = p.Count, false
		}
		if p.Count > threshold && !p.Since.Before(since) && now.Sub(p.Since) >= time.Duration(threshold)*c.Interval {
			t.ready++
		}
	}
	return t
}

// all tells whether every machine of the balancer has had the answer often
// enough. Fewer addresses than machines may be a balancer that hides them.
func (t tally) all(nodes int) bool {
	return t.checkers >= nodes && t.ready == t.checkers
}

func (t tally) words(passed bool) string {
	answer := "failed"
	if passed {
		answer = "passed"
	}
	switch {
	case t.checkers == 0:
		return "the gate has not seen the balancer's probes lately"
	case t.opposed > 0:
		return fmt.Sprintf("the gate saw %d checkers, %d of which have not %s yet", t.checkers, t.opposed, answer)
	}
	return fmt.Sprintf("the gate saw %d checkers, each of which %s at least %d times in a row", t.checkers, answer, t.asked)
}
