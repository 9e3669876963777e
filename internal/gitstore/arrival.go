package gitstore

import (
	"bufio"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

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
