package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
)

// Limits bound what an archive may unpack to, whatever it says of itself.
type Limits struct {
	Files int   // files, directories, and symbolic links
	Bytes int64 // of the whole tar stream
}

// ErrNoRoom is the cause of a [BadError] when an archive holds more bytes than
// the limit allows.
var ErrNoRoom = errors.New("there is no room for it")

// Unpack writes the archive from r into dir, which must be empty, and returns
// what came out of it: the caller compares the digest with the one it expects
// before it uses any of it. After an error dir holds a part of the tree.
//
// Nothing is written outside dir, and never through a symbolic link. Whatever
// [Pack] does not write makes the archive a *[BadError], as does damage and more
// than lim allows. An error of reading r is returned as such.
func Unpack(ctx context.Context, r io.Reader, dir string, lim Limits) (Summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("cannot unpack an archive: %w", err)
	}
	d, err := root.Open(".")
	if err == nil {
		if names, _ := d.Readdirnames(1); len(names) > 0 {
			err = fmt.Errorf("%s is not empty", dir)
		}
		d.Close()
	}
	if err != nil {
		root.Close()
		return Summary{}, fmt.Errorf("cannot unpack an archive: %w", err)
	}
	s, err := unpack(ctx, r, root, lim)
	if err != nil {
		return s, fmt.Errorf("cannot unpack an archive into %s: %w", dir, err)
	}
	return s, nil
}

// Verify reads an archive as [Unpack] does, and writes nothing.
func Verify(ctx context.Context, r io.Reader, lim Limits) (Summary, error) {
	s, err := unpack(ctx, r, nil, lim)
	if err != nil {
		return s, fmt.Errorf("cannot verify an archive: %w", err)
	}
	return s, nil
}

func unpack(ctx context.Context, r io.Reader, root *os.Root, lim Limits) (s Summary, err error) {
	src := &source{ctx: ctx, r: r}
	in, err := newInflater(src)
	if err != nil {
		return s, err
	}
	top := -1
	if root != nil {
		if top, err = descriptor(root); err != nil {
			in.close()
			return s, errors.Join(err, root.Close())
		}
	}
	u := newUnpacker(root, top, lim)
	stream := &bounded{r: in, left: lim.Bytes}
	err = u.all(tar.NewReader(stream))
	if err == nil {
		err = ends(stream)
	}
	in.close()
	err = errors.Join(err, u.finish())
	if err == nil {
		err = u.links()
	}
	if root != nil {
		err = errors.Join(err, root.Close())
	}
	if err != nil {
		return s, judged(err, src.err)
	}
	return Summary{Digest: u.digest(), Files: u.files, Bytes: u.bytes}, nil
}

// judged tells whose fault it is that an archive was not read to its end.
func judged(err, reading error) error {
	var b *BadError
	var path *os.PathError
	var link *os.LinkError
	switch {
	case reading != nil && !errors.Is(reading, io.EOF):
		return reading
	case errors.As(err, &b), errors.As(err, &path), errors.As(err, &link):
		return err
	}
	return &BadError{Why: "is damaged or cut short", Err: err}
}

// unpacker writes a tree as its entries come, in the order of [Pack].
type unpacker struct {
	*tally
	root  *os.Root // nil: nothing is written
	lim   Limits
	last  string
	stack []*folder // the directories above the last entry, from the root

	order chan *outputs
	work  chan *outputs
	next  *outputs
	wg    sync.WaitGroup
	done  chan struct{}
	mu    sync.Mutex
	err   error // of writing
}

// output is one entry on its way to the disk.
type output struct {
	kind  byte
	path  string
	in    *folder
	data  []byte // of a small file, which is still to be written
	small bool
	sum   []byte
}

// outputs are some entries in order; their small files are written when ready is
// closed.
type outputs struct {
	all   []*output
	ready chan struct{}
}

// newUnpacker is for a directory and its descriptor, which it closes.
func newUnpacker(root *os.Root, fd int, lim Limits) *unpacker {
	u := &unpacker{tally: newTally(), root: root, lim: lim, order: make(chan *outputs, pending), work: make(chan *outputs, pending), done: make(chan struct{})}
	top := &folder{fd: fd}
	top.refs.Store(1)
	u.stack = []*folder{top}
	for range min(runtime.GOMAXPROCS(0), 4) {
		u.wg.Go(func() {
			for these := range u.work {
				for _, o := range these.all {
					if o.small {
						u.finishSmall(o)
					}
				}
				close(these.ready)
			}
		})
	}
	go func() {
		defer close(u.done)
		for these := range u.order {
			<-these.ready
			for _, o := range these.all {
				u.add(o.kind, o.path, o.sum)
			}
		}
	}()
	return u
}

// send hands an entry on, in a batch with others.
func (u *unpacker) send(o *output) {
	if u.next == nil {
		u.next = &outputs{ready: make(chan struct{})}
	}
	if u.next.all = append(u.next.all, o); len(u.next.all) == batch {
		u.flush()
	}
}

