package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"syscall"
)

// UnreachableError tells that a call got no answer. Whether the coordinator
// received it is not known, unless [UnreachableError.Refused].
type UnreachableError struct {
	Method string
	URL    string // that was called
	Base   string // the coordinator's address
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("cannot reach the coordinator at %s: %s %s: %v", e.Base, e.Method, e.URL, e.Err)
}

// Refused tells that nobody accepted the connection, so that the call cannot
// have done anything.
func (e *UnreachableError) Refused() bool { return errors.Is(e.Err, syscall.ECONNREFUSED) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// AnswerError tells that an answer came that the contract does not know, as
// from a proxy in between or from another program at that address.
type AnswerError struct {
	Method string
	URL    string
	Status int    // of HTTP
	What   string // what came, in words
	Err    error  // may be nil
}

func (e *AnswerError) Error() string {
	s := fmt.Sprintf("%s %s answered %d %s with %s, which is not how a coordinator answers: check the address and any proxy before it",
		e.Method, e.URL, e.Status, http.StatusText(e.Status), e.What)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, if any.
func (e *AnswerError) Unwrap() error { return e.Err }

// refusal makes the error for an answer that is not 2xx.
func refusal(method, address string, resp *http.Response, body []byte) error {
	var e Error
	if err := json.Unmarshal(body, &e); err == nil && e.Kind != "" && e.Text != "" {
		return &e
	}
	a := &AnswerError{Method: method, URL: address, Status: resp.StatusCode, What: describeBody(resp, body)}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		a.What = "a redirect, which is not followed"
		// Relative to what was asked; the query may hold anything.
		if to, err := resp.Location(); err == nil {
			a.What = "a redirect to " + (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String() + " (redirects are not followed)"
		}
	}
	return a
}

// describeBody tells the kind and size of a body, and never what it holds: a
// proxy's error page may repeat the request's headers.
func describeBody(resp *http.Response, body []byte) string {
	if len(body) == 0 {
		return "an empty body"
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		kind = "an unnamed type"
	}
	return fmt.Sprintf("%d bytes of %s", len(body), kind)
}
