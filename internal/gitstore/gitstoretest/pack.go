// Package gitstoretest makes packs for tests.
package gitstoretest

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// Object is one object of a pack.
type Object struct {
	Kind    gitstore.Kind
	Base    gitstore.Hash // when Kind is 7: what Content is a delta to
	Content []byte
}

// Pack returns a pack with the objects, which need not be sound.
func Pack(objects ...Object) []byte {
	var b bytes.Buffer
	b.WriteString("PACK")
	b.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 2), uint32(len(objects))))
	for _, o := range objects {
		first, rest := byte(o.Kind)<<4|byte(len(o.Content)&15), len(o.Content)>>4
		for ; rest > 0; rest >>= 7 {
			b.WriteByte(first | 0x80)
			first = byte(rest & 0x7f)
		}
		b.WriteByte(first)
		if o.Kind == 7 {
			b.Write(o.Base[:])
		}
		z := zlib.NewWriter(&b)
		_, _ = z.Write(o.Content) // to memory
		_ = z.Close()
	}
	sum := sha1.Sum(b.Bytes())
	b.Write(sum[:])
	return b.Bytes()
}
