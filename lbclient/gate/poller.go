package gate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxPollers bounds the memory that strangers can take.
const maxPollers = 64

// Poller is one address that polls the gate, and the answers it was given.
type Poller struct {
	Address netip.Addr `json:"address"`
	Polls   int        `json:"polls"`
	Last    time.Time  `json:"last"`
	Answer  int        `json:"answer"` // status of the last answer
	// Streak counts the last answers that said the same: admitted or refused.
	Streak int       `json:"streak"`
	Since  time.Time `json:"since"` // the first answer of the streak
}

func (p Poller) admitted() bool { return p.Answer == statusAdmitted }

// polls is everybody who polls. Callers synchronise.
type polls struct{ list []Poller }

func (ps *polls) note(who netip.Addr, answer int, now time.Time) {
	i := slices.IndexFunc(ps.list, func(p Poller) bool { return p.Address == who })
	if i < 0 {
		if len(ps.list) == maxPollers {
			i = 0
			for j, p := range ps.list {
				if p.Last.Before(ps.list[i].Last) {
					i = j
				}
			}
			ps.list[i] = Poller{Address: who}
		} else {
			i = len(ps.list)
			ps.list = append(ps.list, Poller{Address: who})
		}
	}
	p := &ps.list[i]
	if p.Streak == 0 || p.admitted() != (answer == statusAdmitted) {
		p.Streak, p.Since = 0, now
	}
	p.Polls++
	p.Streak++
	p.Last, p.Answer = now, answer
}

// silence is how long a poller may be silent before it has surely stopped.
func silence(t lbclient.Timing) time.Duration { return t.DownWithin() + t.Interval }

// active are those that have not stopped polling.
func (ps *polls) active(t lbclient.Timing, now time.Time) []netip.Addr {
	var out []netip.Addr
	for _, p := range ps.list {
		if now.Sub(p.Last) <= silence(t) {
			out = append(out, p.Address)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// question is what is asked of the polls: whether everybody knows.
type question struct {
	admitted bool // that the target is admitted, else that it is refused
	times    int  // how many answers in a row convince a balancer
	timing   lbclient.Timing
	least    int          // how many pollers there must be
	must     []netip.Addr // who polled before
	since    time.Time    // when the gate began to answer so, or to live
	now      time.Time
}

// Evidence is the answer, with a sentence for people.
type Evidence struct {
	Done bool   `json:"done"`
	Text string `json:"text"`
}

// known judges the polls. A poller knows after so many same answers in a row,
// spread over so many intervals: several balancers may share an address, as
// processes of one machine do.
func (ps *polls) known(q question) Evidence {
	verb := "refused"
	if q.admitted {
		verb = "admitted"
	}
	told, waiting := 0, 0
	var clauses []string
	say := func(format string, args ...any) { clauses = append(clauses, fmt.Sprintf(format, args...)) }
	bound := silence(q.timing)
	for _, p := range ps.list {
		switch {
		case q.now.Sub(p.Last) > bound:
			continue
		case p.admitted() != q.admitted:
			waiting++
			say("%s was not %s yet", p.Address, verb)
		case p.Streak < q.times || q.now.Sub(p.Since) < time.Duration(q.times)*q.timing.Interval:
			waiting++
			say("%s was %s %d times in %s, of %d in %s", p.Address, verb, p.Streak, round(q.now.Sub(p.Since)),
				q.times, time.Duration(q.times)*q.timing.Interval)
		default:
			told++
			say("%s was %s %d times in %s, the last %s ago", p.Address, verb, p.Streak, round(q.now.Sub(p.Since)), round(q.now.Sub(p.Last)))
		}
	}
	for _, a := range q.must {
		if slices.ContainsFunc(ps.list, func(p Poller) bool { return p.Address == a }) {
			continue
		}
		if q.now.Sub(q.since) <= bound {
			waiting++
			say("%s polled before and has not yet again", a)
		}
	}
	if n := told + waiting; n < q.least {
		say("%d addresses poll the gate, want %d", n, q.least)
	}
	return Evidence{Done: waiting == 0 && told >= q.least, Text: strings.Join(clauses, "; ")}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
