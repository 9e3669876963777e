package source

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// maxTreeSize bounds one tree object; git's own largest directories are far
// below it.
const maxTreeSize = 64 << 20

// damageError says that the store lacks an object or holds a wrong one, which
// fetching again mends.
type damageError struct{ err error }

func (e *damageError) Error() string { return e.err.Error() }
func (e *damageError) Unwrap() error { return e.err }

// damaged marks an error of the store as damage, unless it is the machine that
// fails: then fetching again would only make it worse.
func damaged(err error) error {
	if err == nil || localFault(err) {
		return err
	}
	return &damageError{err}
}

func isDamage(err error) bool {
	var d *damageError
	return errors.As(err, &d)
}

// localFault tells whether the operating system refused something: no space, no
// permission, too many open files. A missing file or a bad sector is damage.
func localFault(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		return true
	}
	return false
}

// lookup returns nil when the object is present, without reading its content. (Of
// storage with exclusive access, HasEncodedObject finds only loose objects.)
func lookup(st *filesystem.Storage, h plumbing.Hash) error {
	_, err := st.EncodedObjectSize(h)
	return err
}

// readObject returns the content of an object of type t, verified against its
// hash: go-git does not do that when reading.
func readObject(st *filesystem.Storage, t plumbing.ObjectType, h plumbing.Hash, limit int64) ([]byte, error) {
	o, err := st.EncodedObject(plumbing.AnyObject, h)
	if err != nil {
		return nil, damaged(fmt.Errorf("%s %s: %w", t, h, err))
	}
	if o.Size() > limit {
		return nil, fault.Errorf(api.ReasonBadTree, "%s %s has %d bytes, more than the %d that are supported", t, h, o.Size(), limit)
	}
	rd, err := o.Reader()
	if err != nil {
		return nil, damaged(fmt.Errorf("%s %s: %w", t, h, err))
	}
	defer rd.Close()
	content, err := io.ReadAll(io.LimitReader(rd, limit+1))
	if err != nil {
		return nil, damaged(fmt.Errorf("%s %s: %w", t, h, err))
	}
	if plumbing.ComputeHash(o.Type(), content) != h {
		return nil, damaged(fmt.Errorf("%s %s: the content does not match", t, h))
	}
	if o.Type() != t {
		return nil, fault.Errorf(api.ReasonBadTree, "object %s is a %s, expected a %s", h, o.Type(), t)
	}
	return content, nil
}

// rootTree returns the tree of a commit.
func rootTree(st *filesystem.Storage, commit plumbing.Hash) (plumbing.Hash, error) {
	const limit = 16 << 20
	content, err := readObject(st, plumbing.CommitObject, commit, limit)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	first, _, _ := bytes.Cut(content, []byte{'\n'})
	sha, ok := bytes.CutPrefix(first, []byte("tree "))
	if !ok || validSHA(string(sha)) != nil {
		return plumbing.ZeroHash, fault.Errorf(api.ReasonBadTree, "commit %s names no tree", commit)
	}
	return plumbing.NewHash(string(sha)), nil
}

// entry is one entry of a tree.
type entry struct {
	path string // from the root, with slashes; "" is the root's parent
	name string
	hash plumbing.Hash
	mode filemode.FileMode
}

func (e entry) isDir() bool       { return e.mode == filemode.Dir }
func (e entry) isSubmodule() bool { return e.mode == filemode.Submodule }

// walk calls visit for every entry below the tree root, a directory before what
// it holds, which is left out when visit returns descend false.
func walk(st *filesystem.Storage, root plumbing.Hash, visit func(entry) (descend bool, err error)) error {
	type dir struct {
		path string
		hash plumbing.Hash
	}
	// Not recursive: how deep trees go is up to the remote.
	for todo := []dir{{"", root}}; len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries, err := readTree(st, d.hash)
		if err != nil {
			return err
		}
		for _, te := range entries {
			e := entry{path: te.Name, name: te.Name, hash: te.Hash, mode: te.Mode}
			if d.path != "" {
				e.path = d.path + "/" + te.Name
			}
			descend, err := visit(e)
			if err != nil {
				return err
			}
			if descend {
				todo = append(todo, dir{e.path, te.Hash})
			}
		}
	}
	return nil
}

func readTree(st *filesystem.Storage, h plumbing.Hash) ([]object.TreeEntry, error) {
	content, err := readObject(st, plumbing.TreeObject, h, maxTreeSize)
	if err != nil {
		return nil, err
	}
	o := &plumbing.MemoryObject{}
	o.SetType(plumbing.TreeObject)
	if _, err := o.Write(content); err != nil {
		return nil, err
	}
	var tree object.Tree
	if err := tree.Decode(o); err != nil {
		// The content is what its author made it, so fetching again is no use.
		return nil, fault.Errorf(api.ReasonBadTree, "cannot read tree %s: %w", h, err)
	}
	return tree.Entries, nil
}

// checkPack tells a pack that is cut short from a whole one: it ends in a checksum,
// which its index repeats before its own (gitformat-pack(5)). Of an object that is
// in two packs, either may be read, so a bad pack is no good beside a sound one.
func checkPack(pack string) error {
	index := strings.TrimSuffix(pack, ".pack") + ".idx"
	sum, err := end(pack, sha1.Size)
	if err != nil {
		return err
	}
	sums, err := end(index, 2*sha1.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, sums[:sha1.Size]) {
		return fmt.Errorf("%s is not what %s is of", filepath.Base(pack), filepath.Base(index))
	}
	return nil
}

// end returns the last n bytes of a file.
func end(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(-n, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("%s is cut short: %w", filepath.Base(path), err)
	}
	return io.ReadAll(f)
}

// errno returns the operating system's error that err was caused by.
func errno(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return nil
}
