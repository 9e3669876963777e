package gitstore

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"slices"
	"sort"
)

// index tells where in its pack an object is (gitformat-pack(5), version 2).
type index struct {
	fanout  [256]uint32
	names   []byte // sorted, sha1.Size each
	crcs    []byte // 4 bytes each, of what is stored
	small   []byte // 4 bytes each: the offset, or its place in large
	large   []byte // 8 bytes each
	packSum [sha1.Size]byte
}

var indexMagic = []byte{0xff, 't', 'O', 'c', 0, 0, 0, 2}

// parseIndex checks the form of an index, not its checksum: what it leads to is
// verified when it is read.
func parseIndex(b []byte) (*index, error) {
	const fixed = 8 + 256*4 + 2*sha1.Size
	if len(b) < fixed || !bytes.Equal(b[:8], indexMagic) {
		return nil, corrupt("an index of a pack begins wrongly or is cut short")
	}
	x := &index{}
	last := uint32(0)
	for i := range x.fanout {
		x.fanout[i] = binary.BigEndian.Uint32(b[8+4*i:])
		if x.fanout[i] < last {
			return nil, corrupt("an index of a pack is out of order")
		}
		last = x.fanout[i]
	}
	n := int64(last)
	body := b[8+256*4 : len(b)-2*sha1.Size]
	if int64(len(body)) < n*(sha1.Size+8) || (int64(len(body))-n*(sha1.Size+8))%8 != 0 {
		return nil, corrupt("an index of a pack is cut short")
	}
	x.names = body[:n*sha1.Size]
	x.crcs = body[n*sha1.Size : n*(sha1.Size+4)]
	x.small = body[n*(sha1.Size+4) : n*(sha1.Size+8)]
	x.large = body[n*(sha1.Size+8):]
	copy(x.packSum[:], b[len(b)-2*sha1.Size:])
	return x, nil
}

func (x *index) count() int { return len(x.small) / 4 }

func (x *index) name(i int) []byte { return x.names[i*sha1.Size : (i+1)*sha1.Size] }

func (x *index) crc(i int) uint32 { return binary.BigEndian.Uint32(x.crcs[4*i:]) }

// offset returns where object i is; -1 when the index does not say.
func (x *index) offset(i int) int64 {
	o := binary.BigEndian.Uint32(x.small[4*i:])
	if o&(1<<31) == 0 {
		return int64(o)
	}
	at := 8 * int64(o&^(1<<31))
	if at+8 > int64(len(x.large)) {
		return -1
	}
	big := binary.BigEndian.Uint64(x.large[at:])
	if big>>63 != 0 {
		return -1
	}
	return int64(big)
}

// find returns the offset of an object.
func (x *index) find(h Hash) (int64, bool) {
	lo, hi := 0, int(x.fanout[h[0]])
	if h[0] > 0 {
		lo = int(x.fanout[h[0]-1])
	}
	i := lo + sort.Search(hi-lo, func(i int) bool { return bytes.Compare(x.name(lo+i), h[:]) >= 0 })
	if i >= hi || !bytes.Equal(x.name(i), h[:]) {
		return 0, false
	}
	o := x.offset(i)
	return o, o >= 0
}

// offsets returns where all objects are, in order.
func (x *index) offsets() []int64 {
	all := make([]int64, 0, x.count())
	for i := range x.count() {
		if o := x.offset(i); o >= 0 {
			all = append(all, o)
		}
	}
	slices.Sort(all)
	return all
}

// entry is one object of a pack that is being indexed.
type entry struct {
	offset int64
	base   int64 // offset of the base of an ofsDelta; of a refDelta the number of its name
	hash   Hash
	crc    uint32
	kind   Kind // as in the pack
	known  bool // hash is set
}

// encodeIndex returns the index of a pack with these entries, whose hashes are
// known and which it sorts by them.
func encodeIndex(entries []entry, packSum [sha1.Size]byte) []byte {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(bytes.Compare(a.hash[:], b.hash[:]), cmp.Compare(a.offset, b.offset))
	})
	// An object that is in the pack twice is listed once.
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.hash == b.hash })
	b := make([]byte, 0, 8+256*4+len(entries)*(sha1.Size+8)+2*sha1.Size)
	b = append(b, indexMagic...)
	n := 0
	for first := range 256 {
		for n < len(entries) && int(entries[n].hash[0]) <= first {
			n++
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for i := range entries {
		b = append(b, entries[i].hash[:]...)
	}
	for i := range entries {
		b = binary.BigEndian.AppendUint32(b, entries[i].crc)
	}
	var large []int64
	for i := range entries {
		o := entries[i].offset
		if o < 1<<31 {
			b = binary.BigEndian.AppendUint32(b, uint32(o))
			continue
		}
		b = binary.BigEndian.AppendUint32(b, 1<<31|uint32(len(large)))
		large = append(large, o)
	}
	for _, o := range large {
		b = binary.BigEndian.AppendUint64(b, uint64(o))
	}
	b = append(b, packSum[:]...)
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}
