package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Pack writes the tree in dir to w as an archive, leaving out what skip (which
// may be nil) is true of. Hard links become files of their own; a tree that holds
// what cannot be packed is a *[BadError], which may come only after most of it
// was written.
func Pack(ctx context.Context, dir string, skip func(path string) bool, w io.Writer) (Summary, error) {
	s, err := pack(ctx, dir, skip, w)
	if err != nil {
		return s, fmt.Errorf("cannot pack %s: %w", dir, err)
	}
	return s, nil
}

func pack(ctx context.Context, dir string, skip func(string) bool, w io.Writer) (Summary, error) {
	z, err := newCompressor(w)
	if err != nil {
		return Summary{}, err
	}
	defer z.stop()
	t := newTally()
	tw := tar.NewWriter(z)
	buf := make([]byte, 256<<10)
	err = each(ctx, dir, skip, func(it *item) error {
		h := tar.Header{Name: it.path, Format: tar.FormatPAX}
		switch it.kind {
		case kindOther:
			return notAFile(it.path)
		case kindLink:
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, it.target, 0o777
			if err := t.link(it.path, it.target); err != nil {
				return err
			}
			return tw.WriteHeader(&h)
		case kindDir:
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			t.add(it.kind, it.path, nil)
			return tw.WriteHeader(&h)
		case kindProgram:
			h.Mode = 0o755
		default:
			h.Mode = 0o644
		}
		h.Typeflag = tar.TypeReg
		if it.large {
			return packLarge(tw, &h, t, it, filepath.Join(dir, filepath.FromSlash(it.path)), buf)
		}
		h.Size = int64(len(it.data))
		t.bytes += h.Size
		t.add(it.kind, it.path, it.sum[:])
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		_, err := tw.Write(it.data)
		return err
	})
	if err == nil {
		err = t.strays()
	}
	if err == nil {
		err = errors.Join(tw.Close(), z.Close())
	}
	if err != nil {
		if z.stop(); z.err != nil {
			err = z.err // what stopped the rest
		}
		return Summary{}, err
	}
	return Summary{Digest: t.digest(), Files: t.files, Bytes: t.bytes}, nil
}

func packLarge(tw *tar.Writer, h *tar.Header, t *tally, it *item, place string, buf []byte) error {
	f, fi, err := open(place)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", quote(it.path), err)
	}
	defer f.Close()
	h.Size = fi.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(tw, sum)}, io.LimitReader(f, h.Size), buf)
	if err != nil {
		return fmt.Errorf("cannot pack %s: %w", quote(it.path), err)
	}
	if n != h.Size {
		return fmt.Errorf("cannot pack %s: it became shorter while it was read", quote(it.path))
	}
	t.bytes += n
	t.add(it.kind, it.path, sum.Sum(nil))
	return nil
}

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

type block struct {
	in, out []byte
	ready   chan struct{}
}

var errStopped = errors.New("the archive is written no further")

func newCompressor(w io.Writer) (*compressor, error) {
	n := min(runtime.GOMAXPROCS(0), 4)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(n), zstd.WithWindowSize(frame))
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
