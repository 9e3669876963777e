package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// ArchivePiece is how much of an archive travels in one call: little enough
	// to be sent again when a connection breaks, and for others to get their turn.
	ArchivePiece = 2 << 20
	// archivePatience is how long a transfer waits for a coordinator that cannot
	// be reached.
	archivePatience = 2 * time.Minute
)

// ArchiveState is the answer of GET /agent/v1/archives/{digest}/state?app= and
// of PUT /agent/v1/archives/{digest}?app=&release=&offset=&last=.
type ArchiveState struct {
	Held     int64 `json:"held"`     // bytes from the start that the coordinator has
	Complete bool  `json:"complete"` // and verified
}

// ArchiveState tells how much of an archive the coordinator has.
func (c *Client) ArchiveState(ctx context.Context, app, digest string) (ArchiveState, error) {
	var out ArchiveState
	err := c.get(ctx, archivePath(digest, "/state"), url.Values{"app": {app}}, 0, &out)
	return out, err
}

func archivePath(digest, rest string) string {
	return "/agent/v1/archives/" + url.PathEscape(digest) + rest
}

// ShareArchive hands an archive of a release's built files to the coordinator,
// from where an earlier call was cut. pack writes the archive; it is called
// again, and must write the same bytes, when the coordinator has less than was
// thought. At most two pieces are in memory. It returns once the coordinator has
// verified the archive.
func (c *Client) ShareArchive(ctx context.Context, app, release, digest string, pack func(io.Writer) error) error {
	for try := 0; ; try++ {
		state, err := c.ArchiveState(ctx, app, digest)
		if err != nil || state.Complete {
			return err
		}
		w := &pieceWriter{c: c, ctx: ctx, path: archivePath(digest, ""), skip: state.Held, offset: state.Held, begun: time.Now(),
			query: url.Values{"app": {app}, "release": {release}}}
		err = pack(w)
		if failed := w.wait(); failed != nil {
			err = failed // whatever pack makes of it
		}
		if err == nil {
			w.send(true)
			err = w.wait()
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != ErrorConflict || e.Reason != ReasonOffset || try == 3 {
			return err
		}
	}
}

// ReasonOffset is the reason of the refusal of a piece that does not follow on
// what the coordinator has of the archive.
const ReasonOffset = "offset"

// pieceWriter sends what is written to it, piece by piece: one is on its way
// while the next is written.
type pieceWriter struct {
	c      *Client
	ctx    context.Context
	path   string
	query  url.Values
	skip   int64 // bytes that the coordinator has already
	offset int64 // of buf
	buf    []byte
	spare  []byte
	begun  time.Time  // the last progress
	sent   chan error // of the piece that is on its way; nil: none is
	err    error      // of sending
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	n := len(p)
	drop := min(w.skip, int64(len(p)))
	w.skip -= drop
	p = p[drop:]
	for len(p) > 0 {
		if cap(w.buf) < ArchivePiece {
			w.buf = make([]byte, 0, ArchivePiece)
		}
		k := min(len(p), ArchivePiece-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
		if len(w.buf) == ArchivePiece {
			if err := w.wait(); err != nil {
				return n - len(p), err
			}
			w.send(false)
		}
	}
	return n, nil
}

// wait returns once no piece is on its way.
func (w *pieceWriter) wait() error {
	if w.sent != nil {
		w.err = <-w.sent
		w.sent = nil
	}
	return w.err
}

// send sets out to send what was written; no other piece may be on its way.
func (w *pieceWriter) send(last bool) {
	query := url.Values{"offset": {strconv.FormatInt(w.offset, 10)}}
	if last {
		query.Set("last", "1")
	}
	maps.Copy(query, w.query)
	raw := w.buf
	if raw == nil {
		raw = []byte{}
	}
	w.offset += int64(len(raw))
	w.buf, w.spare = w.spare[:0], raw
	sent := make(chan error, 1)
	w.sent = sent
	go func() {
		sent <- w.c.patiently(w.ctx, &w.begun, func() error {
			var out ArchiveState
			return w.c.do(w.ctx, call{method: http.MethodPut, path: w.path, query: query, raw: raw, repeatable: true, waits: true}, &out)
		})
	}()
}

// patiently tries again while the coordinator cannot be reached, as long as
// there was progress not too long ago.
func (c *Client) patiently(ctx context.Context, progress *time.Time, try func() error) error {
	for {
		err := try()
		var away *UnreachableError
		if err == nil {
			*progress = time.Now()
			return nil
		}
		if !errors.As(err, &away) || time.Since(*progress) > archivePatience {
			return err
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// Archive returns the bytes of an archive. After a cut it goes on where it was;
// at most three pieces are in memory. The caller closes it, and judges what it
// read by the digest.
func (c *Client) Archive(ctx context.Context, app, digest string) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r := &pieceReader{next: make(chan piece, 1), cancel: cancel}
	go r.fetch(ctx, c, app, digest)
	return r
}

type piece struct {
	data []byte
	err  error
}

// pieceReader fetches one piece ahead of what is read.
type pieceReader struct {
	next   chan piece
	cur    piece
	cancel context.CancelFunc
}

func (r *pieceReader) fetch(ctx context.Context, c *Client, app, digest string) {
	defer close(r.next)
	progress := time.Now()
	for offset, total := int64(0), int64(1); offset < total; {
		var p piece
		p.err = c.patiently(ctx, &progress, func() (err error) {
			p.data, total, err = c.archivePiece(ctx, app, digest, offset)
			return err
		})
		offset += int64(len(p.data))
		select {
		case r.next <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil {
			return
		}
	}
}

// archivePiece fetches what stands at offset, and tells how long the whole is.
func (c *Client) archivePiece(ctx context.Context, app, digest string, offset int64) (data []byte, total int64, err error) {
	rq := call{
		method: http.MethodGet, path: archivePath(digest, ""), query: url.Values{"app": {app}}, limit: ArchivePiece,
		span: fmt.Sprintf("%d-%d", offset, offset+ArchivePiece-1), repeatable: true, waits: true,
	}
	a, err := c.send(ctx, rq)
	if err != nil {
		return nil, 0, err
	}
	_, size, _ := strings.Cut(a.header.Get("Content-Range"), "/")
	total, err = strconv.ParseInt(size, 10, 64)
	if err != nil || a.status != http.StatusPartialContent || len(a.body) == 0 || offset+int64(len(a.body)) > total {
		return nil, 0, &AnswerError{Method: rq.method, URL: c.base + rq.path, Status: a.status, What: "a piece that was not asked for", Err: err}
	}
	return a.body, total, nil
}

func (r *pieceReader) Read(p []byte) (int, error) {
	for len(r.cur.data) == 0 {
		if r.cur.err != nil {
			return 0, r.cur.err
		}
		next, more := <-r.next
		if !more {
			next.err = io.EOF
		}
		r.cur = next
	}
	n := copy(p, r.cur.data)
	r.cur.data = r.cur.data[n:]
	return n, nil
}

// Close gives up what was not read yet.
func (r *pieceReader) Close() error {
	r.cancel()
	return nil
}
