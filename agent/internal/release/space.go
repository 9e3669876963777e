package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Free returns how many bytes users without privileges may still write to the file
// system of dir, which need not exist yet.
func Free(dir string) (uint64, error) {
	dir, err := existing(dir)
	if err != nil {
		return 0, fmt.Errorf("cannot tell the free space: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot tell the free space: %w", &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	return st.Bavail * uint64(st.Frsize), nil
}

// CheckSpace tells whether the file system of dir, which need not exist yet, has
// room for wantBytes and wantInodes more, for users without privileges. Otherwise
// the error is [api.ReasonDiskFull] and names the file system. File systems
// that make inodes as needed never lack them.
func CheckSpace(dir string, wantBytes, wantInodes uint64) error {
	dir, err := existing(dir)
	if err != nil {
		return fmt.Errorf("cannot tell the free space: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("cannot tell the free space: %w", &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	// f_bavail counts fragments, f_frsize bytes each.
	if free := st.Bavail * uint64(st.Frsize); free < wantBytes {
		return fault.Errorf(api.ReasonDiskFull,
			"the file system %s has %s free, %s are needed: remove files or lower keep_releases",
			mountPoint(dir), size(free), size(wantBytes))
	}
	if st.Files > 0 && st.Ffree < wantInodes {
		return fault.Errorf(api.ReasonDiskFull,
			"the file system %s has %d inodes free, %d are needed: remove files or lower keep_releases",
			mountPoint(dir), st.Ffree, wantInodes)
	}
	return nil
}

// existing is dir or its nearest parent that exists, without symbolic links.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	for err == nil {
		var real string
		real, err = filepath.EvalSymlinks(dir)
		if err == nil {
			return real, nil
		}
		if errors.Is(err, fs.ErrNotExist) && dir != "/" {
			dir, err = filepath.Dir(dir), nil
		}
	}
	return "", err
}

// mountPoint is the topmost directory above dir on the same device.
func mountPoint(dir string) string {
	device := func(path string) (uint64, bool) {
		fi, err := os.Stat(path)
		if err != nil {
			return 0, false
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		return st.Dev, ok
	}
	dev, ok := device(dir)
	for ok && dir != "/" {
		up, known := device(filepath.Dir(dir))
		if !known || up != dev {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 5 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}
