package digitaloceantest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault is something that goes wrong with the API.
type Fault struct {
	// Method and Path choose the requests: "" is any, a path matches its end.
	Method, Path string
	// Times is how many requests it befalls; 0 means all from now on.
	Times int

	// Answer, if set, is given instead of carrying the request out.
	Answer *Answer
	// Lose carries the request out and then closes the connection or, with an
	// Answer, gives that.
	Lose bool
	// Drop closes the connection without carrying the request out.
	Drop bool
	// Ignore answers as if the request were carried out.
	Ignore bool
	// Hang gives no answer until the client gives up.
	Hang bool
}

// Answer is an answer to be given as it is.
type Answer struct {
	Status int
	Header map[string]string
	Body   string
}

// Busy is the answer of a balancer that is changing.
func Busy() *Answer {
	return Refuse(http.StatusForbidden, "forbidden", "Load Balancer can't be updated while it processes previous actions")
}

// Refuse is an answer in DigitalOcean's form.
func Refuse(status int, id, message string) *Answer {
	return &Answer{Status: status, Header: map[string]string{"Content-Type": "application/json"},
		Body: `{"id":` + strconv.Quote(id) + `,"message":` + strconv.Quote(message) + `,"request_id":"4d9d8375-3c56-4925-a3e7-eb137fed17e9"}`}
}

type fault struct {
	Fault
	left int // -1 for ever
}

// Inject adds a fault. Those that were injected first befall first.
func (c *Cloud) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := f.Times
	if left == 0 {
		left = -1
	}
	c.faults = append(c.faults, &fault{f, left})
}

// Heal ends all faults.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// befalls returns the fault of a request, if any.
func (c *Cloud) befalls(r *http.Request) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.faults {
		if f.left == 0 || f.Method != "" && f.Method != r.Method || !strings.HasSuffix(r.URL.Path, f.Path) {
			continue
		}
		if f.left > 0 {
			f.left--
		}
		return &f.Fault
	}
	return nil
}

// budget is what a token has used.
type budget struct{ calls []time.Time }

// ration counts a call, and tells what is left, when the oldest call expires,
// and whether and for how long the caller must wait.
func (c *Cloud) ration(token string, now time.Time) (left int, reset time.Time, wait time.Duration, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.budgets[token]
	if b == nil {
		b = &budget{}
		c.budgets[token] = b
	}
	hour, minute := 3600*c.opts.Second, 60*c.opts.Second
	for len(b.calls) > 0 && now.Sub(b.calls[0]) >= hour {
		b.calls = b.calls[1:]
	}
	recent := 0
	var oldest time.Time
	for _, t := range b.calls {
		if now.Sub(t) < minute {
			if recent == 0 {
				oldest = t
			}
			recent++
		}
	}
	reset = now.Add(hour)
	if len(b.calls) > 0 {
		reset = b.calls[0].Add(hour)
	}
	left = c.opts.Hourly - len(b.calls)
	switch {
	case left <= 0:
		return 0, reset, 0, true
	case recent >= c.opts.Burst:
		return left, reset, minute - now.Sub(oldest), true
	}
	b.calls = append(b.calls, now)
	return left - 1, reset, 0, false
}
