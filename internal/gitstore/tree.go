package gitstore

import (
	"bytes"
	"fmt"
)

// Modes of the entries of a tree.
const (
	ModeDir        uint32 = 0o040000
	ModeFile       uint32 = 0o100644
	ModeExecutable uint32 = 0o100755
	ModeGroup      uint32 = 0o100664 // as very old versions of git wrote files
	ModeLink       uint32 = 0o120000
	ModeSubmodule  uint32 = 0o160000
)

// TreeEntry is one entry of a directory. Its name may be anything without a zero
// byte.
type TreeEntry struct {
	Mode uint32
	Name string
	Hash Hash
}

// ParseTree reads the content of a tree.
func ParseTree(b []byte) ([]TreeEntry, error) {
	var all []TreeEntry
	for len(b) > 0 {
		head, rest, ok := bytes.Cut(b, []byte{0})
		mode, name, spaced := bytes.Cut(head, []byte{' '})
		if !ok || !spaced || len(rest) < len(Hash{}) || len(mode) == 0 || len(mode) > 7 {
			return nil, fmt.Errorf("a tree has an entry that is cut short")
		}
		e := TreeEntry{Name: string(name), Hash: Hash(rest)}
		for _, c := range mode {
			if c < '0' || c > '7' {
				return nil, fmt.Errorf("a tree has an entry with the mode %q", mode)
			}
			e.Mode = e.Mode<<3 | uint32(c-'0')
		}
		all = append(all, e)
		b = rest[len(Hash{}):]
	}
	return all, nil
}

// CommitTree returns the tree that a commit with this content names.
func CommitTree(content []byte) (Hash, error) {
	first, _, _ := bytes.Cut(content, []byte{'\n'})
	sha, ok := bytes.CutPrefix(first, []byte("tree "))
	if !ok {
		return Hash{}, fmt.Errorf("the commit names no tree")
	}
	h, err := ParseHash(string(sha))
	if err != nil {
		return Hash{}, fmt.Errorf("the commit names no tree: %w", err)
	}
	return h, nil
}
