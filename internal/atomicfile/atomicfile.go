// Package atomicfile replaces small files whole: a reader, and whoever looks
// after a crash or a power cut, finds the former content or the new, never a
// mixture.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Suffix ends the name under which the new content is written beside the file. A
// crash can leave it behind; the next [Write] of that file begins it anew.
const Suffix = ".tmp"

// Write makes data the content of the file at path, which need not exist, and perm
// its permissions whatever the umask is. Once it has returned nil, both survive a
// power cut. After an error the file stands as it did, unless only its directory
// could not be synced: then a power cut may bring the former content back.
//
// Calls for one path may overlap, in several processes too: they take turns, and
// the last one's content stays.
func Write(path string, data []byte, perm fs.FileMode) error {
	temporary := path + Suffix
	f, err := begin(temporary, perm)
	if err != nil {
		return err
	}
	defer f.Close() // not before it has its name, for that ends the turn
	_, err = f.Write(data)
	if err == nil {
		// One that was left behind has the permissions of its time.
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return SyncDir(filepath.Dir(path))
}

// begin opens the file for the new content, empty and for this call alone.
func begin(temporary string, perm fs.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE, perm)
		if err != nil {
			return nil, err
		}
		ours, err := lock(f, temporary)
		if err == nil && ours {
			err = f.Truncate(0)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot begin to write %s: %w", temporary, err), f.Close())
		}
		if ours {
			return f, nil
		}
		f.Close()
	}
}

// lock waits for the turn of another call to end. It tells whether the file is
// still what the name stands for: that call has most likely renamed it.
func lock(f *os.File, name string) (ours bool, err error) {
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return false, err
	}
	is, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(is, now), err
}

// SyncDir brings to the disk which files a directory holds, so that one that was
// created, renamed or removed in it stays so after a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync a directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
