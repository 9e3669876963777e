package gitstore

import (
	"bufio"
	"errors"
	"io"
)

// A delta (gitformat-pack(5)) is the size of its base, the size of its result,
// and instructions that copy from the base or insert what they hold.

// deltaSizes reads the two sizes that begin a delta.
func deltaSizes(delta []byte) (base, result int64, rest []byte, err error) {
	if base, delta, err = size7(delta); err != nil {
		return 0, 0, nil, err
	}
	result, rest, err = size7(delta)
	return base, result, rest, err
}

func size7(b []byte) (n int64, rest []byte, err error) {
	for i := 0; i < len(b) && i < 9; i++ {
		n |= int64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return n, b[i+1:], nil
		}
	}
	return 0, nil, corrupt("a delta is cut short")
}

// applyDelta fills result with what a delta makes of its base. The size of the
// base, that of the result, and the instructions are what the delta consists of.
func applyDelta(result, base []byte, baseSize int64, instructions []byte) error {
	if baseSize != int64(len(base)) {
		return corrupt("a delta is of another base")
	}
	out := result[:0:len(result)]
	for p := instructions; len(p) > 0; {
		op := p[0]
		p = p[1:]
		if op&0x80 == 0 {
			n := int(op)
			if n == 0 || n > len(p) || n > cap(out)-len(out) {
				return corrupt("a delta inserts more than there is")
			}
			out = append(out, p[:n]...)
			p = p[n:]
			continue
		}
		var from, n uint32
		for i := range 4 {
			if op&(1<<i) != 0 {
				if len(p) == 0 {
					return corrupt("a delta is cut short")
				}
				from |= uint32(p[0]) << (8 * i)
				p = p[1:]
			}
		}
		for i := range 3 {
			if op&(0x10<<i) != 0 {
				if len(p) == 0 {
					return corrupt("a delta is cut short")
				}
				n |= uint32(p[0]) << (8 * i)
				p = p[1:]
			}
		}
		if n == 0 {
			n = 0x10000
		}
		if int64(from)+int64(n) > int64(len(base)) || int(n) > cap(out)-len(out) {
			return corrupt("a delta copies from beyond its base")
		}
		out = append(out, base[from:from+n]...)
	}
	if len(out) != len(result) {
		return corrupt("a delta makes less than it says")
	}
	return nil
}

// streamDelta is applyDelta for what is too large for memory. It returns the
// size of what it wrote.
func streamDelta(base io.ReaderAt, baseSize int64, delta *bufio.Reader, most int64, out io.Writer) (int64, error) {
	var err error
	next := func() uint64 {
		var b byte
		if err == nil {
			b, err = delta.ReadByte()
		}
		return uint64(b)
	}
	size := func() (n int64) {
		for shift := 0; shift < 63; shift += 7 {
			b := next()
			n |= int64(b&0x7f) << shift
			if b < 0x80 {
				return n
			}
		}
		return -1
	}
	wantBase, want := size(), size()
	if err != nil || wantBase != baseSize || want < 0 || want > most {
		return 0, errors.Join(corrupt("a delta is of another base or too large"), err)
	}
	buf := make([]byte, 64<<10)
	var done int64
	for {
		op := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return done, err
		}
		if op&0x80 == 0 {
			if op == 0 || int64(op) > want-done {
				return done, corrupt("a delta inserts more than there is")
			}
			if _, err := io.ReadFull(delta, buf[:op]); err != nil {
				return done, err
			}
			if _, err := out.Write(buf[:op]); err != nil {
				return done, err
			}
			done += int64(op)
			continue
		}
		var from, n int64
		for i := range 4 {
			if op&(1<<i) != 0 {
				from |= int64(next()) << (8 * i)
			}
		}
		for i := range 3 {
			if op&(0x10<<i) != 0 {
				n |= int64(next()) << (8 * i)
			}
		}
		if n == 0 {
			n = 0x10000
		}
		if err != nil || from+n > baseSize || n > want-done {
			return done, errors.Join(corrupt("a delta copies from beyond its base"), err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, io.NewSectionReader(base, from, n), buf); err != nil {
			return done, err
		}
		done += n
	}
	if done != want {
		return done, corrupt("a delta makes less than it says")
	}
	return done, nil
}
