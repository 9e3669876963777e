package api

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// maxRetryAfter caps how long an answer can make the client wait.
const maxRetryAfter = 60 * time.Second

// repeatableKey marks, in a request's context, calls that may arrive twice.
type repeatableKey struct{}

// newRetrying returns the one retry policy, with tryTimeout for each try.
func newRetrying(transport http.RoundTripper, tryTimeout time.Duration, o clientOptions) *retryablehttp.Client {
	return &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: transport,
			Timeout:   tryTimeout,
			// A redirect would carry the token to wherever it points, and turn a
			// POST into a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Logger:       nil, // its lines would hold URLs and land on standard error
		RetryMax:     o.retries,
		RetryWaitMin: o.waitMin,
		RetryWaitMax: o.waitMax,
		CheckRetry:   checkRetry,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
}

// checkRetry decides whether a try is worth another one.
func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	repeatable, _ := ctx.Value(repeatableKey{}).(bool)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return true, nil // nobody received it
		}
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return false, err
		}
		if !repeatable {
			return false, err
		}
		return true, nil
	}
	if !repeatable {
		return false, nil
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, nil
}

// backoff doubles the wait with every try up to longest and takes a random
// point in its upper half, so that a fleet does not come back all at once. A
// Retry-After counts if the answer has one, up to maxRetryAfter.
func backoff(shortest, longest time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := longest
	if attempt < 30 {
		wait = min(shortest<<attempt, longest)
	}
	wait -= time.Duration(rand.Int64N(int64(wait)/2 + 1))
	if resp == nil {
		return wait
	}
	after, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	if !ok {
		return wait
	}
	// Never sooner than asked, nor all in the same instant.
	return min(after, maxRetryAfter) + time.Duration(rand.Int64N(int64(wait)/4+1))
}

// retryAfter reads the two forms of the header: seconds, or an HTTP date.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	if header == "" {
		return 0, false
	}
	if s, err := strconv.ParseInt(header, 10, 64); err == nil {
		if s < 0 {
			return 0, false
		}
		return time.Duration(min(s, int64(maxRetryAfter/time.Second))) * time.Second, true
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}
