package gitstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Receive takes a pack and makes it part of the store; all of it or nothing.
// What the pack builds on and does not hold (a thin pack) is taken from the
// store and added to it, so that every pack stands alone.
//
// Errors: [ErrCorrupt], [ErrMissing] when it builds on what is not there, those
// of r, and those of the system.
func (s *Store) Receive(r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "objects", "pack"), "tmp_pack_*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	in := newIncoming(r, f)
	if err := in.scan(); err != nil {
		return err
	}
	if len(in.entries) == 0 {
		return os.Remove(tmp)
	}
	v, err := s.View()
	if err != nil {
		return err
	}
	defer v.Close()
	a := &arrival{view: v, incoming: in, pack: &pack{file: f, at: in.starts(), end: in.offset}}
	if err := a.resolve(); err != nil {
		return err
	}
	sum := in.packSum
	if len(a.outside) > 0 {
		if sum, err = a.complete(); err != nil {
			return err
		}
	}
	stem := filepath.Join(s.dir, "objects", "pack", fmt.Sprintf("pack-%x", sum))
	idx := tmp + ".idx"
	if err := os.WriteFile(idx, encodeIndex(in.entries, sum), 0o444); err != nil {
		return errors.Join(err, os.RemoveAll(idx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(os.Chmod(tmp, 0o444), os.Rename(tmp, stem+".pack")); err != nil {
		return errors.Join(err, os.Remove(idx))
	}
	tmp = stem + ".pack"
	return os.Rename(idx, stem+".idx")
}
