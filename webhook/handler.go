package webhook

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"
)

type handler struct {
	secrets [][]byte
	sink    Sink
	log     *slog.Logger
}

// Response is the JSON body with which a delivery is answered that was taken.
type Response struct {
	Delivery string   `json:"delivery"`
	Decision string   `json:"decision"` // accepted, ignored, duplicate, or pong
	Reason   string   `json:"reason,omitempty"`
	Apps     []string `json:"apps,omitempty"`
}

// refusal is the JSON body of what was not. Whoever reads it reads it in
// GitHub's list of recent deliveries, so it says what to change there.
type refusal struct {
	status int
	Kind   string `json:"kind"`
	Text   string `json:"text"`
}

func (r *refusal) Error() string { return r.Text }

func refuse(status int, kind, format string, args ...any) *refusal {
	return &refusal{status: status, Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, a, err := h.serve(w, r)
	if err == nil {
		write(w, status, a)
		return
	}
	var no *refusal
	if !errors.As(err, &no) {
		no = refuse(http.StatusBadRequest, "invalid", "%s", err)
	}
	if no.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	write(w, no.status, no)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) (int, Response, error) {
	if r.Method != http.MethodPost {
		return 0, Response{}, refuse(http.StatusMethodNotAllowed, "invalid", "expected a POST, got a %s", shorten(r.Method, 20))
	}
	media := mediaType(r.Header.Get("Content-Type"))
	if media == "" {
		return 0, Response{}, refuse(http.StatusUnsupportedMediaType, "invalid",
			"expected the content type %s or %s: choose the first in the webhook's settings", mediaJSON, mediaForm)
	}
	signature, err := signature(r.Header)
	if err != nil {
		return 0, Response{}, err
	}
	body, err := read(w, r)
	if err != nil {
		return 0, Response{}, err
	}
	if !h.verify(signature, body) {
		return 0, Response{}, refuse(http.StatusUnauthorized, "unauthorized",
			"the signature does not match: the webhook's secret at GitHub and the one configured here must be the same")
	}

	id, event := github.DeliveryID(r), github.WebHookType(r)
	if !isToken(id) {
		return 0, Response{}, refuse(http.StatusBadRequest, "invalid", "expected the delivery's id in the header %s", github.DeliveryIDHeader)
	}
	if !isToken(event) {
		return 0, Response{}, refuse(http.StatusBadRequest, "invalid", "expected the event's name in the header %s", github.EventTypeHeader)
	}
	object, err := payload(media, body)
	if err != nil {
		return 0, Response{}, err
	}
	if event == "ping" {
		advice, err := ping(object)
		return http.StatusOK, Response{Delivery: id, Decision: "pong", Reason: advice}, err
	}
	d, err := decode(event, object)
	if err != nil {
		return 0, Response{}, err
	}
	d.ID, d.Received = id, time.Now().UTC()
	return h.record(r.Context(), d)
}

func (h *handler) record(ctx context.Context, d Delivery) (int, Response, error) {
	ctx, cancel := context.WithTimeout(ctx, SinkTimeout)
	defer cancel()
	a, err := h.sink.Receive(ctx, d)
	if err != nil {
		h.log.ErrorContext(ctx, "cannot record a webhook delivery", "delivery", d.ID, "event", d.Event,
			"repository", d.Repository.FullName, "error", err)
		return 0, Response{}, refuse(http.StatusServiceUnavailable, "unavailable",
			"the delivery could not be recorded and nothing was started: redeliver it later")
	}
	if a.Duplicate {
		return http.StatusOK, Response{Delivery: d.ID, Decision: "duplicate", Reason: a.Reason, Apps: a.Apps}, nil
	}
	return http.StatusAccepted, Response{Delivery: d.ID, Decision: a.Decision, Reason: a.Reason, Apps: a.Apps}, nil
}

// signature is the one SHA-256 signature of a request, well-formed. SHA-1 is
// never accepted in its place.
func signature(header http.Header) (string, error) {
	values := header.Values(github.SHA256SignatureHeader)
	if len(values) == 0 {
		return "", refuse(http.StatusUnauthorized, "unauthorized",
			"the delivery is not signed with SHA-256: set the secret in the webhook's settings at GitHub")
	}
	digest, isSHA256 := strings.CutPrefix(values[0], "sha256=")
	if _, err := hex.DecodeString(digest); err != nil || !isSHA256 || len(digest) != 64 || len(values) > 1 {
		return "", refuse(http.StatusUnauthorized, "unauthorized",
			"expected one header %s of the form sha256=<64 hex digits>", github.SHA256SignatureHeader)
	}
	return values[0], nil
}

// verify tells whether any of the secrets made the signature. It always tries
// all of them, so that time does not tell which.
func (h *handler) verify(signature string, body []byte) bool {
	match := false
	for _, s := range h.secrets {
		if github.ValidateSignature(signature, body, s) == nil {
			match = true
		}
	}
	return match
}

// read reads at most MaxBody bytes. The length that the sender announces is
// trusted for a small buffer only.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "too_large", "the body is larger than %d MiB", MaxBody>>20)
	if r.ContentLength > MaxBody {
		return nil, tooLarge
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(min(r.ContentLength, 256<<10)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, MaxBody)); err != nil {
		var over *http.MaxBytesError
		if errors.As(err, &over) {
			return nil, tooLarge
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("cannot read the body: it ended early")
		}
		return nil, errors.New("cannot read the body")
	}
	return b.Bytes(), nil
}

// isToken tells whether s is fit to be stored and shown: header values are
// not covered by the signature.
func isToken(s string) bool {
	if s == "" || len(s) > 100 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

func write(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"kind":"internal","text":"cannot write the answer"}`)
	}
	w.Header().Set("Content-Type", mediaJSON)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// Nothing is left to be done for a sender that has gone.
	_, _ = w.Write(append(b, '\n'))
}
