package source

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
)

// Bounds of what a release holds: what is sent may unpack to a thousand times
// its size.
const (
	maxFile  = 4 << 30
	maxTotal = 32 << 30
)

// write writes what is planned.
func (p *plan) write(ctx context.Context, v *gitstore.View, stored *largeFiles, to *dirs) error {
	above := opened{root: to.root}
	defer above.close()
	for _, dir := range p.dirs {
		if err := above.mkdir(dir); err != nil {
			return err
		}
	}
	if err := p.writeFiles(ctx, v, stored, to); err != nil {
		return err
	}
	// Last, so that no file is ever written through one.
	for _, l := range p.links {
		if err := to.root.Symlink(l.target, filepath.FromSlash(l.path)); err != nil {
			return err
		}
	}
	return nil
}

// writeFiles writes in the order of the pack, in which what builds on one another
// is near, with more than one writer: making a file is waiting for the file
// system as much as it is unpacking.
func (p *plan) writeFiles(ctx context.Context, v *gitstore.View, stored *largeFiles, to *dirs) error {
	type placed struct {
		file
		pack int
		at   int64
	}
	files := make([]placed, len(p.files))
	for i, f := range p.files {
		files[i].file = f
		files[i].pack, files[i].at = v.Order(f.hash)
	}
	slices.SortFunc(files, func(a, b placed) int {
		if a.pack != b.pack {
			return a.pack - b.pack
		}
		return int(min(max(a.at-b.at, -1), 1))
	})
	const batch = 32
	var next, total atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range max(2, min(runtime.GOMAXPROCS(0), 4)) {
		group.Go(func() error {
			w := writer{v: v, large: stored, most: p.total, total: &total, to: opened{root: to.root}}
			defer w.to.close()
			for {
				from := int(next.Add(batch)) - batch
				if from >= len(files) {
					return nil
				}
				for _, f := range files[from:min(from+batch, len(files))] {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if err := w.file(ctx, f.file); err != nil {
						return err
					}
				}
			}
		})
	}
	return group.Wait()
}

type writer struct {
	v     *gitstore.View
	large *largeFiles
	most  int64 // that total may become
	total *atomic.Int64
	to    opened
}

func (w *writer) file(ctx context.Context, f file) error {
	c, err := w.v.Read(f.hash)
	if err != nil {
		return fmt.Errorf("%s: %w", quote(f.path()), err)
	}
	defer c.Close()
	if c.Kind != gitstore.Blob {
		return fault.Errorf(api.ReasonBadTree, "%s: object %s is a %s, expected a file", quote(f.path()), f.hash, c.Kind)
	}
	size := c.Size
	content, small := c.Bytes()
	pointer, isLarge := lfs.Pointer{}, false
	if small {
		if pointer, isLarge = lfs.Parse(content); isLarge {
			size = pointer.Size
		}
	}
	if size > maxFile || w.total.Add(size) > w.most {
		return bad(f.path(), fmt.Sprintf("has %d bytes: a file may have %d and all of a release %d; keep what is larger out of the repository",
			size, int64(maxFile), w.most))
	}
	if !isLarge {
		return w.create(f, c.WriteTo)
	}
	return w.create(f, func(to io.Writer) (int64, error) { return 0, w.large.write(ctx, f.path(), pointer, to) })
}

// create makes a file and lets it be written.
func (w *writer) create(f file, write func(io.Writer) (int64, error)) (err error) {
	fd, err := w.to.create(f.dir, f.name, f.perm)
	if err != nil {
		return err
	}
	defer func() {
		// Of some file systems this is when they say that the disk is full.
		if e := unix.Close(fd); err == nil && e != nil {
			err = pathError("write", f.dir, f.name, e)
		}
	}()
	if _, err := write(descriptor(fd)); err != nil {
		return fmt.Errorf("%s: %w", quote(f.path()), err)
	}
	return nil
}

// quote renders a path of a commit, which may hold any byte.
func quote(path string) string { return strconv.Quote(path) }
