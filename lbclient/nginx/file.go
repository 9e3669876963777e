package nginx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxFile caps an upstream file. A server's line takes some fifty bytes.
const maxFile = 8 << 20

// file is one consistent look at the upstream file.
type file struct {
	path     string // with symbolic links followed
	src      string
	info     fs.FileInfo
	blocks   []*block
	fragment bool
}

func (p *provider) read(ctx context.Context, op string) (*file, error) {
	if err := ctx.Err(); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: context.Cause(ctx)}
	}
	path, err := filepath.EvalSymlinks(p.cfg.File)
	if err != nil {
		return nil, fileError(op, err)
	}
	f := &file{path: path, fragment: len(p.cfg.Upstreams) == 0}
	if f.src, f.info, err = contents(path); err != nil {
		return nil, fileError(op, err)
	}
	if f.blocks, err = parse(f.src, f.fragment); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("%s cannot be read as nginx reads it", path), Err: err}
	}
	return f, nil
}

func contents(path string) (string, fs.FileInfo, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", nil, err
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return "", nil, err
	}
	if len(b) > maxFile {
		return "", nil, fmt.Errorf("%s is larger than %d MiB", path, maxFile>>20)
	}
	return string(b), info, nil
}

// write replaces the file by one with other text, or leaves it as it is. It
// refuses when another hand changed the file since it was read. With a time the
// new file bears that time.
func (f *file) write(op, text string, changed time.Time) error {
	dir, base := filepath.Split(f.path)
	// A leading dot keeps it out of "include dir/*". There is one at most, for
	// the lock is held.
	temporary := filepath.Join(dir, "."+base+".lockstep")
	if err := f.prepare(temporary, text, changed); err != nil {
		_ = os.Remove(temporary) // what counts is why it could not be written
		return fileError(op, err)
	}
	now, _, err := contents(f.path)
	if err == nil && now != f.src {
		_ = os.Remove(temporary)
		return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
			Text: fmt.Sprintf("another hand changed %s at this moment", f.path)}
	}
	if err == nil {
		err = os.Rename(temporary, f.path)
	}
	if err != nil {
		_ = os.Remove(temporary)
		return fileError(op, err)
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return fileError(op, err)
	}
	return nil
}

func (f *file) prepare(temporary, text string, changed time.Time) error {
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	if st, ok := f.info.Sys().(*syscall.Stat_t); ok {
		if err := out.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("the new file cannot be given its owner: %w", err)
		}
	}
	if err := out.Chmod(f.info.Mode().Perm()); err != nil {
		return err
	}
	if !changed.IsZero() {
		if err := os.Chtimes(temporary, time.Time{}, changed); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

// lock keeps other agents from the files of the same directory, which a lock of
// the file itself could not, for the file is replaced.
func (p *provider) lock(ctx context.Context, op string) (unlock func(), err error) {
	path, err := filepath.EvalSymlinks(p.cfg.File)
	if err != nil {
		return nil, fileError(op, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fileError(op, err)
	}
	const often = 20 * time.Millisecond
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			d.Close()
			return nil, fileError(op, err)
		}
		if err := pause(ctx, op, often); err != nil {
			d.Close()
			return nil, &lbclient.Error{Class: lbclient.ClassBusy, Op: op,
				Text: fmt.Sprintf("another change in %s is under way", filepath.Dir(path)), Err: context.Cause(ctx)}
		}
	}
}

// changeable tells why the file could not be replaced, as far as can be known
// without trying.
func (f *file) changeable(op string) error {
	if st, ok := f.info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: fmt.Sprintf("%s has %d names (hard links), of which a replacement would keep one; make it a file of its own or a symbolic link", f.path, st.Nlink)}
	}
	if err := unix.Access(filepath.Dir(f.path), unix.W_OK|unix.X_OK); err != nil {
		return fileError(op, &fs.PathError{Op: "write in", Path: filepath.Dir(f.path), Err: err})
	}
	return nil
}

