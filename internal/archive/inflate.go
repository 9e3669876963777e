package archive

import (
	"bufio"
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// inflater reads what a [compressor] wrote. Frames know nothing of each other, so
// several are inflated at once, which a decoder of streams does not do.
type inflater struct {
	order chan *block
	stop  chan struct{}
	wg    sync.WaitGroup
	dec   *zstd.Decoder

	cur  *block
	rest []byte // of cur, still to be read
	err  error
}

func newInflater(r io.Reader) (*inflater, error) {
	n := min(runtime.GOMAXPROCS(0), 4)
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(n), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxFrame))
	if err != nil {
		return nil, err
	}
	x := &inflater{order: make(chan *block, n), stop: make(chan struct{}), dec: dec}
	todo := make(chan *block, n)
	x.wg.Go(func() {
		defer close(todo)
		defer close(x.order)
		x.split(bufio.NewReaderSize(r, 64<<10), todo)
	})
	for range n {
		x.wg.Go(func() {
			for b := range todo {
				b.out, b.err = dec.DecodeAll(b.in, b.out[:0])
				close(b.ready)
			}
		})
	}
	return x, nil
}

// split hands on one frame after another, and at last the error of reading on,
// which is [io.EOF] after a whole frame.
func (x *inflater) split(r *bufio.Reader, todo chan<- *block) {
	for {
		b := blocks.Get().(*block)
		b.ready = make(chan struct{})
		b.in, b.err = readFrame(r, b.in[:0])
		ended := b.err != nil
		if ended {
			close(b.ready)
		}
		select {
		case x.order <- b:
		case <-x.stop:
			return
		}
		if ended {
			return
		}
		todo <- b
	}
}

func (x *inflater) Read(p []byte) (int, error) {
	for len(x.rest) == 0 {
		if x.err != nil {
			return 0, x.err
		}
		if x.cur != nil {
			blocks.Put(x.cur)
		}
		x.cur = <-x.order
		<-x.cur.ready
		x.rest, x.err = x.cur.out, x.cur.err
		if x.err != nil {
			x.rest = nil
		}
	}
	n := copy(p, x.rest)
	x.rest = x.rest[n:]
	return n, nil
}

// close gives up what was not read, and returns when nothing reads any more.
func (x *inflater) close() {
	close(x.stop)
	x.wg.Wait()
	x.dec.Close()
}

// readFrame appends the next frame to b. It looks at no more of it than tells
// where it ends.
func readFrame(r *bufio.Reader, b []byte) ([]byte, error) {
	head, err := r.Peek(zstd.HeaderMaxSize)
	if err != nil && (len(head) == 0 || !errors.Is(err, io.EOF)) {
		return b, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return b, err
	}
	if h.Skippable {
		return b, bad("", "has a part that no archive of ours has")
	}
	if b, err = more(r, b, h.HeaderSize); err != nil {
		return b, err
	}
	for last := false; !last; {
		if b, err = more(r, b, 3); err != nil {
			return b, err
		}
		// As RFC 8878 has it: a bit that says whether it is the last block, two for
		// its kind, and its size; a run of one byte holds that byte alone.
		d := b[len(b)-3:]
		v := uint32(d[0]) | uint32(d[1])<<8 | uint32(d[2])<<16
		last = v&1 != 0
		size := int(v >> 3)
		if v>>1&3 == 1 {
			size = 1
		}
		if b, err = more(r, b, size); err != nil {
			return b, err
		}
	}
	if h.HasCheckSum {
		return more(r, b, 4)
	}
	return b, nil
}

// more appends n bytes to b, which must be there.
func more(r io.Reader, b []byte, n int) ([]byte, error) {
	at := len(b)
	if at+n > maxDeflated {
		return b, bad("", "is packed in larger parts than ours are")
	}
	if cap(b) < at+n {
		b = append(make([]byte, 0, max(2*cap(b), at+n)), b...)
	}
	b = b[:at+n]
	if _, err := io.ReadFull(r, b[at:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return b[:at], err
	}
	return b, nil
}
