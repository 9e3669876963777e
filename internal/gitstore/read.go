package gitstore

import (
	"bufio"
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Content is an object that is being read. It is to be closed.
type Content struct {
	Kind  Kind
	Size  int64
	bytes []byte    // of a small one
	large io.Reader // of another
	file  *os.File  // that large reads from, if it is ours
	hash  Hash      // that it must have
	buf   *[]byte   // that bytes are in, if they are nobody else's
}

// Close frees what it holds. What [Content.Bytes] returned is not to be used any
// more.
func (c *Content) Close() {
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf, c.bytes = nil, nil
	}
	if c.file != nil {
		c.file.Close()
	}
}

// Bytes returns the content when it is small; it must not be changed. It was
// verified.
func (c *Content) Bytes() (content []byte, small bool) { return c.bytes, c.bytes != nil }

// WriteTo writes the content, which may be done once, and verifies it on the
// way: what was written is only to be relied on when there is no error.
func (c *Content) WriteTo(w io.Writer) (int64, error) {
	if c.bytes != nil {
		n, err := w.Write(c.bytes)
		return int64(n), err
	}
	d := newDigest(c.Kind, c.Size)
	failed := &failing{w: w}
	n, err := io.CopyBuffer(io.MultiWriter(failed, d), io.LimitReader(c.large, c.Size+1), make([]byte, 128<<10))
	switch {
	case failed.err != nil:
		return n, failed.err
	case err != nil:
		return n, corrupt("object %s: %v", c.hash, err)
	case digestSum(d) != c.hash:
		return n, corrupt("object %s: the content does not match", c.hash)
	}
	return n, nil
}

// failing remembers the error of a writer, to be told from that of a reader.
type failing struct {
	w   io.Writer
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.err = err
	return n, err
}

// reader reads objects out of packs. Its methods may be called by several
// goroutines at once.
type reader struct {
	temp  func() (*os.File, error) // a file without a name, for what is large
	bases cache
}

// object returns the object at a place, not verified.
func (v *reader) object(at place) (*Content, error) {
	c, err := v.inMemory(at)
	if errors.Is(err, errLarge) {
		return v.throughFiles(at)
	}
	return c, err
}

// errLarge tells that not all that an object is made of is small.
var errLarge = errors.New("large")

// inMemory resolves deltas from the first object that is known, or none, up.
func (v *reader) inMemory(at place) (*Content, error) {
	type step struct {
		at    place
		delta *[]byte
	}
	var steps []step
	var base *Content
	top := at
	for {
		if base = v.bases.get(at); base != nil {
			break
		}
		r, content, err := at.pack.load(at.at)
		if err != nil {
			return nil, err
		}
		if content == nil {
			return nil, errLarge
		}
		if !r.kind.isDelta() {
			base = &Content{Kind: r.kind, Size: r.size, bytes: *content, buf: content}
			break
		}
		if len(steps) > maxChain {
			return nil, corrupt("too many differences build on one another")
		}
		steps = append(steps, step{at, content})
		at = r.base
	}
	if at != top {
		base.buf = nil // others will read it too
		v.bases.put(at, base)
	}
	for i := len(steps) - 1; i >= 0; i-- {
		baseSize, size, instructions, err := deltaSizes(*steps[i].delta)
		if err != nil {
			return nil, err
		}
		if size > small {
			return nil, errLarge
		}
		out := new([]byte)
		if i == 0 {
			out = sized(size)
		} else {
			*out = make([]byte, size)
		}
		if err := applyDelta(*out, base.bytes, baseSize, instructions); err != nil {
			return nil, err
		}
		buffers.Put(steps[i].delta)
		base = &Content{Kind: base.Kind, Size: size, bytes: *out, buf: out}
		if i > 0 {
			base.buf = nil
			v.bases.put(steps[i].at, base)
		}
	}
	return base, nil
}

// maxObject bounds what is unpacked of one object.
const maxObject = 1 << 40

// throughFiles resolves deltas as inMemory does, for what is too large for it.
func (v *reader) throughFiles(at place) (c *Content, err error) {
	var deltas []raw
	var packs []*pack
	var buf []byte
	for {
		r, _, err := at.pack.look(at.at, &buf)
		if err != nil {
			return nil, err
		}
		packs, deltas = append(packs, at.pack), append(deltas, r)
		if !r.kind.isDelta() {
			break
		}
		if len(deltas) > maxChain {
			return nil, corrupt("too many differences build on one another")
		}
		at = r.base
	}
	last := len(deltas) - 1
	root := deltas[last]
	if root.size > maxObject {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, root.size)
	}
	in, err := packs[last].stream(root)
	if err != nil {
		return nil, err
	}
	if last == 0 {
		return &Content{Kind: root.kind, Size: root.size, large: in}, nil
	}
	base, err := v.temp()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			base.Close()
		}
	}()
	size, err := io.Copy(base, io.LimitReader(in, root.size+1))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack an object: %w", err)
	}
	if size != root.size {
		return nil, corrupt("an object has another size than it says")
	}
	for i := last - 1; i >= 0; i-- {
		in, err := packs[i].stream(deltas[i])
		if err != nil {
			return nil, err
		}
		next, err := v.temp()
		if err != nil {
			return nil, err
		}
		out := bufio.NewWriterSize(next, 128<<10)
		n, err := streamDelta(base, size, bufio.NewReader(in), maxObject, out)
		if err := errors.Join(err, out.Flush()); err != nil {
			next.Close()
			return nil, fmt.Errorf("cannot unpack an object: %w", err)
		}
		base.Close()
		base, size = next, n
	}
	return &Content{Kind: root.kind, Size: size, large: io.NewSectionReader(base, 0, size), file: base}, nil
}

// cache holds contents that others build on, the last used.
type cache struct {
	mu     sync.Mutex
	bytes  int
	recent list.List // of *held, the last used first
	byAt   map[place]*list.Element
}

// maxCache bounds what a cache holds.
const maxCache = 12 << 20

type held struct {
	at place
	c  *Content
}

func (c *cache) get(at place) *Content {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byAt[at]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*held).c
}

func (c *cache) put(at place, o *Content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byAt == nil {
		c.byAt = map[place]*list.Element{}
	}
	if c.byAt[at] != nil {
		return
	}
	c.byAt[at] = c.recent.PushFront(&held{at, o})
	for c.bytes += len(o.bytes); c.bytes > maxCache; {
		oldest := c.recent.Back()
		h := c.recent.Remove(oldest).(*held)
		delete(c.byAt, h.at)
		c.bytes -= len(h.c.bytes)
	}
}

// verify checks what was read against its name, and gives it that. Large content
// is verified as it is written.
func (c *Content) verify(h Hash) error {
	c.hash = h
	if c.bytes != nil && Sum(c.Kind, c.bytes) != h {
		return corrupt("object %s: the content does not match", h)
	}
	return nil
}
