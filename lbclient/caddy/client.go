package caddy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxAnswer caps one answer, of which the whole configuration is the largest.
const maxAnswer = 32 << 20

// client speaks the admin API.
type client struct {
	endpoint endpoint
	timeout  time.Duration // of one request, from connecting to the last byte
	http     *http.Client
}

// dialOnly connects to the endpoint whatever a request's URL says.
func dialOnly(d *net.Dialer, e endpoint) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, e.network, e.address)
	}
}

// answer is what Caddy said to one request.
type answer struct {
	status int
	etag   string
	body   []byte
}

// get asks for what is at a path. An answer other than 200 is an error.
func (c client) get(ctx context.Context, op, path string) (answer, error) {
	a, err := c.ask(ctx, op, http.MethodGet, path, nil, "")
	if err != nil {
		return answer{}, err
	}
	if a.status != http.StatusOK {
		return answer{}, refusal(op, a)
	}
	return a, nil
}

// replace puts a value at a path if what stands there is still as etag says.
// Its error is of class ClassAmbiguous when Caddy may have carried it out.
func (c client) replace(ctx context.Context, op, path string, value []byte, etag string) error {
	a, err := c.ask(ctx, op, http.MethodPatch, path, value, etag)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return refusal(op, a)
	}
	return nil
}

func (c client) ask(ctx context.Context, op, method, path string, body []byte, etag string) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no complete answer within %s", c.timeout))
	defer cancel()
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
	q, err := c.request(ctx, method, path, body)
	if err != nil {
		return answer{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Err: err}
	}
	if etag != "" {
		q.Header.Set("If-Match", etag)
	}
	lost := func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		out := &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
		switch {
		case sent && method != http.MethodGet:
			out.Class = lbclient.ClassAmbiguous
		case errors.Is(err, fs.ErrPermission):
			out.Class, out.Text = lbclient.ClassDenied, "this user may not open the admin socket"
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			out.Text = `nobody listens there: is Caddy running, and does "admin" in its configuration name this address?`
		}
		return out
	}
	resp, err := c.http.Do(q)
	if err != nil {
		return answer{}, lost(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, lost(err)
	}
	if len(text) > maxAnswer {
		return answer{}, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: fmt.Sprintf("the answer is longer than %d MiB", maxAnswer>>20)}
	}
	a := answer{status: resp.StatusCode, etag: resp.Header.Get("Etag"), body: text}
	if a.etag == "" {
		a.etag = resp.Trailer.Get("Etag") // as older versions send it
	}
	return a, nil
}

func (c client) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	host := c.endpoint.address
	if c.endpoint.network == "unix" {
		host = "localhost" // replaced below
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.endpoint.network == "unix" {
		// Caddy 2.6 takes nothing but an empty Host on a Unix socket, which
		// net/http sends for this one.
		q.URL.Host, q.Host = " ", ""
	} else {
		q.Header.Set("Origin", "http://"+host) // wanted where Caddy enforces origins
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	return q, nil
}

// refusal is the error for an answer that is not 200.
func refusal(op string, a answer) error {
	out := &lbclient.Error{Op: op, Text: fmt.Sprintf("Caddy answered %d: %s", a.status, words(a.body))}
	switch {
	case a.status == http.StatusPreconditionFailed:
		out.Class = lbclient.ClassConflict
		out.Text = "another hand changed Caddy's configuration at this moment"
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		out.Class = lbclient.ClassDenied
		out.Text += `; allow this client under "admin" in Caddy's configuration ("origins", "enforce_origin")`
	case a.status == http.StatusNotFound:
		out.Class = lbclient.ClassNotFound
	case a.status >= 500:
		out.Class = lbclient.ClassTransient
	default:
		out.Class = lbclient.ClassUnsupported
	}
	return out
}

// words are Caddy's own in an error, or the beginning of whatever came instead.
func words(body []byte) string {
	var e struct {
		Error string `json:"error"`
	}
	s := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &e) == nil && e.Error != "" {
		s = e.Error
	}
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return fmt.Sprintf("%q", s)
}
