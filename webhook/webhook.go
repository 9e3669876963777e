// Package webhook receives GitHub's webhook deliveries: it caps, verifies,
// and decodes them, and hands each one to a [Sink] that records it.
//
// It knows nothing of rollouts. A delivery is a hint that a branch moved, no
// more: the X-GitHub-Delivery and X-GitHub-Event headers are not covered by the
// signature, deliveries arrive late, twice, out of order, or not at all. What
// to deploy is decided elsewhere, by reading the branch itself.
package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

const (
	// MaxBody is the largest body that is read. GitHub sends no larger one.
	MaxBody = 25 << 20
	// SinkTimeout bounds [Sink.Receive]. GitHub gives up on an answer after 10 s
	// and would show a delivery as failed that was in fact recorded.
	SinkTimeout = 8 * time.Second
)

// Sink records deliveries.
type Sink interface {
	// Receive records d durably before it returns, once for each d.ID: a
	// repeated ID changes nothing and is answered with Duplicate. It is called
	// from many goroutines, with deliveries whose signature was verified. After
	// an error the sender is told that the delivery was not taken, so that it
	// can be redelivered with the same ID.
	Receive(ctx context.Context, d Delivery) (Answer, error)
}

// Answer is what a [Sink] made of a delivery.
type Answer struct {
	Duplicate bool   // the ID was recorded before
	Decision  string // "accepted", "ignored", "refused"
	Reason    string // why, for people
	Apps      []string
}

// Options configure [New].
type Options struct {
	// Secrets that a delivery may be signed with: one, or the new and the old
	// one while the secret is being changed. None may be empty.
	Secrets [][]byte
	Sink    Sink
	// Log gets the sink's failures, which the sender is not told in detail.
	// slog.Default() when nil.
	Log *slog.Logger
}

// New returns the handler for deliveries of one endpoint. It answers with 202
// what the sink recorded, with 200 pings and repeated deliveries, with 401
// whatever is not signed with one of the secrets, and with 503 what the sink
// could not record. It bounds the memory of a request, not their number.
func New(o Options) (http.Handler, error) {
	if len(o.Secrets) == 0 {
		return nil, errors.New("cannot receive webhooks: expected at least one secret, got none")
	}
	if o.Sink == nil {
		return nil, errors.New("cannot receive webhooks: expected a sink, got none")
	}
	h := &handler{sink: o.Sink, log: o.Log}
	if h.log == nil {
		h.log = slog.Default()
	}
	for i, s := range o.Secrets {
		if len(bytes.TrimSpace(s)) == 0 {
			// Anyone can sign with an empty key.
			return nil, fmt.Errorf("cannot receive webhooks: secret %d of %d is empty", i+1, len(o.Secrets))
		}
		h.secrets = append(h.secrets, bytes.Clone(s))
	}
	return h, nil
}
