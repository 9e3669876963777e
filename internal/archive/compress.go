package archive

import (
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// compressor compresses what is written to it, one frame after another, several
// of them at once.
type compressor struct {
	enc   *zstd.Encoder
	in    []byte
	todo  chan *block
	order chan *block
	done  chan struct{}
	once  sync.Once
	err   error // of writing; read after done
	fail  chan struct{}
}

// block is one frame on its way from one form to the other.
type block struct {
	in, out []byte
	err     error
	ready   chan struct{}
}

var errStopped = errors.New("the archive is written no further")

func newCompressor(w io.Writer) (*compressor, error) {
	n := min(runtime.GOMAXPROCS(0), 4)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(n),
		zstd.WithWindowSize(frame), zstd.WithEncoderCRC(false)) // the digest says more than a checksum
	if err != nil {
		return nil, err
	}
	c := &compressor{
		enc: enc, in: make([]byte, 0, frame), todo: make(chan *block, n), order: make(chan *block, n),
		done: make(chan struct{}), fail: make(chan struct{}),
	}
	for range n {
		go func() {
			for b := range c.todo {
				b.out = enc.EncodeAll(b.in, b.out[:0])
				close(b.ready)
			}
		}()
	}
	go func() {
		defer close(c.done)
		for b := range c.order {
			<-b.ready
			if c.err != nil {
				continue
			}
			if _, err := w.Write(b.out); err != nil {
				c.err = err
				close(c.fail)
			}
			blocks.Put(b)
		}
	}()
	return c, nil
}

var blocks = sync.Pool{New: func() any { return &block{} }}

func (c *compressor) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), frame-len(c.in))
		c.in = append(c.in, p[:n]...)
		p = p[n:]
		if len(c.in) == frame {
			if err := c.flush(); err != nil {
				return total - len(p), err
			}
		}
	}
	return total, nil
}

func (c *compressor) flush() error {
	if len(c.in) == 0 {
		return nil
	}
	b := blocks.Get().(*block)
	b.ready = make(chan struct{})
	b.in, c.in = c.in, b.in[:0]
	if cap(c.in) < frame {
		c.in = make([]byte, 0, frame)
	}
	select {
	case c.order <- b:
	case <-c.fail:
		return errStopped
	}
	c.todo <- b
	return nil
}

// Close writes what is left and returns when all is written.
func (c *compressor) Close() error {
	err := c.flush()
	c.stop()
	if c.err != nil {
		return c.err
	}
	return err
}

// stop ends the goroutines, and waits for what they have taken on.
func (c *compressor) stop() {
	c.once.Do(func() {
		close(c.todo)
		close(c.order)
	})
	<-c.done
}
