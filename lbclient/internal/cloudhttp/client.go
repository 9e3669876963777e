package cloudhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Defaults of [Config].
const (
	DefaultAttempts       = 4
	DefaultAttemptTimeout = 10 * time.Second
	DefaultMinWait        = 500 * time.Millisecond
	DefaultMaxWait        = 8 * time.Second
	DefaultMaxRetryAfter  = 30 * time.Second
)

// maxBody bounds an answer. The longest page of a cloud's API is far below it.
const maxBody = 8 << 20

// Config is the policy of one client. Zero fields have the defaults above.
type Config struct {
	// Token is sent as "Authorization: Bearer" when it is not empty.
	Token string
	// Attempts is how often a call is tried in all.
	Attempts int
	// AttemptTimeout bounds one attempt, from the dial to the last byte.
	AttemptTimeout time.Duration
	// MinWait and MaxWait bound the pause between attempts, which doubles from
	// the one to the other and is then shortened at random by up to half.
	MinWait, MaxWait time.Duration
	// MaxRetryAfter is the longest Retry-After that is waited out. A longer one
	// ends the attempts, and the caller gets the answer that asks for it.
	MaxRetryAfter time.Duration
	// Transport carries the attempts; nil means one with Go's defaults.
	Transport http.RoundTripper
}

func (c Config) withDefaults() Config {
	if c.Attempts <= 0 {
		c.Attempts = DefaultAttempts
	}
	if c.AttemptTimeout <= 0 {
		c.AttemptTimeout = DefaultAttemptTimeout
	}
	if c.MinWait <= 0 {
		c.MinWait = DefaultMinWait
	}
	if c.MaxWait <= 0 {
		c.MaxWait = DefaultMaxWait
	}
	c.MaxWait = max(c.MinWait, c.MaxWait)
	if c.MaxRetryAfter <= 0 {
		c.MaxRetryAfter = DefaultMaxRetryAfter
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport.(*http.Transport).Clone()
	}
	return c
}

// NewClient returns a client for the API of one cloud. Answers arrive whole: to
// read a body cannot fail. Use CloseIdleConnections when done with it.
func NewClient(c Config) *http.Client {
	c = c.withDefaults()
	return &http.Client{
		Transport:     &retrier{cfg: c, attempts: &http.Client{Transport: &attempt{c}, CheckRedirect: stay}},
		CheckRedirect: stay,
	}
}

// stay follows no redirect, for it would carry a write, or the token, elsewhere.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// retrier carries one call in one or more attempts.
type retrier struct {
	cfg      Config
	attempts *http.Client
}

// CloseIdleConnections makes the method of [http.Client] reach the transport.
func (r *retrier) CloseIdleConnections() { r.attempts.CloseIdleConnections() }

// RoundTrip implements [http.RoundTripper].
func (r *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	// A round tripper closes the body, also when it fails.
	if req.Body != nil {
		defer req.Body.Close()
	}
	in, err := retryablehttp.FromRequest(req.Clone(req.Context()))
	if err != nil {
		return nil, fmt.Errorf("cannot read the body of the request: %w", err)
	}
	j := &judge{cfg: r.cfg, write: !readOnly(req.Method)}
	c := retryablehttp.Client{
		HTTPClient:   r.attempts,
		RetryMax:     r.cfg.Attempts - 1,
		CheckRetry:   j.check,
		Backoff:      j.wait,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	resp, err := c.Do(in)
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		// The caller's own client names method and address.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

func readOnly(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// attempt carries one attempt and reads its whole answer.
type attempt struct{ cfg Config }

// CloseIdleConnections makes the method of [http.Client] reach the transport.
func (a *attempt) CloseIdleConnections() {
	if c, ok := a.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements [http.RoundTripper].
func (a *attempt) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	late := fmt.Errorf("no whole answer within %s", a.cfg.AttemptTimeout)
	ctx, cancel := context.WithTimeoutCause(req.Context(), a.cfg.AttemptTimeout, late)
	defer cancel()
	out := req.Clone(httptrace.WithClientTrace(ctx, trace))
	if a.cfg.Token != "" {
		out.Header.Set("Authorization", "Bearer "+a.cfg.Token)
	}
	resp, err := a.cfg.Transport.RoundTrip(out)
	if err == nil {
		err = swallow(resp)
	}
	if err != nil {
		if ctx.Err() != nil && req.Context().Err() == nil {
			err = late
		}
		if sent.Load() && !readOnly(req.Method) {
			return nil, fmt.Errorf("%w: %w", ErrAnswerLost, err)
		}
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		return nil, fmt.Errorf("%w with status %d to %q", ErrRedirected, resp.StatusCode, resp.Header.Get("Location"))
	}
	return resp, nil
}

// swallow reads the body, so that an answer that was cut off is a failed
// attempt and not a surprise for whoever decodes it.
func swallow(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	resp.Body.Close()
	if err != nil {
		return fmt.Errorf("the answer was cut off: %w", err)
	}
	if len(body) > maxBody {
		return fmt.Errorf("the answer has more than %d bytes", maxBody)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}
