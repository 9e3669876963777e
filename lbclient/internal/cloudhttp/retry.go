package cloudhttp

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// ErrAnswerLost is the error of a write that was sent, or may have been, and
// whose answer did not arrive whole. Whether it was carried out is not known.
var ErrAnswerLost = errors.New("the answer to the change was lost")

// ErrRedirected is the error of a call that was answered with a redirect, which
// is not followed.
var ErrRedirected = errors.New("the API answered with a redirect")

// judge decides over the attempts of one call.
type judge struct {
	cfg   Config
	write bool
	tries int
	pause time.Duration // before the next attempt
}

// check implements [retryablehttp.CheckRetry]. It looks ahead: where the pause
// would outlive the caller's deadline the caller gets what is known now rather
// than a bare deadline later.
func (j *judge) check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	j.tries++
	again := ctx.Err() == nil && j.again(resp, err)
	if !again {
		return false, nil // the caller gets err itself
	}
	j.pause = j.backoff()
	if after, ok := retryAfter(resp, time.Now()); ok {
		if after > j.cfg.MaxRetryAfter {
			return false, nil
		}
		j.pause = max(j.pause, after)
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= j.pause {
		return false, nil
	}
	return true, nil
}

func (j *judge) again(resp *http.Response, err error) bool {
	switch {
	case errors.Is(err, ErrAnswerLost), errors.Is(err, ErrRedirected), untrusted(err):
		return false
	case err != nil:
		return true // a read, or a write that never left
	case resp.StatusCode == http.StatusTooManyRequests:
		return true
	case j.write:
		return false
	}
	return resp.StatusCode == http.StatusRequestTimeout ||
		resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
}

// backoff doubles from MinWait to MaxWait, less up to half at random, so that
// many agents that failed together do not come back together.
func (j *judge) backoff() time.Duration {
	d := j.cfg.MinWait
	for range j.tries - 1 {
		if d >= j.cfg.MaxWait/2 {
			d = j.cfg.MaxWait
			break
		}
		d *= 2
	}
	return d - rand.N(d/2+1)
}

// wait implements [retryablehttp.Backoff].
func (j *judge) wait(time.Duration, time.Duration, int, *http.Response) time.Duration { return j.pause }

func untrusted(err error) bool {
	var e *tls.CertificateVerificationError
	return errors.As(err, &e)
}

// RetryAfter is how long an answer asks to wait, 0 when it does not say.
func RetryAfter(resp *http.Response) time.Duration {
	after, _ := retryAfter(resp, time.Now())
	return after
}

// retryAfter reads the header of that name, in seconds or as a date.
func retryAfter(resp *http.Response, now time.Time) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	return parseRetryAfter(resp.Header.Get("Retry-After"), now)
}

func parseRetryAfter(text string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}
