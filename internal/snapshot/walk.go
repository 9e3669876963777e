package snapshot

import (
	"fmt"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// walk shows what a commit consists of: its root directory and then each entry,
// with the directory that it is in. Into what visit says so of, a directory or the
// commit of a submodule, it goes; who visits sees to it that a tree which occurs
// in many places is gone into once.
func walk(v *gitstore.View, commit gitstore.Hash, visit func(dir string, e gitstore.TreeEntry) (into bool, err error)) error {
	type place struct {
		path string
		gitstore.TreeEntry
	}
	// Not recursive: how deep trees go is up to the remote.
	for todo := []place{{"", gitstore.TreeEntry{Mode: gitstore.ModeSubmodule, Hash: commit}}}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries := make([]gitstore.TreeEntry, 1)
		var err error
		if at.Mode == gitstore.ModeSubmodule {
			entries[0].Mode = gitstore.ModeDir
			entries[0].Hash, err = Root(v, at.Hash)
		} else {
			entries, err = ReadTree(v, at.Hash)
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			into, err := visit(at.path, e)
			if err != nil {
				return err
			}
			if into && (e.Mode == gitstore.ModeDir || e.Mode == gitstore.ModeSubmodule) {
				todo = append(todo, place{join(at.path, e.Name), e})
			}
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	return dir + "/" + name
}

// whole returns nil when the commit and its whole tree are present, and what is
// missing otherwise; deep tells whether its submodules belong to it. Contents of
// files are verified when they are read.
func (r *Repo) whole(h gitstore.Hash, deep bool) error {
	v, err := r.View()
	if err != nil {
		return err
	}
	defer v.Close()
	seen := map[gitstore.Hash]bool{}
	return walk(v, h, func(_ string, e gitstore.TreeEntry) (bool, error) {
		switch e.Mode {
		case gitstore.ModeSubmodule, gitstore.ModeDir:
			if seen[e.Hash] || (e.Mode == gitstore.ModeSubmodule && !deep) {
				return false, nil
			}
			seen[e.Hash] = true
			return true, nil
		}
		if !v.Has(e.Hash) {
			return false, fmt.Errorf("blob %s: %w", e.Hash, gitstore.ErrMissing)
		}
		return false, nil
	})
}

// objects returns what a commit consists of, with its submodules, and is not in
// known. If it is not wanted, it is added to known instead, when all of it is here.
func objects(v *gitstore.View, commit gitstore.Hash, known map[gitstore.Hash]bool, wanted bool) ([]gitstore.Hash, error) {
	list := []gitstore.Hash{commit}
	seen := map[gitstore.Hash]bool{commit: true}
	err := walk(v, commit, func(_ string, e gitstore.TreeEntry) (bool, error) {
		if known[e.Hash] || seen[e.Hash] {
			return false, nil
		}
		seen[e.Hash] = true
		list = append(list, e.Hash)
		return true, nil
	})
	if err != nil || wanted {
		return list, err
	}
	for _, h := range list {
		if !v.Has(h) {
			return nil, gitstore.ErrMissing
		}
	}
	for _, h := range list {
		known[h] = true
	}
	return nil, nil
}
