// Package gitstore keeps git objects on disk in git's own form, packs with an
// index, and reads them fast and in little memory: in parallel, verified against
// their hashes, large ones without holding them whole.
//
// It knows nothing of remotes. Nothing that it reads is trusted: a pack that is
// damaged or was made to do harm ends in an error. SHA-1 is checked without
// looking for collisions; whoever could make one could as well push what he
// wants to run, and hosts refuse them when they are pushed.
package gitstore

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
)

// Hash names an object.
type Hash [sha1.Size]byte

// String returns the 40 hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash takes 40 hex digits in lower case.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) == 2*len(h) {
		if _, err := hex.Decode(h[:], []byte(s)); err == nil && h.String() == s {
			return h, nil
		}
	}
	return Hash{}, fmt.Errorf("%.60q is no full SHA: expected 40 hexadecimal digits in lower case", s)
}

// Kind is the type of an object, by its number in packs.
type Kind uint8

// Kinds of objects. The last two are how packs hold what differs little from
// another object; no object that is read has them.
const (
	Commit   Kind = 1
	Tree     Kind = 2
	Blob     Kind = 3
	Tag      Kind = 4
	ofsDelta Kind = 6
	refDelta Kind = 7
)

func (k Kind) String() string {
	switch k {
	case Commit:
		return "commit"
	case Tree:
		return "tree"
	case Blob:
		return "blob"
	case Tag:
		return "tag"
	}
	return "kind " + strconv.Itoa(int(k))
}

func (k Kind) isDelta() bool { return k == ofsDelta || k == refDelta }

// Errors that callers branch on.
var (
	// ErrMissing tells that the store lacks an object.
	ErrMissing = errors.New("the object is missing")
	// ErrCorrupt tells that what is stored, or arrives, is not what it should be.
	ErrCorrupt = errors.New("corrupt")
	// ErrTooLarge tells that an object is larger than asked for.
	ErrTooLarge = errors.New("the object is too large")
)

func corrupt(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, a...))
}

// header begins what the hash of an object is taken of.
func header(to []byte, k Kind, size int64) []byte {
	to = append(to, k.String()...)
	to = append(to, ' ')
	to = strconv.AppendInt(to, size, 10)
	return append(to, 0)
}

// Sum returns the hash of an object.
func Sum(k Kind, content []byte) Hash {
	d := newDigest(k, int64(len(content)))
	_, _ = d.Write(content)
	return digestSum(d)
}

func newDigest(k Kind, size int64) hash.Hash {
	d := sha1.New()
	var buf [40]byte
	_, _ = d.Write(header(buf[:0], k, size))
	return d
}

func digestSum(d hash.Hash) (h Hash) {
	d.Sum(h[:0])
	return h
}
