package digitalocean

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/cloudhttp"
)

// failed makes an error of the package's kind of what a call ended with.
func failed(op, method string, resp *godo.Response, err error) *lbclient.Error {
	e := &lbclient.Error{Op: op}
	var refusal *godo.ErrorResponse
	if errors.As(err, &refusal) && refusal.Response != nil {
		status := refusal.Response.StatusCode
		e.Class = classOf(method, status, refusal.Message)
		e.After = cloudhttp.RetryAfter(refusal.Response)
		e.Text = fmt.Sprintf("DigitalOcean answered %d %s", status, words(refusal)) + advice(e.Class, status, refusal.Response.Header)
		return e
	}
	if resp != nil && resp.Response != nil {
		e.Class = cloudhttp.ClassOfStatus(method, resp.StatusCode)
		e.Text = fmt.Sprintf("the answer, with status %d, is not as DigitalOcean gives it", resp.StatusCode)
		e.Err = plain(err)
		return e
	}
	e.Class = cloudhttp.ClassOfError(err)
	// The client's own error repeats method and address.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	e.Err = err
	return e
}

// classOf tells refusals apart. DigitalOcean locks a balancer while a change is
// under way, and says so with the status of a missing permission: only the words
// tell them apart.
func classOf(method string, status int, message string) lbclient.Class {
	write := method != http.MethodGet
	switch {
	case status == http.StatusForbidden && write && strings.Contains(strings.ToLower(message), "previous action"):
		return lbclient.ClassBusy
	case status == http.StatusUnprocessableEntity && write:
		// Also given for a droplet that is just starting, or for a change that
		// was made all the same; what was not allowed is found out before.
		return lbclient.ClassConflict
	}
	return cloudhttp.ClassOfStatus(method, status)
}

func advice(c lbclient.Class, status int, h http.Header) string {
	switch {
	case c == lbclient.ClassBusy:
		return "; it takes no other change until the one before is made"
	case status == http.StatusUnauthorized:
		return "; the token is wrong or has expired"
	case c == lbclient.ClassDenied:
		return "; the token needs the scopes load_balancer:read, droplet:read and, to remove and add droplets, load_balancer:update"
	case c == lbclient.ClassRateLimited && h.Get("Retry-After") == "":
		return "; the token's calls of the last hour are used up, and come back one by one"
	}
	return ""
}

// words are DigitalOcean's own, within reason and on one line.
func words(e *godo.ErrorResponse) string {
	text := e.Message
	if text == "" && e.NestedError != nil {
		text = e.NestedError.Message
	}
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "without a word"
	case text[0] == '<':
		text = "with a page of HTML"
	default:
		text = fmt.Sprintf("%q", tidy(text))
	}
	if e.RequestID != "" {
		text += fmt.Sprintf(" (request %s)", tidy(e.RequestID))
	}
	return text
}

// tidy keeps what came from outside short and printable.
func tidy(text string) string {
	const most = 200
	out := make([]rune, 0, most)
	for _, r := range text {
		if len(out) == most {
			return string(out) + "…"
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		out = append(out, r)
	}
	return string(out)
}

// plain leaves out what a JSON error quotes at length.
func plain(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return fmt.Errorf("%s is a %s", t.Field, t.Value)
	}
	return errors.New(tidy(err.Error()))
}
