package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirs makes files and directories below a directory, and nowhere else: names
// are resolved from open directories, and no symbolic link is followed.
type dirs struct{ root *os.Root }

// emptyRoot opens a directory that is empty, making it where it is missing.
func emptyRoot(dir string) (*dirs, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d := &dirs{root}
	names, err := d.names()
	if err == nil && len(names) > 0 {
		err = errors.New("the directory is not empty")
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return d, nil
}

func (d *dirs) Close() { d.root.Close() }

func (d *dirs) names() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// clear empties the directory.
func clear(d *dirs) error {
	names, err := d.names()
	for _, name := range names {
		err = errors.Join(err, d.root.RemoveAll(name))
	}
	return err
}

// maxOpen is how many directories one writer holds open, about.
const maxOpen = 256

// opened is the directories that one goroutine has open, by their paths. Opening
// each from the root for itself is most of the work of making a small file.
type opened struct {
	root *os.Root
	dirs map[string]int
}

// dir returns the directory at a path, which stays open until the next call.
func (o *opened) dir(path string) (int, error) {
	if len(o.dirs) >= maxOpen {
		o.close()
	}
	return o.open(path)
}

func (o *opened) open(path string) (fd int, err error) {
	if fd, ok := o.dirs[path]; ok {
		return fd, nil
	}
	const how = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	above, name := split(path)
	switch {
	case path == "" || strings.Count(path, "/") > maxOpen/4: // or too many would be open above it
		if path == "" {
			path, name = ".", "."
		}
		var f *os.File
		if f, err = o.root.OpenFile(filepath.FromSlash(path), how, 0); err != nil {
			return 0, err
		}
		fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		f.Close()
	default:
		var at int
		if at, err = o.open(above); err != nil {
			return 0, err
		}
		err = again(func() error {
			fd, err = unix.Openat(at, name, how, 0)
			return err
		})
	}
	if err != nil {
		return 0, pathError("open", above, name, err)
	}
	if o.dirs == nil {
		o.dirs = map[string]int{}
	}
	o.dirs[path] = fd
	return fd, nil
}

func (o *opened) close() {
	for path, fd := range o.dirs {
		_ = unix.Close(fd) // nothing was written to it
		delete(o.dirs, path)
	}
}

// split parts a path into the directory that it is in, "" for the root, and its name.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// mkdir makes a directory that must not be there yet.
func (o *opened) mkdir(path string) error {
	above, name := split(path)
	at, err := o.dir(above)
	if err != nil {
		return err
	}
	return pathError("mkdir", above, name, again(func() error { return unix.Mkdirat(at, name, 0o755) }))
}

// create makes a file that must not be there yet.
func (o *opened) create(dir, name string, perm uint32) (fd int, err error) {
	at, err := o.dir(dir)
	if err != nil {
		return 0, err
	}
	err = again(func() error {
		fd, err = unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	return fd, pathError("create", dir, name, err)
}

// descriptor is an open file, without what package os adds for files that may
// block.
type descriptor int

// Write writes all of p.
func (d descriptor) Write(p []byte) (done int, err error) {
	for done < len(p) {
		var n int
		err := again(func() (err error) {
			n, err = unix.Write(int(d), p[done:])
			return err
		})
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// again repeats what a signal interrupted.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func pathError(op, dir, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Join(dir, name), Err: err}
}
