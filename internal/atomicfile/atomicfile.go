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
)

// Suffix ends the name under which the new content is written beside the file. A
// crash can leave it behind; the next [Write] of that file begins it anew.
const Suffix = ".tmp"

// Write makes data the content of the file at path, which need not exist, and perm
// its permissions whatever the umask is. Once it has returned nil, both survive a
// power cut. After an error the file stands as it did, unless only its directory
// could not be synced: then a power cut may bring the former content back.
//
// The caller sees to it that two calls for one path do not overlap.
func Write(path string, data []byte, perm fs.FileMode) error {
	temporary := path + Suffix
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		// One that was left behind has the permissions of its time.
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return SyncDir(filepath.Dir(path))
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