func (u *unpacker) flush() {
	if u.next != nil {
		u.order <- u.next
		u.work <- u.next
		u.next = nil
	}
}

func (u *unpacker) finishSmall(o *output) {
	sum := sha256.Sum256(o.data)
	o.sum = sum[:]
	if err := u.write(o); err != nil {
		u.failed(err)
	}
	o.in.release()
	b := o.data[:0]
	o.data = nil
	buffers.Put(&b)
}

func (u *unpacker) failed(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
}

func (u *unpacker) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// finish waits for what is on its way.
func (u *unpacker) finish() error {
	u.flush()
	close(u.work)
	u.wg.Wait()
	close(u.order)
	<-u.done
	for _, f := range u.stack {
		f.release()
	}
	return u.failure()
}

func (u *unpacker) all(tr *tar.Reader) error {
	count := 0
	buf := make([]byte, 256<<10)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return u.failure()
		}
		if err != nil {
			return err
		}
		if count++; count > u.lim.Files {
			return bad(h.Name, fmt.Sprintf("is beyond the %d files that an archive may hold", u.lim.Files))
		}
		if err := u.failure(); err != nil {
			return err
		}
		if err := u.entry(h, tr, buf); err != nil {
			return err
		}
	}
}

func (u *unpacker) entry(h *tar.Header, tr *tar.Reader, buf []byte) error {
	path := h.Name
	if h.Typeflag == tar.TypeDir {
		path = strings.TrimSuffix(path, "/")
	}
	in, err := u.enter(path)
	if err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if key != "path" && key != "linkpath" && key != "size" {
			return bad(path, "has the attribute "+quote(key)+", which no archive of ours has")
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(path, in)
	case tar.TypeSymlink:
		// Made last of all, so that nothing is ever written through one.
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.Contains(h.Linkname, "\x00") {
			return bad(path, "is a symbolic link without a usable target")
		}
		if len(u.tally.links) >= maxLinks {
			return bad(path, fmt.Sprintf("is beyond the %d symbolic links that are supported", maxLinks))
		}
		u.tally.links[path] = h.Linkname
		u.send(&output{kind: kindLink, path: path, sum: []byte(h.Linkname)})
		return nil
	case tar.TypeReg:
	default:
		return bad(path, fmt.Sprintf("is of type %q, and only files, directories, and symbolic links can be", h.Typeflag))
	}
	o := &output{kind: kindFile, path: path, in: in}
	switch h.Mode {
	case 0o644:
	case 0o755:
		o.kind = kindProgram
	default:
		return bad(path, fmt.Sprintf("has mode %o; expected 644 or 755", h.Mode))
	}
	u.bytes += h.Size
	if h.Size > small {
		return u.large(o, tr, buf)
	}
	data := (*buffers.Get().(*[]byte))[:h.Size]
	if _, err := io.ReadFull(tr, data); err != nil {
		return err
	}
	o.data, o.small = data, true
	in.refs.Add(1)
	u.send(o)
	return nil
}

// enter checks a path and returns the directory that it is in, which must have
// come before.
func (u *unpacker) enter(path string) (*folder, error) {
	if path == "" || len(path) > maxPath {
		return nil, bad(path, "is not a path below the release")
	}
	names := strings.Split(path, "/")
	for _, name := range names {
		switch {
		case name == "" || name == "." || name == ".." || strings.Contains(name, "\x00"):
			return nil, bad(path, "is not a path below the release")
		case len(name) > maxName:
			return nil, bad(path, "has a name longer than Linux allows")
		}
	}
	if len(names) > maxDepth {
		return nil, bad(path, fmt.Sprintf("is more than %d directories deep", maxDepth))
	}
	if u.last != "" && compare(path, u.last) <= 0 {
		return nil, bad(path, "is out of order, or there twice")
	}
	u.last = path
	parent := ""
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent = path[:i]
	}
	for n := len(u.stack); n > len(names); n-- {
		u.stack[n-1].release()
		u.stack = u.stack[:n-1]
	}
	in := u.stack[len(u.stack)-1]
	if in.path != parent {
		return nil, bad(path, "is in a directory that the archive does not have")
	}
	return in, nil
}

// large writes a file as it comes.
func (u *unpacker) large(o *output, r io.Reader, buf []byte) error {
	sum := sha256.New()
	var to io.Writer = sum
	var f *os.File
	if u.root != nil {
		fd, err := u.create(o)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), o.path)
		to = io.MultiWriter(f, sum)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{r}, buf)
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return err
	}
	o.sum = sum.Sum(nil)
	u.send(o)
	return nil
}

// links makes the symbolic links, once it is known where all of them lead.
func (u *unpacker) links() error {
	if err := u.strays(); err != nil || u.root == nil {
		return err
	}
	for path, target := range u.tally.links {
		if err := u.root.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
