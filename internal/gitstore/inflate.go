package gitstore

import (
	"encoding/binary"
	"errors"
	"sync"
)

// inflater decodes zlib streams (RFC 1950, 1951) that are in memory, into memory
// of the right size. That is what nearly all reading of a pack is, and knowing
// both ends makes it about twice as fast as the standard library, which must be
// ready for streams. The checksum at the end is left out: every object is
// verified against its hash.
type inflater struct {
	literals  huffman
	distances huffman
	lengths   [maxCodes]uint8 // of the codes of a block
}

const (
	maxCodes    = 288 + 32
	maxCodeBits = 15
	// fastBits is how long codes may be that one look into a table decodes. With
	// more, filling the tables costs more than is gained: most files are small.
	fastBits = 9
)

// errShort tells that the stream goes on beyond the input.
var errShort = errors.New("a compressed object is cut short")

var errDeflate = corrupt("a compressed object is garbled")

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// An action says what a code means: the bits of the code, what kind it is, how
// many extra bits follow, and a literal, or the length or distance to which they
// are added.
type action uint32

const (
	isLiteral action = 0 << 5
	isBase    action = 1 << 5
	isEnd     action = 2 << 5
	isLong    action = 3 << 5 // longer than what the table is indexed by
	isInvalid action = 4 << 5
	kindMask  action = 7 << 5
)

func (a action) bits() uint   { return uint(a & 31) }
func (a action) extra() uint  { return uint(a >> 8 & 31) }
func (a action) value() uint  { return uint(a >> 16) }
func (a action) kind() action { return a & kindMask }

var (
	literalActions  [288]action
	distanceActions [32]action
	fixed           inflater
)

func init() {
	for i := range 256 {
		literalActions[i] = isLiteral | action(i)<<16
	}
	literalActions[256] = isEnd
	base := 3
	for i := range 28 {
		extra := max(0, i/4-1)
		literalActions[257+i] = isBase | action(extra)<<8 | action(base)<<16
		base += 1 << extra
	}
	literalActions[285] = isBase | 258<<16
	literalActions[286], literalActions[287] = isInvalid, isInvalid
	base = 1
	for i := range 30 {
		extra := max(0, i/2-1)
		distanceActions[i] = isBase | action(extra)<<8 | action(base)<<16
		base += 1 << extra
	}
	distanceActions[30], distanceActions[31] = isInvalid, isInvalid

	l := fixed.lengths[:]
	for i := range 288 {
		l[i] = 8
		if i >= 144 && i < 256 {
			l[i] = 9
		} else if i >= 256 && i < 280 {
			l[i] = 7
		}
	}
	for i := range 32 {
		l[288+i] = 5
	}
	if !fixed.literals.build(l[:288], literalActions[:]) || !fixed.distances.build(l[288:], distanceActions[:]) {
		panic("the fixed code of deflate is wrong")
	}
}

// huffman decodes one code.
type huffman struct {
	fast [1 << fastBits]action // by the next bits
	// For codes that are longer: how many there are of each length, and what they
	// mean, in order.
	counts  [maxCodeBits + 1]uint16
	ordered [288]action
}

// build returns false when the lengths are those of no code. One with a single
// symbol may be incomplete, as deflate allows.
func (h *huffman) build(lengths []uint8, actions []action) bool {
	h.counts = [maxCodeBits + 1]uint16{}
	for _, n := range lengths {
		h.counts[n]++
	}
	used := len(lengths) - int(h.counts[0])
	h.counts[0] = 0
	var next, place [maxCodeBits + 2]int
	left, code := 1, 0
	for n := 1; n <= maxCodeBits; n++ {
		code = (code + int(h.counts[n-1])) << 1
		next[n] = code
		place[n+1] = place[n] + int(h.counts[n])
		if left = left<<1 - int(h.counts[n]); left < 0 {
			return false
		}
	}
	if left > 0 {
		if used > 1 {
			return false
		}
		for i := range h.fast {
			h.fast[i] = isInvalid
		}
	}
	for i, n := range lengths {
		if n == 0 {
			continue
		}
		h.ordered[place[n]] = actions[i]
		place[n]++
		code := next[n]
		next[n]++
		reversed := 0
		for range n {
			reversed = reversed<<1 | code&1
			code >>= 1
		}
		if n > fastBits {
			h.fast[reversed&(1<<fastBits-1)] = isLong
			continue
		}
		for at := reversed; at < 1<<fastBits; at += 1 << n {
			h.fast[at] = actions[i] | action(n)
		}
	}
	return true
}

