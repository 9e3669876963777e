package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// item is one entry of a tree on its way from the disk.
type item struct {
	kind   byte
	path   string
	target string
	err    error

	// Of a file: read ahead when it is small, else left for the one who writes.
	data  []byte
	sum   [sha256.Size]byte
	large bool
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, small+1); return &b }}

// tree reads a directory.
type tree struct {
	dir     string
	skip    func(path string) bool
	batches chan *items // in order
	work    chan *items // whose small files are to be read
	next    *items
}

// items are some entries in order; their files are read when ready is closed.
type items struct {
	all   []*item
	ready chan struct{}
}

// each gives every entry below dir, in order, to do; small files are read ahead.
// The data of an item is gone once do returns.
func each(ctx context.Context, dir string, skip func(string) bool, do func(*item) error) error {
	ctx, cancel := context.WithCancel(ctx)
	t := &tree{dir: dir, skip: skip, batches: make(chan *items, pending), work: make(chan *items, pending)}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(t.batches)
		defer close(t.work)
		if err := t.walk(ctx, ""); err != nil {
			t.send(ctx, &item{err: err})
		}
		t.flush(ctx)
	})
	for range min(runtime.GOMAXPROCS(0), 4) {
		wg.Go(func() {
			for b := range t.work {
				for _, it := range b.all {
					if it.kind == kindFile && it.err == nil {
						t.read(it)
					}
				}
				close(b.ready)
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for b := range t.batches {
		<-b.ready
		for _, it := range b.all {
			if it.err != nil {
				return it.err
			}
			if err := do(it); err != nil {
				return err
			}
			if it.data != nil {
				b := it.data[:0]
				buffers.Put(&b)
			}
		}
	}
	return context.Cause(ctx)
}

func (t *tree) send(ctx context.Context, it *item) {
	if t.next == nil {
		t.next = &items{ready: make(chan struct{})}
	}
	if t.next.all = append(t.next.all, it); len(t.next.all) == batch {
		t.flush(ctx)
	}
}

func (t *tree) flush(ctx context.Context) {
	b := t.next
	t.next = nil
	if b == nil {
		return
	}
	select {
	case t.batches <- b:
		t.work <- b
	case <-ctx.Done():
	}
}

// walk visits what is below the directory at path, sorted by name.
func (t *tree) walk(ctx context.Context, path string) error {
	entries, err := os.ReadDir(filepath.Join(t.dir, filepath.FromSlash(path)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := e.Name()
		if path != "" {
			at = path + "/" + at
		}
		if t.skip != nil && t.skip(at) {
			continue
		}
		it := &item{path: at}
		switch e.Type() {
		case fs.ModeDir:
			it.kind = kindDir
			t.send(ctx, it)
			if err := t.walk(ctx, at); err != nil {
				return err
			}
			continue
		case fs.ModeSymlink:
			it.kind = kindLink
			it.target, it.err = os.Readlink(t.place(it))
		case 0:
			it.kind = kindFile
		default:
			it.kind = kindOther
		}
		t.send(ctx, it)
	}
	return nil
}

func (t *tree) place(it *item) string { return filepath.Join(t.dir, filepath.FromSlash(it.path)) }

// open opens a file, never through a link or to wait for a pipe.
func open(place string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(place, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errChanged
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// read reads a small file and its sum, and of any the kind. It does without what
// package os adds for files that may block: most of reading a small file is
// opening it.
func (t *tree) read(it *item) {
	if err := t.readAt(t.place(it), it); err != nil {
		it.err = fmt.Errorf("cannot read %s: %w", quote(it.path), err)
	}
}

func (t *tree) readAt(place string, it *item) error {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Open(place, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged
	}
	if st.Mode&0o100 != 0 {
		it.kind = kindProgram
	}
	if st.Size > small {
		it.large = true
		return nil
	}
	buf := *buffers.Get().(*[]byte)
	n, end := 0, false
	for !end && n <= small {
		k := 0
		err := again(func() (err error) {
			k, err = unix.Read(fd, buf[n:small+1])
			return err
		})
		if err != nil {
			buffers.Put(&buf)
			return err
		}
		n += k
		// No need to be told the end where it was said to be.
		end = k == 0 || int64(n) == st.Size
	}
	if n > small { // it grew
		it.large = true
		buffers.Put(&buf)
		return nil
	}
	it.data = buf[:n]
	it.sum = sha256.Sum256(it.data)
	return nil
}

var errChanged = errors.New("it changed while it was read")

// Digest reads the tree in dir. What skip (which may be nil) is true of is left
// out, with all below it.
func Digest(ctx context.Context, dir string, skip func(path string) bool) (Summary, error) {
	s, err := digest(ctx, dir, skip)
	if err != nil {
		return s, fmt.Errorf("cannot make the digest of %s: %w", dir, err)
	}
	return s, nil
}

func digest(ctx context.Context, dir string, skip func(string) bool) (Summary, error) {
	t := newTally()
	var unfit error
	buf := make([]byte, 256<<10)
	err := each(ctx, dir, skip, func(it *item) error {
		switch it.kind {
		case kindLink:
			return t.link(it.path, it.target)
		case kindDir:
			t.add(it.kind, it.path, nil)
			return nil
		case kindOther:
			if unfit == nil {
				unfit = notAFile(it.path)
			}
			t.add(it.kind, it.path, nil)
			return nil
		}
		if !it.large {
			t.add(it.kind, it.path, it.sum[:])
			t.bytes += int64(len(it.data))
			return nil
		}
		f, _, err := open(filepath.Join(dir, filepath.FromSlash(it.path)))
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, buf)
		if err != nil {
			return err
		}
		t.bytes += n
		t.add(it.kind, it.path, sum.Sum(nil))
		return nil
	})
	if err != nil {
		return Summary{}, err
	}
	if unfit == nil {
		unfit = t.strays()
	}
	return Summary{Digest: t.digest(), Files: t.files, Bytes: t.bytes, Unfit: unfit}, nil
}

func notAFile(path string) error {
	return bad(path, "is a device, a pipe, or a socket, which cannot be a part of a release")
}
