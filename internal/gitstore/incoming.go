package gitstore

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"syscall"
)

// incoming is a pack that is read as it arrives.
type incoming struct {
	src io.Reader
	out *os.File

	buf       []byte // what came and was not taken yet is buf[at:fill]
	at, fill  int
	srcErr    error
	flushed   int // buf[:flushed] is written and summed
	offset    int64
	sum       hash.Hash
	crc       uint32
	announced uint32

	entries []entry
	names   []Hash // of the bases of refDeltas
	packSum [sha1.Size]byte
}

func newIncoming(r io.Reader, f *os.File) *incoming {
	return &incoming{src: r, out: f, buf: make([]byte, 256<<10), sum: sha1.New()}
}

// need makes n bytes ready, or all that there are.
func (in *incoming) need(n int) error {
	if in.fill-in.at >= n {
		return nil
	}
	if err := in.flush(); err != nil {
		return err
	}
	if n > len(in.buf) {
		in.buf = append(in.buf, make([]byte, n-len(in.buf))...)
	}
	in.fill = copy(in.buf, in.buf[in.at:in.fill])
	in.at, in.flushed = 0, 0
	for in.fill < n && in.srcErr == nil {
		var k int
		k, in.srcErr = in.src.Read(in.buf[in.fill:])
		in.fill += k
	}
	if in.srcErr != nil && !errors.Is(in.srcErr, io.EOF) {
		return in.srcErr
	}
	return nil
}

// flush writes down what was taken.
func (in *incoming) flush() error {
	b := in.buf[in.flushed:in.at]
	in.flushed = in.at
	_, _ = in.sum.Write(b)
	in.crc = crc32.Update(in.crc, crc32.IEEETable, b)
	if _, err := in.out.Write(b); err != nil {
		return fmt.Errorf("cannot store a pack: %w", err)
	}
	return nil
}

func (in *incoming) take(n int) {
	in.at += n
	in.offset += int64(n)
}

// Read and ReadByte serve what is too large for memory.
func (in *incoming) Read(p []byte) (int, error) {
	if err := in.need(1); err != nil {
		return 0, err
	}
	n := copy(p, in.buf[in.at:in.fill])
	if n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	in.take(n)
	return n, nil
}

func (in *incoming) ReadByte() (byte, error) {
	if in.at == in.fill {
		if err := in.need(1); err != nil {
			return 0, err
		}
		if in.at == in.fill {
			return 0, io.ErrUnexpectedEOF
		}
	}
	b := in.buf[in.at]
	in.take(1)
	return b, nil
}

var errCut = fmt.Errorf("the pack is cut short: %w", io.ErrUnexpectedEOF)

// scan reads the whole pack. Objects that are no deltas have their hash then.
func (in *incoming) scan() error {
	if err := in.need(12); err != nil {
		return err
	}
	b := in.buf[in.at:in.fill]
	if len(b) < 12 {
		return errCut
	}
	if string(b[:4]) != "PACK" || binary.BigEndian.Uint32(b[4:]) != 2 {
		return corrupt("what arrived is no pack of version 2")
	}
	in.announced = binary.BigEndian.Uint32(b[8:])
	in.take(12)
	if err := in.flush(); err != nil {
		return err
	}
	var out []byte
	for range in.announced {
		if err := in.object(&out); err != nil {
			return err
		}
	}
	if err := errors.Join(in.flush(), in.need(trailer)); err != nil {
		return err
	}
	if in.fill-in.at < trailer {
		return errCut
	}
	in.sum.Sum(in.packSum[:0])
	if !bytes.Equal(in.packSum[:], in.buf[in.at:in.at+trailer]) {
		return corrupt("the pack's checksum does not match")
	}
	if _, err := in.out.Write(in.packSum[:]); err != nil {
		return fmt.Errorf("cannot store a pack: %w", err)
	}
	// Whoever sends may have more to say behind the pack; it is read for its sake.
	_, _ = io.Copy(io.Discard, in.src)
	return nil
}

func (in *incoming) object(out *[]byte) error {
	e := entry{offset: in.offset}
	if err := in.need(maxHead); err != nil {
		return err
	}
	kind, size, back, name, n, err := parseHead(in.buf[in.at:in.fill])
	if err != nil {
		if in.fill-in.at < maxHead {
			return errCut
		}
		return err
	}
	e.kind = kind
	switch kind {
	case ofsDelta:
		e.base = e.offset - back
		if back <= 0 || e.base < 12 {
			return errHead
		}
	case refDelta:
		e.base = int64(len(in.names))
		in.names = append(in.names, name)
	}
	in.crc = 0
	in.take(n)
	if size > small {
		err = in.large(&e, size)
	} else {
		err = in.small(&e, int(size), out)
	}
	if err == nil {
		err = in.flush()
	}
	e.crc = in.crc
	in.entries = append(in.entries, e)
	return err
}

func (in *incoming) small(e *entry, size int, out *[]byte) error {
	// So much is the most that it can take, but for a sender who cuts it up in
	// odd ways.
	if err := in.need(size + size/1000 + 64); err != nil {
		return err
	}
	*out = slices.Grow((*out)[:0], size)[:size]
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	n, err := f.inflate(*out, in.buf[in.at:in.fill])
	for more := 2 * size; errors.Is(err, errShort) && in.srcErr == nil && more < 64<<20; more = 2*more + 1024 {
		if err := in.need(more); err != nil {
			return err
		}
		n, err = f.inflate(*out, in.buf[in.at:in.fill])
	}
	if errors.Is(err, errShort) {
		return errCut
	}
	if err != nil {
		return err
	}
	in.take(n)
	if !e.kind.isDelta() {
		e.hash, e.known = Sum(e.kind, *out), true
	}
	return nil
}

func (in *incoming) large(e *entry, size int64) error {
	if size > maxObject {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	z, err := zlib.NewReader(in)
	if err != nil {
		return in.broken(err)
	}
	d := newDigest(e.kind, size)
	n, err := io.CopyBuffer(d, io.LimitReader(z, size+1), make([]byte, 64<<10))
	if err != nil {
		return in.broken(err)
	}
	if n != size {
		return corrupt("an object has another size than it says")
	}
	// Its checksum comes behind the last byte.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return in.broken(err)
	}
	if !e.kind.isDelta() {
		e.hash, e.known = digestSum(d), true
	}
	return nil
}

// broken tells what was garbled from what did not arrive.
func (in *incoming) broken(err error) error {
	var errno syscall.Errno
	switch {
	case in.srcErr != nil && !errors.Is(in.srcErr, io.EOF):
		return in.srcErr
	case errors.As(err, &errno):
		return err // of writing it down
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	}
	return corrupt("a compressed object: %v", err)
}

func (in *incoming) starts() []int64 {
	at := make([]int64, len(in.entries))
	for i := range in.entries {
		at[i] = in.entries[i].offset
	}
	return at
}
