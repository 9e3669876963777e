package hetznertest

import (
	"net/http"
	"strings"
	"time"
)

// Outcome is what becomes of an action.
type Outcome string

// Outcomes other than success, which is "".
const (
	OutcomeError    Outcome = "error"     // it ends with ErrorCode, and nothing changed
	OutcomeStuck    Outcome = "stuck"     // it runs for ever
	OutcomeVanish   Outcome = "vanish"    // it is carried out, and nobody knows its id
	OutcomeNoEffect Outcome = "no_effect" // it succeeds, and nothing changed
)

// Fault is something that goes wrong with some calls.
type Fault struct {
	// Method and Path choose the calls: the one as it is, of the other a part;
	// "" means all.
	Method, Path string
	// Times is how many calls it hits; 0 means all from now on.
	Times int

	// Delay holds up the call.
	Delay time.Duration
	// Drop ends the connection before anything was done.
	Drop bool
	// Status and Code refuse the call, with Message.
	Status        int
	Code, Message string
	// RetryAfter is sent with the refusal.
	RetryAfter string
	// Action is what becomes of the action that the call begins, and ErrorCode
	// why it failed.
	Action    Outcome
	ErrorCode string
	// Lose carries the call out and ends the connection without an answer; Half
	// with half of one.
	Lose, Half bool
	// Edit changes the answer.
	Edit func(status int, header http.Header, body []byte) (int, []byte)
}

// Inject makes calls go wrong from now on. Of several faults that fit a call the
// first counts.
func (c *Cloud) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Recover ends all faults.
func (c *Cloud) Recover() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// fault takes the fault for a call, one without any effect if there is none.
func (c *Cloud) fault(r *http.Request) Fault {
	for i, f := range c.faults {
		if f.Method != "" && f.Method != r.Method || !strings.Contains(r.URL.Path, f.Path) {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
			}
		}
		return *f
	}
	return Fault{}
}
