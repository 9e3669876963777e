package archive

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// folder is a directory that is open for as long as something is written in it.
type folder struct {
	path string
	fd   int // -1: nothing is written
	refs atomic.Int32
}

func (f *folder) release() {
	if f.refs.Add(-1) == 0 && f.fd >= 0 {
		_ = unix.Close(f.fd) // nothing was written to the directory itself
	}
}

// descriptor opens the root once more, for calls that name it by number.
func descriptor(root *os.Root) (int, error) {
	f, err := root.Open(".")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

func (u *unpacker) dir(path string, in *folder) error {
	f := &folder{path: path, fd: -1}
	f.refs.Store(1)
	if in.fd >= 0 {
		name := base(path)
		err := again(func() error { return unix.Mkdirat(in.fd, name, 0o755) })
		if err != nil {
			return &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
		err = again(func() (err error) {
			f.fd, err = unix.Openat(in.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			return err
		})
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
	u.stack = append(u.stack, f)
	u.send(&output{kind: kindDir, path: path})
	return nil
}

// create makes a file that must not be there yet.
func (u *unpacker) create(o *output) (fd int, err error) {
	perm := uint32(0o644)
	if o.kind == kindProgram {
		perm = 0o755
	}
	err = again(func() (err error) {
		fd, err = unix.Openat(o.in.fd, base(o.path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return 0, &os.PathError{Op: "create", Path: o.path, Err: err}
	}
	return fd, nil
}

func (u *unpacker) write(o *output) error {
	if u.root == nil {
		return nil
	}
	fd, err := u.create(o)
	if err != nil {
		return err
	}
	for left := o.data; len(left) > 0 && err == nil; {
		n := 0
		err = again(func() (err error) {
			n, err = unix.Write(fd, left)
			return err
		})
		left = left[max(n, 0):]
	}
	// Of some file systems this is when they say that the disk is full.
	if closed := unix.Close(fd); err == nil {
		err = closed
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: o.path, Err: err}
	}
	return nil
}

// again repeats what a signal interrupted.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
