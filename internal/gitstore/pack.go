package gitstore

import (
	"bufio"
	"compress/zlib"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

const (
	// small is how large objects may be that are held in memory. Larger ones go
	// through files.
	small = 1 << 20
	// maxChain is how many deltas may build on one another; git makes 50 and
	// accepts 4095.
	maxChain = 4095
	// trailer ends a pack: the SHA-1 of all before it.
	trailer = sha1.Size
)

// pack is one file of objects. It is read by position rather than mapped: what
// happens to the file ends in an error, not in a signal, and pages that were
// read do not count as ours.
type pack struct {
	file  *os.File
	index *index // nil while the pack arrives
	once  sync.Once
	at    []int64 // where objects begin, in order; see starts
	end   int64   // where the trailer begins
	byAt  sync.Once
	order []uint32 // the objects of the index by where they begin; see name
	// base finds the object that a refDelta builds on.
	base func(Hash) (*pack, int64, error)
}

// starts returns where objects begin, in order.
func (p *pack) starts() []int64 {
	p.once.Do(func() {
		if p.at == nil {
			p.at = p.index.offsets()
		}
	})
	return p.at
}

// raw is an object as it is in a pack.
type raw struct {
	kind Kind
	size int64 // of what body inflates to
	base place // of what a delta builds on
	name Hash  // of what a refDelta builds on
	body int64 // where the compressed content begins
	end  int64 // at most where it ends
}

// place is where an object is.
type place struct {
	pack *pack
	at   int64
}

// maxHead bounds what precedes the content: ten bytes of size, and ten of an
// offset or a name.
const maxHead = 10 + sha1.Size

var errHead = corrupt("an object in a pack begins wrongly")

// parseHead reads what precedes the content of an object at offset at. For an
// ofsDelta, back is how far before it its base is.
func parseHead(b []byte) (kind Kind, size, back int64, name Hash, n int, err error) {
	fail := func() (Kind, int64, int64, Hash, int, error) { return 0, 0, 0, Hash{}, 0, errHead }
	if len(b) == 0 {
		return fail()
	}
	kind, size = Kind(b[0]>>4&7), int64(b[0]&15)
	n = 1
	for shift := 4; b[n-1]&0x80 != 0; shift += 7 {
		if n >= len(b) || shift > 55 {
			return fail()
		}
		size |= int64(b[n]&0x7f) << shift
		n++
	}
	switch kind {
	case Commit, Tree, Blob, Tag:
	case refDelta:
		if len(b)-n < len(name) {
			return fail()
		}
		n += copy(name[:], b[n:])
	case ofsDelta:
		for i := 0; ; i++ {
			if n >= len(b) || i > 8 {
				return fail()
			}
			c := b[n]
			n++
			back |= int64(c & 0x7f)
			if c&0x80 == 0 {
				break
			}
			back = (back + 1) << 7
		}
	default:
		return fail()
	}
	return kind, size, back, name, n, nil
}

// look reads an object's head, and with it what is small of the rest: content is
// the compressed content, or nil when that is too long to be read at once.
func (p *pack) look(at int64, buf *[]byte) (raw, []byte, error) {
	starts := p.starts()
	i, ok := slices.BinarySearch(starts, at)
	if !ok {
		return raw{}, nil, corrupt("there is no object at offset %d of a pack", at)
	}
	r := raw{end: p.end}
	if i+1 < len(starts) {
		r.end = starts[i+1]
	}
	length := r.end - at
	whole := length <= small+small/8
	if !whole {
		length = maxHead
	}
	if length <= 0 {
		return raw{}, nil, corrupt("a pack is shorter than its index says")
	}
	*buf = slices.Grow((*buf)[:0], int(length))[:length]
	if n, err := p.file.ReadAt(*buf, at); err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
		return raw{}, nil, readError(err)
	} else if n < len(*buf) {
		*buf, whole = (*buf)[:n], true // what is missing will be noticed
	}
	kind, size, back, name, n, err := parseHead(*buf)
	if err != nil {
		return raw{}, nil, err
	}
	r.kind, r.size, r.name, r.body = kind, size, name, at+int64(n)
	switch kind {
	case ofsDelta:
		if back <= 0 || back > at {
			return raw{}, nil, errHead
		}
		r.base = place{p, at - back}
	case refDelta:
		if r.base.pack, r.base.at, err = p.base(name); err != nil {
			return raw{}, nil, err
		}
	}
	if !whole {
		return r, nil, nil
	}
	return r, (*buf)[n:], nil
}

// readError tells a file that is too short, which is damage, from one that
// cannot be read.
func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("a pack is cut short")
	}
	return fmt.Errorf("cannot read a pack: %w", err)
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// sized takes a buffer from the pool and makes it n bytes long. Who takes it may
// give it back or let it go.
func sized(n int64) *[]byte {
	buf := buffers.Get().(*[]byte)
	if *buf == nil {
		*buf = make([]byte, 0, 16<<10) // also what is empty is not nil
	}
	*buf = slices.Grow((*buf)[:0], int(n))[:n]
	return buf
}

// load returns the content of an object that is small, as it is in the pack: of a
// delta the delta. When it is not small, content is nil.
func (p *pack) load(at int64) (r raw, content *[]byte, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	r, in, err := p.look(at, buf)
	if err != nil || in == nil || r.size > small {
		return r, nil, err
	}
	content = sized(r.size)
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	if _, err := f.inflate(*content, in); err != nil {
		if errors.Is(err, errShort) {
			err = corrupt("%v", err)
		}
		return r, nil, err
	}
	return r, content, nil
}

// stream returns the content of an object as it is in the pack, of any size.
func (p *pack) stream(r raw) (io.ReadCloser, error) {
	z, err := zlib.NewReader(bufio.NewReaderSize(io.NewSectionReader(p.file, r.body, r.end-r.body), 64<<10))
	if err != nil {
		return nil, corrupt("a compressed object: %v", err)
	}
	return z, nil
}
