package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// source remembers how reading ended, to tell a damaged archive from one that
// could not be read, and ends with its context.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil && s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.err = err
	return n, err
}

// bounded is the tar stream, up to a limit.
type bounded struct {
	r     io.Reader
	left  int64
	zeros int // at its end, so far
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &BadError{Why: "unpacks to too much", Err: ErrNoRoom}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	kept := len(bytes.TrimRight(p[:n], "\x00"))
	if kept > 0 {
		b.zeros = 0
	}
	b.zeros += n - kept
	return n, err
}

// trailer is how a tar stream ends: one that was cut between two entries does not.
const trailer = 1024

// ends sees that the tar stream ends as it must, with nothing after it.
func ends(r *bounded) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for _, c := range buf[:n] {
			if c != 0 {
				return bad("", "has data after its end")
			}
		}
		if errors.Is(err, io.EOF) {
			if r.zeros < trailer {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
