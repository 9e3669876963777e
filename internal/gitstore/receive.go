package gitstore

import (
	"bufio"
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
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
)

// Receive takes a pack and makes it part of the store; all of it or nothing.
// What the pack builds on and does not hold (a thin pack) is taken from the
// store and added to it, so that every pack stands alone.
//
// Errors: [ErrCorrupt], [ErrMissing] when it builds on what is not there, those
// of r, and those of the system.
func (s *Store) Receive(r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "objects", "pack"), "tmp_pack_*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	in := newIncoming(r, f)
	if err := in.scan(); err != nil {
		return err
	}
	if len(in.entries) == 0 {
		return os.Remove(tmp)
	}
	v, err := s.View()
	if err != nil {
		return err
	}
	defer v.Close()
	a := &arrival{view: v, incoming: in, pack: &pack{file: f, at: in.starts(), end: in.offset}}
	if err := a.resolve(); err != nil {
		return err
	}
	sum := in.packSum
	if len(a.outside) > 0 {
		if sum, err = a.complete(); err != nil {
			return err
		}
	}
	stem := filepath.Join(s.dir, "objects", "pack", fmt.Sprintf("pack-%x", sum))
	idx := tmp + ".idx"
	if err := os.WriteFile(idx, encodeIndex(in.entries, sum), 0o444); err != nil {
		return errors.Join(err, os.RemoveAll(idx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(os.Chmod(tmp, 0o444), os.Rename(tmp, stem+".pack")); err != nil {
		return errors.Join(err, os.Remove(idx))
	}
	tmp = stem + ".pack"
	return os.Rename(idx, stem+".idx")
}

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

// arrival resolves the deltas of a pack that has arrived.
type arrival struct {
	*incoming
	view *View
	pack *pack

	mu      sync.Mutex
	byName  map[Hash]int64 // where objects are whose hash is known, if refDeltas need it
	outside map[Hash]bool  // objects of the store that the pack builds on
}

// resolve finds out the hash of every delta. One may build on an object whose
// own hash comes out only then, so it goes on as long as that helps.
func (a *arrival) resolve() error {
	var todo []int
	a.outside = map[Hash]bool{}
	if len(a.names) > 0 {
		a.byName = make(map[Hash]int64, len(a.entries))
	}
	for i := range a.entries {
		if e := &a.entries[i]; !e.known {
			todo = append(todo, i)
		} else if a.byName != nil {
			a.byName[e.hash] = e.offset
		}
	}
	a.pack.base = a.find
	v := &reader{temp: a.view.temp}
	for len(todo) > 0 {
		left, err := a.round(v, todo)
		if err != nil {
			return err
		}
		if len(left) == len(todo) {
			return fmt.Errorf("%w: the pack builds on an object that is neither in it nor here", ErrMissing)
		}
		todo = left
		if a.byName == nil {
			continue
		}
		for i := range a.entries {
			if e := &a.entries[i]; e.known {
				a.byName[e.hash] = e.offset
			}
		}
	}
	return nil
}

// round resolves what it can, on every processor, and returns what is left.
func (a *arrival) round(v *reader, todo []int) (left []int, err error) {
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	const batch = 64 // neighbours build on the same objects
	for range min(runtime.GOMAXPROCS(0), 4) {
		wg.Go(func() {
			for !stop.Load() {
				from := int(next.Add(batch)) - batch
				if from >= len(todo) {
					return
				}
				for _, i := range todo[from:min(from+batch, len(todo))] {
					e := &a.entries[i]
					h, e2 := a.one(v, e.offset)
					if e2 == nil {
						e.hash, e.known = h, true
						continue
					}
					a.mu.Lock()
					if errors.Is(e2, ErrMissing) {
						left = append(left, i)
					} else if err == nil {
						err = e2
						stop.Store(true)
					}
					a.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return left, err
}

func (a *arrival) one(v *reader, at int64) (Hash, error) {
	c, err := v.object(place{a.pack, at})
	if err != nil {
		return Hash{}, err
	}
	defer c.Close()
	if c.bytes != nil {
		return Sum(c.Kind, c.bytes), nil
	}
	d := newDigest(c.Kind, c.Size)
	if _, err := io.CopyBuffer(d, c.large, make([]byte, 64<<10)); err != nil {
		return Hash{}, err
	}
	return digestSum(d), nil
}

// find returns where the base of a refDelta is.
func (a *arrival) find(h Hash) (*pack, int64, error) {
	if at, ok := a.byName[h]; ok {
		return a.pack, at, nil
	}
	p, at, err := a.view.find(h)
	if err == nil {
		a.mu.Lock()
		a.outside[h] = true
		a.mu.Unlock()
	}
	return p, at, err
}

// complete appends the objects of the store that the pack builds on.
func (a *arrival) complete() (sum [sha1.Size]byte, err error) {
	for h := range a.outside {
		if _, in := a.byName[h]; in {
			delete(a.outside, h) // it came out later that the pack has it
		}
	}
	if _, err := a.out.Seek(a.offset, io.SeekStart); err != nil {
		return sum, err
	}
	w := &appender{w: bufio.NewWriterSize(a.out, 64<<10), offset: a.offset}
	for h := range a.outside {
		e := entry{offset: w.offset, hash: h, known: true}
		if err := w.object(a.view, h); err != nil {
			return sum, fmt.Errorf("cannot complete a pack: %w", err)
		}
		e.crc = w.crc
		a.entries = append(a.entries, e)
	}
	if err := w.w.Flush(); err != nil {
		return sum, err
	}
	var count [4]byte
	binary.BigEndian.PutUint32(count[:], uint32(len(a.entries)))
	if _, err := a.out.WriteAt(count[:], 8); err != nil {
		return sum, err
	}
	d := sha1.New()
	if _, err := io.Copy(d, io.NewSectionReader(a.out, 0, w.offset)); err != nil {
		return sum, err
	}
	d.Sum(sum[:0])
	_, err = a.out.WriteAt(sum[:], w.offset)
	return sum, err
}

// appender writes whole objects in the form of a pack.
type appender struct {
	w      *bufio.Writer
	z      *zlib.Writer
	offset int64
	crc    uint32 // of the last object
}

// Write writes bytes of a pack.
func (w *appender) Write(p []byte) (int, error) {
	w.offset += int64(len(p))
	w.crc = crc32.Update(w.crc, crc32.IEEETable, p)
	return w.w.Write(p)
}

func (w *appender) object(v *View, h Hash) error {
	c, err := v.Read(h)
	if err != nil {
		return err
	}
	defer c.Close()
	w.crc = 0
	if _, err := w.Write(appendHead(nil, c.Kind, c.Size)); err != nil {
		return err
	}
	if w.z == nil {
		if w.z, err = zlib.NewWriterLevel(w, zlib.BestSpeed); err != nil {
			return err
		}
	} else {
		w.z.Reset(w)
	}
	if _, err := c.WriteTo(w.z); err != nil {
		return err
	}
	return w.z.Close()
}

// appendHead is what precedes the content of an object in a pack, but for what a
// delta builds on.
func appendHead(b []byte, k Kind, size int64) []byte {
	first, rest := byte(k)<<4|byte(size&15), size>>4
	for rest > 0 {
		b = append(b, first|0x80)
		first, rest = byte(rest&0x7f), rest>>7
	}
	return append(b, first)
}