// long decodes a code of more than fastBits.
func (h *huffman) long(bits uint64) action {
	code, first, index := 0, 0, 0
	for n := 1; n <= maxCodeBits; n++ {
		code |= int(bits & 1)
		bits >>= 1
		count := int(h.counts[n])
		if code-count < first {
			return h.ordered[index+code-first] | action(n)
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return isInvalid
}

// bitReader hands out the bits of the input.
type bitReader struct {
	in   []byte
	at   int    // of the next byte that is not in bits
	bits uint64 // what is above n may be set already
	n    uint
}

// refill makes at least 56 bits ready, or all that there are.
func (r *bitReader) refill() {
	if len(r.in)-r.at >= 8 {
		r.bits |= binary.LittleEndian.Uint64(r.in[r.at:]) << (r.n & 63)
		r.at += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	for r.n < 56 && r.at < len(r.in) {
		r.bits |= uint64(r.in[r.at]) << (r.n & 63)
		r.at++
		r.n += 8
	}
}

// take returns n bits, at most 32; ok is false when there are no more.
func (r *bitReader) take(n uint) (v uint, ok bool) {
	if r.n < n {
		r.refill()
		if r.n < n {
			return 0, false
		}
	}
	v = uint(r.bits & (1<<n - 1))
	r.bits >>= n
	r.n -= n
	return v, true
}

// align gives back whole bytes and drops the rest of the current one.
func (r *bitReader) align() {
	r.at -= int(r.n / 8)
	r.bits, r.n = 0, 0
}

// inflate decodes the zlib stream that begins in, which must be exactly as long
// as out, into it. It returns how many bytes the stream has, or errShort.
func (f *inflater) inflate(out, in []byte) (consumed int, err error) {
	if len(in) < 2 {
		return 0, errShort
	}
	if in[0]&0x0f != 8 || in[1]&0x20 != 0 || (uint(in[0])<<8|uint(in[1]))%31 != 0 {
		return 0, errDeflate
	}
	r := bitReader{in: in, at: 2}
	done := 0
	for last := false; !last; {
		head, ok := r.take(3)
		if !ok {
			return 0, errShort
		}
		last = head&1 != 0
		switch head >> 1 {
		case 0:
			done, err = stored(&r, out, done)
		case 1:
			done, err = fixed.block(&r, out, done)
		case 2:
			if err = f.readCodes(&r); err == nil {
				done, err = f.block(&r, out, done)
			}
		default:
			err = errDeflate
		}
		if err != nil {
			return 0, err
		}
	}
	if done != len(out) {
		return 0, corrupt("an object has another size than it says")
	}
	r.align()
	if len(in)-r.at < 4 {
		return 0, errShort
	}
	return r.at + 4, nil
}

func stored(r *bitReader, out []byte, done int) (int, error) {
	r.align()
	if len(r.in)-r.at < 4 {
		return done, errShort
	}
	n := int(binary.LittleEndian.Uint16(r.in[r.at:]))
	if n^0xffff != int(binary.LittleEndian.Uint16(r.in[r.at+2:])) || n > len(out)-done {
		return done, errDeflate
	}
	r.at += 4
	if n > len(r.in)-r.at {
		return done, errShort
	}
	copy(out[done:], r.in[r.at:r.at+n])
	r.at += n
	return done + n, nil
}

var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads the codes that a block is written in.
func (f *inflater) readCodes(r *bitReader) error {
	counts, ok := r.take(14)
	if !ok {
		return errShort
	}
	literals, distances, codes := counts&31+257, counts>>5&31+1, counts>>10+4
	if literals > 286 || distances > 30 {
		return errDeflate
	}
	var lengths [19]uint8
	for _, i := range codeOrder[:codes] {
		n, ok := r.take(3)
		if !ok {
			return errShort
		}
		lengths[i] = uint8(n)
	}
	var symbols [19]action
	for i := range symbols {
		symbols[i] = action(i) << 16
	}
	if !f.literals.build(lengths[:], symbols[:]) {
		return errDeflate
	}
	all := f.lengths[:literals+distances]
	for i := uint(0); i < literals+distances; {
		r.refill()
		a := f.literals.fast[r.bits&(1<<fastBits-1)]
		if a.kind() == isInvalid {
			return errDeflate
		}
		if _, ok := r.take(a.bits()); !ok {
			return errShort
		}
		if a.value() < 16 {
			all[i] = uint8(a.value())
			i++
			continue
		}
		var fill uint8
		base, extra := uint(3), uint(2)
		switch a.value() {
		case 16:
			if i == 0 {
				return errDeflate
			}
			fill = all[i-1]
		case 17:
			extra = 3
		case 18:
			base, extra = 11, 7
		}
		more, ok := r.take(extra)
		if !ok {
			return errShort
		}
		if base+more > literals+distances-i {
			return errDeflate
		}
		for range base + more {
			all[i] = fill
			i++
		}
	}
	if all[256] == 0 || !f.literals.build(all[:literals], literalActions[:]) || !f.distances.build(all[literals:], distanceActions[:]) {
		return errDeflate
	}
	return nil
}

// block decodes the symbols of one block. The reader's fields are held in
// variables, which the processor has in registers.
func (f *inflater) block(r *bitReader, out []byte, done int) (int, error) {
	in, at, bits, n := r.in, r.at, r.bits, r.n
	literals, distances := &f.literals, &f.distances
	for {
		// 48 bits are the most that one round needs: two codes of 15, and their 5
		// and 13 extra bits.
		if n < 48 {
			if len(in)-at >= 8 {
				bits |= binary.LittleEndian.Uint64(in[at:]) << (n & 63)
				at += int(63-n) >> 3
				n |= 56
			} else {
				for n < 56 && at < len(in) {
					bits |= uint64(in[at]) << (n & 63)
					at++
					n += 8
				}
			}
		}
		a := literals.fast[bits&(1<<fastBits-1)]
		// Literals follow one another, and are short: as many as there are bits for.
		for a.kind() == isLiteral && n >= 2*fastBits && done < len(out) {
			out[done] = byte(a.value())
			done++
			bits >>= a.bits() & 63
			n -= a.bits()
			a = literals.fast[bits&(1<<fastBits-1)]
		}
		if n < 48 && at < len(in) {
			continue // for the bits
		}
		if a.kind() == isLong {
			a = literals.long(bits)
		}
		if a.bits() > n {
			return done, errShort
		}
		bits >>= a.bits() & 63
		n -= a.bits()
		if a.kind() == isLiteral {
			if done >= len(out) {
				return done, errDeflate
			}
			out[done] = byte(a.value())
			done++
			continue
		}
		if a.kind() != isBase {
			if a.kind() == isEnd {
				break
			}
			return done, errDeflate
		}
		d := a.extra()
		length := int(a.value()) + int(bits&(1<<(d&63)-1))
		bits >>= d & 63
		used := d

		a = distances.fast[bits&(1<<fastBits-1)]
		if a.kind() == isLong {
			a = distances.long(bits)
		}
		bits >>= a.bits() & 63
		d = a.extra()
		distance := int(a.value()) + int(bits&(1<<(d&63)-1))
		bits >>= d & 63
		used += a.bits() + d
		if used > n {
			return done, errShort
		}
		n -= used
		if a.kind() != isBase || distance > done || length > len(out)-done {
			return done, errDeflate
		}
		from, end := done-distance, done+length
		switch {
		case distance >= 8 && len(out)-end >= 8:
			// Most copies are short. What is written too much is written over later.
			for ; done < end; done, from = done+8, from+8 {
				binary.LittleEndian.PutUint64(out[done:], binary.LittleEndian.Uint64(out[from:]))
			}
		case distance >= length:
			copy(out[done:end], out[from:])
		default:
			for ; done < end; done, from = done+1, from+1 {
				out[done] = out[from]
			}
		}
		done = end
	}
	r.at, r.bits, r.n = at, bits, n
	return done, nil
}
