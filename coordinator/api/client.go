package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	// maxAnswerBytes caps what is read of any answer other than a sync's.
	maxAnswerBytes = 16 << 20
	// answerMargin is how much longer than the coordinator may hold a call the
	// client waits for the answer of one try.
	answerMargin = 15 * time.Second
)

// Client speaks the contract of this package with one coordinator. It is safe
// for use by several goroutines.
//
// Every method returns *[Error] for a refusal by the coordinator,
// *[UnreachableError] when no answer came, and *[AnswerError] when what
// answered did not speak the contract. An error that the caller's context
// caused wraps the context's error.
type Client struct {
	base      string // without a trailing slash
	token     string
	userAgent string
	prompt    *retryablehttp.Client // answers at once
	waiting   *retryablehttp.Client // may be held for LongPoll
}

type clientOptions struct {
	tls       *tls.Config
	userAgent string
	retries   int
	waitMin   time.Duration
	waitMax   time.Duration
}

// ClientOption changes how a [Client] calls.
type ClientOption func(*clientOptions)

// WithTLS sets how https is spoken, for a coordinator with a private authority.
func WithTLS(c *tls.Config) ClientOption { return func(o *clientOptions) { o.tls = c } }

// WithUserAgent names the program to the coordinator, such as "deployctl/1.2.0".
func WithUserAgent(name string) ClientOption { return func(o *clientOptions) { o.userAgent = name } }

// WithRetries sets how many times a call is tried again (4 by default). Zero
// leaves every retry to the caller.
func WithRetries(n int) ClientOption { return func(o *clientOptions) { o.retries = max(n, 0) } }

// WithBackoff bounds the wait between tries (300 ms to 10 s by default).
func WithBackoff(shortest, longest time.Duration) ClientOption {
	return func(o *clientOptions) { o.waitMin, o.waitMax = shortest, longest }
}

// NewClient returns a client of the coordinator at baseURL that authenticates
// with token. It calls nobody yet.
func NewClient(baseURL, token string, opts ...ClientOption) (*Client, error) {
	base, err := checkBaseURL(baseURL)
	if err != nil {
		return nil, err
	}
	token = strings.TrimSpace(token)
	if token == "" {
		return nil, errors.New("cannot use the token: it is empty")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("cannot use the token: expected one word of printable ASCII characters")
	}
	o := clientOptions{
		userAgent: "lockstep",
		retries:   4,
		waitMin:   300 * time.Millisecond,
		waitMax:   10 * time.Second,
	}
	for _, opt := range opts {
		opt(&o)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.tls != nil {
		transport.TLSClientConfig = o.tls.Clone()
	}
	return &Client{
		base:      base,
		token:     token,
		userAgent: o.userAgent,
		prompt:    newRetrying(transport, answerMargin, o),
		waiting:   newRetrying(transport, LongPoll+answerMargin, o),
	}, nil
}

// URL returns the coordinator's address, for messages.
func (c *Client) URL() string { return c.base }

// CloseIdleConnections closes the connections that no call uses.
func (c *Client) CloseIdleConnections() {
	c.prompt.HTTPClient.CloseIdleConnections() // both share one transport
}

func checkBaseURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		// Not quoted as it stands: it may hold a password.
		return "", errors.New("cannot use the coordinator's address: expected a URL such as https://deploy.example.com or http://127.0.0.1:7400")
	}
	if u.User != nil {
		return "", fmt.Errorf("cannot use the coordinator's address %s: it holds a user or password; the token is the only credential", u.Redacted())
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("cannot use the coordinator's address: expected no query or fragment after %s://%s%s", u.Scheme, u.Host, u.Path)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// call is one request of the contract.
type call struct {
	method string
	path   string // escaped, from "/"
	query  url.Values
	body   any    // nil: none
	raw    []byte // a body that is not JSON
	span   string // of bytes, for the Range header
	limit  int64
	// repeatable: a second arrival does no harm. Others are tried again only
	// when the first cannot have arrived.
	repeatable bool
	waits      bool // the coordinator may hold it
}

// do carries out one call and decodes the answer into out (nil: there is none).
func (c *Client) do(ctx context.Context, rq call, out any) error {
	a, err := c.send(ctx, rq)
	if err != nil || out == nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	if err := dec.Decode(out); err != nil {
		return &AnswerError{Method: rq.method, URL: c.base + rq.path, Status: a.status, What: a.what, Err: err}
	}
	return nil
}

// answer is a 2xx answer that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	what   string // its kind and size
}

// send carries out one call.
func (c *Client) send(ctx context.Context, rq call) (answer, error) {
	address := c.base + rq.path
	if len(rq.query) > 0 {
		address += "?" + rq.query.Encode()
	}
	var body any
	if rq.body != nil {
		b, err := json.Marshal(rq.body)
		if err != nil {
			return answer{}, fmt.Errorf("cannot encode the request to %s: %w", address, err)
		}
		if rq.limit > 0 && int64(len(b)) > rq.limit {
			return answer{}, fmt.Errorf("cannot send %d bytes to %s: at most %d are accepted", len(b), address, rq.limit)
		}
		body = b
	}
	if rq.raw != nil {
		body = rq.raw
	}
	ctx = context.WithValue(ctx, repeatableKey{}, rq.repeatable)
	req, err := retryablehttp.NewRequestWithContext(ctx, rq.method, address, body)
	if err != nil {
		return answer{}, fmt.Errorf("cannot make a request for %s: %w", address, err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	switch {
	case rq.raw != nil:
		req.Header.Set("Content-Type", "application/octet-stream")
	case body != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	if rq.span != "" {
		req.Header.Set("Range", "bytes="+rq.span)
	}

	// Read inside the retry loop, so that a connection that breaks in the
	// middle of an answer counts as a failed try.
	limit := rq.limit
	if limit == 0 {
		limit = maxAnswerBytes
	}
	var got []byte
	read := false
	readAll := func(resp *http.Response) error {
		defer resp.Body.Close()
		var b bytes.Buffer
		if n := resp.ContentLength; n > 0 && n <= limit {
			b.Grow(int(n) + bytes.MinRead) // large answers would grow step by step
		}
		if _, err := b.ReadFrom(io.LimitReader(resp.Body, limit+1)); err != nil {
			return err
		}
		got, read = b.Bytes(), true
		return nil
	}
	req.SetResponseHandler(readAll)

	client := c.prompt
	if rq.waits {
		client = c.waiting
	}
	resp, err := client.Do(req)
	if resp != nil {
		defer resp.Body.Close()
		if err == nil && !read {
			err = readAll(resp)
		}
	}
	if err != nil {
		return answer{}, c.callError(ctx, rq.method, address, err)
	}
	if int64(len(got)) > limit {
		return answer{}, &AnswerError{Method: rq.method, URL: address, Status: resp.StatusCode, What: fmt.Sprintf("more than %d bytes", limit)}
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return answer{}, refusal(rq.method, address, resp, got)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: got, what: describeBody(resp, got)}, nil
}

func (c *Client) callError(ctx context.Context, method, address string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s %s was given up: %w", method, address, ctxErr)
	}
	var ue *url.Error // repeats the method and the URL
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return &UnreachableError{Method: method, URL: address, Base: c.base, Err: err}
}
