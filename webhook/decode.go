package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	mediaJSON = "application/json"
	mediaForm = "application/x-www-form-urlencoded"

	maxText = 200  // runes of a subject or a login
	maxName = 1024 // bytes of a ref, a URL, or a repository's name
)

// push is the part of a delivery that is of use here. go-github's PushEvent
// holds the whole of it, which takes four times the body's size in memory.
type push struct {
	Ref        string     `json:"ref"`
	Before     string     `json:"before"`
	After      string     `json:"after"`
	Forced     bool       `json:"forced"`
	Repository repository `json:"repository"`
	HeadCommit struct {
		Message string `json:"message"`
	} `json:"head_commit"`
	Sender person `json:"sender"`
	Pusher person `json:"pusher"`
}

type repository struct {
	FullName string `json:"full_name"`
	CloneURL string `json:"clone_url"`
	SSHURL   string `json:"ssh_url"`
	HTMLURL  string `json:"html_url"`
}

// person is a login, in whichever shape the sender writes people.
type person string

func (p *person) UnmarshalJSON(b []byte) error {
	// Who it was decides nothing: no shape is a reason to refuse a delivery.
	switch b[0] {
	case '"':
		_ = json.Unmarshal(b, (*string)(p))
	case '{':
		var o struct {
			Login    any `json:"login"`
			Username any `json:"username"`
			Name     any `json:"name"`
		}
		_ = json.Unmarshal(b, &o)
		for _, v := range []any{o.Login, o.Username, o.Name} {
			if s, ok := v.(string); ok && s != "" {
				*p = person(s)
				break
			}
		}
	}
	return nil
}

// mediaType is the media type of a Content-Type header that can be decoded,
// else "".
func mediaType(header string) string {
	m, _, err := mime.ParseMediaType(header)
	if err != nil || (m != mediaJSON && m != mediaForm) {
		return ""
	}
	return m
}

// payload takes the JSON object out of a body.
func payload(media string, body []byte) ([]byte, error) {
	if media == mediaForm {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, fmt.Errorf("cannot decode the form: %w", err)
		}
		if n := len(form["payload"]); n != 1 {
			return nil, fmt.Errorf("cannot decode the form: expected one field \"payload\", got %d", n)
		}
		body = []byte(form.Get("payload"))
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	// "null" would decode without an error, to nothing.
	if len(body) == 0 || body[0] != '{' {
		return nil, errors.New("cannot decode the body: expected a JSON object")
	}
	return body, nil
}

// decode reads the JSON object of an event.
func decode(event string, object []byte) (Delivery, error) {
	var p push
	err := json.Unmarshal(object, &p)
	if event != "push" {
		// Events of all kinds come here, each with fields of its own, and are
		// only recorded. A field of another type than a push has it is fine.
		var other *json.UnmarshalTypeError
		if err != nil && !errors.As(err, &other) {
			return Delivery{}, malformed("body", err)
		}
		return Delivery{Event: event, Repository: p.Repository.bounded(), Sender: p.sender(), Ignored: IgnoredEvent}, nil
	}
	if err != nil {
		return Delivery{}, malformed("push", err)
	}
	d := Delivery{
		Event:      event,
		Repository: p.Repository.bounded(),
		Ref:        p.Ref,
		Before:     strings.ToLower(p.Before),
		After:      strings.ToLower(p.After),
		Forced:     p.Forced,
		Subject:    subject(p.HeadCommit.Message),
		Sender:     p.sender(),
	}
	if err := d.check(); err != nil {
		return Delivery{}, fmt.Errorf("cannot decode the push: %w", err)
	}
	// created and deleted are left out by some senders; the SHAs never are.
	switch branch, isBranch := strings.CutPrefix(d.Ref, "refs/heads/"); {
	case strings.HasPrefix(d.Ref, "refs/tags/"):
		d.Ignored = IgnoredTag
	case !isBranch || branch == "":
		d.Ignored = IgnoredRef
	case d.After == ZeroSHA:
		d.Branch, d.Ignored = branch, IgnoredDeletion
	default:
		d.Branch = branch
	}
	return d, nil
}

// malformed says what is wrong in JSON without the words of Go.
func malformed(what string, err error) error {
	var other *json.UnmarshalTypeError
	if errors.As(err, &other) {
		return fmt.Errorf("cannot decode the %s: \"%s\" cannot be a %s", what, other.Field, other.Value)
	}
	return fmt.Errorf("cannot decode the %s: %w", what, err)
}

// check finds what no push lacks.
func (d Delivery) check() error {
	if !isName(d.Ref) {
		return fmt.Errorf("expected \"ref\" to be the full name of a ref, got %q", shorten(d.Ref, 80))
	}
	if !isSHA(d.Before) {
		return fmt.Errorf("expected \"before\" to be 40 hex digits, got %q", shorten(d.Before, 80))
	}
	if !isSHA(d.After) {
		return fmt.Errorf("expected \"after\" to be 40 hex digits, got %q", shorten(d.After, 80))
	}
	owner, name, _ := strings.Cut(d.Repository.FullName, "/")
	if owner == "" || name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("expected \"repository.full_name\" to be owner/name, got %q", shorten(d.Repository.FullName, 80))
	}
	return nil
}

func (p push) sender() string {
	if p.Sender != "" {
		return printable(string(p.Sender))
	}
	return printable(string(p.Pusher))
}

func (r repository) bounded() Repository {
	keep := func(s string) string {
		if isName(s) {
			return s
		}
		return ""
	}
	b := Repository{FullName: keep(r.FullName), CloneURL: keep(r.CloneURL), SSHURL: keep(r.SSHURL), HTMLURL: keep(r.HTMLURL)}
	b.Canonical = b.canonical()
	return b
}

// isName tells whether s is fit to be stored and shown as a name.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) })
}

func isSHA(s string) bool {
	if len(s) != len(ZeroSHA) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func subject(message string) string {
	line, _, _ := strings.Cut(strings.TrimLeft(message, "\r\n\t "), "\n")
	return printable(line)
}

// printable makes s fit for a log, a terminal, and a column.
func printable(s string) string {
	s = shorten(s, maxText)
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return -1
	}, s)
	return strings.TrimSpace(s)
}

// shorten cuts s after n runes.
func shorten(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "…"
		}
		n--
	}
	return s
}

// ping reads what a ping says about the hook: "" when it will send pushes,
// else what to change.
func ping(object []byte) (string, error) {
	var p struct {
		Hook struct {
			Events []string `json:"events"`
		} `json:"hook"`
	}
	if err := json.Unmarshal(object, &p); err != nil {
		return "", malformed("ping", err)
	}
	events := p.Hook.Events
	if len(events) == 0 || slices.Contains(events, "push") || slices.Contains(events, "*") {
		return "", nil
	}
	return "this webhook does not send push events: choose \"Just the push event\" in its settings", nil
}