func fileError(op string, err error) error {
	out := &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	switch {
	case errors.Is(err, syscall.EROFS):
		out.Class = lbclient.ClassDenied
		out.Text = "the directory of the upstream file is read-only to this process; where a systemd unit makes it so, write ReadWritePaths= with it there, as nginx.conf in deploy/systemd/deploy-coordinator.service.d does"
	case errors.Is(err, fs.ErrPermission):
		out.Class = lbclient.ClassDenied
		out.Text = "this user may not replace the upstream file; it needs leave to write in the file's directory and to give the file its owner"
	case errors.Is(err, fs.ErrNotExist):
		out.Class = lbclient.ClassNotFound
		out.Text = "there is no such upstream file"
	case errors.Is(err, syscall.EBUSY):
		out.Class = lbclient.ClassUnsupported
		out.Text = "the upstream file is a mount of its own and cannot be replaced; mount its directory instead"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		out.Text = "the disk is full; the upstream file is untouched"
	}
	return out
}

// stands tells what nginx runs with, what its file says, and where in the file the
// target is.
func (p *provider) stands(ctx context.Context, op string) (now *running, f *file, target []*server, err error) {
	if now, err = p.look(ctx, op); err != nil {
		return nil, nil, nil, err
	}
	if f, err = p.read(ctx, op); err != nil {
		return nil, nil, nil, err
	}
	target, err = p.find(op, f)
	return now, f, target, err
}

// find returns the target in every configured upstream, in the order of the file.
func (p *provider) find(op string, f *file) ([]*server, error) {
	var out []*server
	for _, b := range f.blocks {
		if !p.concerns(b) {
			continue
		}
		found := b.find(p.cfg.Server)
		switch {
		case len(found) == 0:
			var names []string
			for _, s := range b.servers {
				names = append(names, s.address())
			}
			return nil, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
				Text: fmt.Sprintf("%s has no server %s; %s", f.describe(b), p.cfg.Server, listed("it has", names))}
		case len(found) > 1:
			return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
				Text: fmt.Sprintf("%s has %d servers that %s means, %s in line %d and %s in line %d; name one with its port, and each only once",
					f.describe(b), len(found), p.cfg.Server, found[0].address(), found[0].line, found[1].address(), found[1].line)}
		case !found[0].ownLine():
			return nil, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
				Text: fmt.Sprintf(`line %d of %s holds more or less than "server %s ...;"; give that directive one line of its own`, found[0].line, f.path, found[0].address())}
		}
		out = append(out, found[0])
	}
	slices.SortFunc(out, func(a, b *server) int { return a.start - b.start })
	return out, p.whole(op, f)
}

func (p *provider) concerns(b *block) bool {
	if len(p.cfg.Upstreams) == 0 {
		return true
	}
	return slices.Contains(p.cfg.Upstreams, b.name)
}

// whole refuses a file that lacks a configured upstream or has it twice.
func (p *provider) whole(op string, f *file) error {
	for _, u := range p.cfg.Upstreams {
		var names, lines []string
		for _, b := range f.blocks {
			names = append(names, b.name)
			if b.name == u {
				lines = append(lines, fmt.Sprint(b.line))
			}
		}
		switch len(lines) {
		case 1:
		case 0:
			return &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
				Text: fmt.Sprintf("%s has no upstream %s; %s", f.path, u, listed("it has", names))}
		default:
			return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
				Text: fmt.Sprintf("%s has upstream %s in lines %s; keep one of them in a file of its own", f.path, u, strings.Join(lines, " and "))}
		}
	}
	return nil
}

func (f *file) describe(b *block) string {
	if f.fragment {
		return f.path
	}
	return fmt.Sprintf("upstream %s in %s", b.name, f.path)
}

// listed names what exists, within reason.
func listed(intro string, names []string) string {
	if len(names) == 0 {
		return intro + " none"
	}
	const most = 20
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return intro + " " + strings.Join(names, ", ") + more
}
