package cloudhttp

import (
	"net/http"
	"strconv"
	"time"
)

// Budget is what an answer says about the rate limit, which all users of the
// token's account share.
type Budget struct {
	Limit     int       // calls in a full bucket; 0 when not said
	Remaining int       // calls left
	At        time.Time // when the answer came, by this machine's clock
}

// budgetOf reads the RateLimit headers. RateLimit-Reset is left aside: it is by
// the cloud's clock, and one cloud means the whole refill and the other the
// oldest call, so that nothing may be planned by it.
func budgetOf(h http.Header, now time.Time) (Budget, bool) {
	left, err := strconv.ParseUint(h.Get("RateLimit-Remaining"), 10, 31)
	if err != nil {
		return Budget{}, false
	}
	b := Budget{Remaining: int(left), At: now}
	if limit, err := strconv.ParseUint(h.Get("RateLimit-Limit"), 10, 31); err == nil {
		b.Limit = int(limit)
	}
	return b, true
}
