package gitstore

import (
	"bytes"
	"compress/zlib"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func deflated(t testing.TB, content []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err == nil {
		_, err = w.Write(content)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func samples() [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	skewed := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for i := range skewed {
		// Few bytes are common and many rare, so that their codes are long.
		skewed[i] = byte(rng.ExpFloat64() * rng.ExpFloat64() * 6)
	}
	return [][]byte{
		nil, []byte("a"), []byte(strings.Repeat("a", 1000)), []byte(strings.Repeat("lockstep, ", 20_000)), noise, skewed,
		append(bytes.Clone(noise[:40_000]), noise[:40_000]...), // far copies
	}
}

func TestInflateReadsWhatZlibWrites(t *testing.T) {
	for i, content := range samples() {
		for level := zlib.HuffmanOnly; level <= zlib.BestCompression; level++ {
			in := deflated(t, content, level)
			out := make([]byte, len(content))
			n, err := new(inflater).inflate(out, append(bytes.Clone(in), "what follows"...))
			if err != nil || n != len(in) || !bytes.Equal(out, content) {
				t.Errorf("sample %d, level %d: %d bytes of %d read, %v", i, level, n, len(in), err)
			}
			for _, cut := range []int{0, 1, 2, 3, len(in) / 2, len(in) - 5, len(in) - 4, len(in) - 1} {
				if cut < 0 || cut >= len(in) {
					continue
				}
				if _, err := new(inflater).inflate(out, in[:cut]); err != errShort {
					t.Errorf("sample %d, level %d, cut to %d of %d: %v", i, level, cut, len(in), err)
				}
			}
			if len(content) > 0 {
				if _, err := new(inflater).inflate(out[1:], in); err == nil {
					t.Errorf("sample %d, level %d: more than expected was taken", i, level)
				}
			}
		}
	}
}

// fixedStream writes a stream in the fixed code of deflate, which Go's own writer
// never ends with.
type fixedStream struct {
	b    []byte
	free int // bits of the last byte
}

func (s *fixedStream) bits(v, n int) {
	for i := range n {
		if s.free == 0 {
			s.b, s.free = append(s.b, 0), 8
		}
		s.b[len(s.b)-1] |= byte(v>>i&1) << (8 - s.free)
		s.free--
	}
}

// code writes a code, which unlike numbers begins with its highest bit.
func (s *fixedStream) code(v, n int) {
	for i := n - 1; i >= 0; i-- {
		s.bits(v>>i&1, 1)
	}
}

func (s *fixedStream) literal(c byte) {
	if c < 144 {
		s.code(0x30+int(c), 8)
	} else {
		s.code(0x190+int(c)-144, 9)
	}
}

// The last code before the end may need bits of the last bytes, which are too few
// to be taken eight at a time: here it is the longest copy of the fixed code, 31
// bits, after characters of 8 and 9.
func TestInflateReadsToTheLastBit(t *testing.T) {
	for short := range 9 {
		for long := range 9 {
			s := &fixedStream{b: []byte{0x78, 0x9c}}
			s.bits(1, 1)
			s.bits(1, 2)
			var content []byte
			put := func(c byte, n int) {
				for range n {
					s.literal(c)
					content = append(content, c)
				}
			}
			put(200, 30_000)
			put(1, short)
			put(201, long)
			s.code(0xc0+284-280, 8) // of 227 to 257 bytes
			s.bits(13, 5)
			s.code(29, 5) // from 24,577 to 32,768 bytes back
			s.bits(1234, 13)
			s.code(0, 7)
			content = append(content, content[len(content)-24_577-1234:][:227+13]...)
			s.b = append(s.b, "sum."...)
			out := make([]byte, len(content))
			if n, err := new(inflater).inflate(out, s.b); err != nil || n != len(s.b) || !bytes.Equal(out, content) {
				t.Errorf("%d and %d characters: %d bytes of %d read, %v", short, long, n, len(s.b), err)
			}
		}
	}
}

// FuzzInflate compares with the standard library.
func FuzzInflate(f *testing.F) {
	for _, content := range samples() {
		if len(content) > 2000 {
			content = content[:2000]
		}
		f.Add(deflated(f, content, zlib.DefaultCompression), len(content))
		f.Add(deflated(f, content, zlib.BestSpeed), len(content))
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 0 || size > 1<<20 {
			return
		}
		out := make([]byte, size)
		consumed, err := new(inflater).inflate(out, in)

		rd := bytes.NewReader(in)
		var want []byte
		z, stdErr := zlib.NewReader(rd)
		if stdErr == nil {
			want, stdErr = io.ReadAll(io.LimitReader(z, 1<<20+1))
		}
		switch {
		case stdErr == nil && len(want) == size:
			if err != nil || !bytes.Equal(out, want) || consumed != len(in)-rd.Len() {
				t.Fatalf("read %d of %d: %v", consumed, len(in)-rd.Len(), err)
			}
		case stdErr == nil && err == nil:
			t.Fatalf("took %d bytes for %d", len(want), size)
		case err == nil && stdErr != zlib.ErrChecksum:
			t.Fatalf("took what the library refuses: %v", stdErr)
		}
	})
}

func BenchmarkInflate(b *testing.B) {
	content := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog. ", 10))
	rng := rand.New(rand.NewPCG(1, 2))
	for len(content) < 8192 {
		content = append(content, "abcdefgh ijklmnop\n"[rng.IntN(18)], byte('a'+rng.IntN(26)))
	}
	in := deflated(b, content, zlib.DefaultCompression)
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		out, f := make([]byte, len(content)), new(inflater)
		for b.Loop() {
			if _, err := f.inflate(out, in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		out := make([]byte, len(content))
		z, err := zlib.NewReader(bytes.NewReader(in))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			_ = z.(zlib.Resetter).Reset(bytes.NewReader(in), nil)
			if _, err := io.ReadFull(z, out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
