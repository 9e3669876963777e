// Package lfs gets the files that a repository keeps in Git LFS, through the
// git-lfs program, and keeps them at hand by their hash. What it hands out was
// verified.
package lfs

import (
	"bytes"
	"regexp"
	"strconv"
)

// Pointer stands in git for a file in Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: keys are sorted
// after version, and a pointer is below 1024 bytes).
type Pointer struct {
	Text []byte // as it is in git
	OID  string // SHA-256 of the content, in hex
	Size int64
}

// MaxPointer is more bytes than a pointer has.
const MaxPointer = 1024

var (
	pointerOID  = regexp.MustCompile(`(?m)^oid sha256:([0-9a-f]{64})$`)
	pointerSize = regexp.MustCompile(`(?m)^size ([0-9]{1,18})$`)
)

// Parse returns the pointer that the content of a file is; ok is false when it is
// none.
func Parse(content []byte) (p Pointer, ok bool) {
	if len(content) >= MaxPointer || !bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/v1\n")) {
		return p, false
	}
	oid, size := pointerOID.FindSubmatch(content), pointerSize.FindSubmatch(content)
	if oid == nil || size == nil {
		return p, false
	}
	n, err := strconv.ParseInt(string(size[1]), 10, 64)
	return Pointer{bytes.Clone(content), string(oid[1]), n}, err == nil
}
