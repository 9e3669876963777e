package nginx

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// TestFileErrors covers what a test cannot bring about without being root.
func TestFileErrors(t *testing.T) {
	for errno, want := range map[error]lbclient.Class{
		syscall.ENOSPC:   lbclient.ClassTransient,
		syscall.EDQUOT:   lbclient.ClassTransient,
		syscall.EIO:      lbclient.ClassTransient,
		syscall.EACCES:   lbclient.ClassDenied,
		syscall.EPERM:    lbclient.ClassDenied,
		syscall.EROFS:    lbclient.ClassDenied,
		syscall.ENOENT:   lbclient.ClassNotFound,
		syscall.EBUSY:    lbclient.ClassUnsupported, // a file that is a mount
		fs.ErrPermission: lbclient.ClassDenied,
	} {
		err := fileError("test", fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: "/f", Err: errno}))
		if got := lbclient.ClassOf(err); got != want {
			t.Errorf("%v: class %s, want %s", errno, got, want)
		}
	}
}

// TestWriteOrNothing replaces a file that changed meanwhile, and one that cannot
// be written: neither may leave anything but what was there.
func TestWriteOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "u.conf")
	if err := os.WriteFile(path, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := &file{path: path}
	var err error
	if f.src, f.info, err = contents(path); err != nil {
		t.Fatal(err)
	}
	f.src = "as it was read"
	if err := f.write("test", "ours", time.Time{}); lbclient.ClassOf(err) != lbclient.ClassConflict {
		t.Errorf("of a file that changed: error %v", err)
	}
	f.src = "theirs"
	// A directory stands where the new text would be prepared.
	blocker := filepath.Join(dir, ".u.conf.lockstep")
	if err := os.MkdirAll(filepath.Join(blocker, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.write("test", "ours", time.Time{}); err == nil {
		t.Error("written over a directory")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "theirs" {
		t.Errorf("the file holds %q, error %v", got, err)
	}
	if err := os.RemoveAll(blocker); err != nil {
		t.Fatal(err)
	}
	was := f.info.ModTime()
	if err := f.write("test", "ours", was); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(was) {
		t.Errorf("%v, error %v; want the time %s", info, err, was)
	}
}
