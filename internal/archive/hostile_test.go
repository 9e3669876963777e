package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// hostile is a tar stream of made-up entries.
func hostile(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range headers {
		body := []byte{}
		if h.Typeflag == tar.TypeReg {
			body = []byte(h.Linkname)
			h.Size, h.Linkname = int64(len(body)), ""
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: "x"}
}
func dirEntry(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// TestHostile is of archives that somebody made to do harm: they are refused, and
// nothing is written outside of the directory.
func TestHostile(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"parent":            {file("../evil")},
		"parent within":     {dirEntry("a"), file("a/../../evil")},
		"absolute":          {file("/tmp/evil")},
		"dot":               {file("./evil")},
		"empty part":        {dirEntry("a"), file("a//evil")},
		"no directory":      {file("a/evil")},
		"through a link":    {link("a", "../outside"), file("a/evil")},
		"link out":          {link("a", "../outside")},
		"link out via link": {dirEntry("d"), link("d/up", ".."), link("e", "d/up/..")},
		"absolute link":     {link("a", "/etc/passwd")},
		"twice":             {file("a"), file("a")},
		"link, then file":   {link("a", "b"), file("a")},
		"out of order":      {file("b"), file("a")},
		"hard link":         {file("a"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
		"hard link out":     {{Typeflag: tar.TypeLink, Name: "b", Linkname: "/etc/passwd"}},
		"device":            {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
		"pipe":              {{Typeflag: tar.TypeFifo, Name: "pipe"}},
		"setuid":            {{Typeflag: tar.TypeReg, Name: "su", Mode: 0o4755}},
		"writable for all":  {{Typeflag: tar.TypeReg, Name: "w", Mode: 0o666}},
		"attributes":        {{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}}},
		"name too long":     {file(strings.Repeat("n", 256))},
		"path too long":     {file(strings.Repeat("n/", 2100) + "x")},
		"too many":          {file("a"), file("b"), file("c"), file("d"), file("e"), file("f")},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			write(t, top, map[string]string{"in/": "", "outside/": ""})
			_, err := archive.Unpack(t.Context(), bytes.NewReader(hostile(t, headers...)), filepath.Join(top, "in"), archive.Limits{Files: 5, Bytes: 1 << 20})
			var bad *archive.BadError
			if !errors.As(err, &bad) {
				t.Errorf("got %v, expected it to be refused", err)
			}
			for path := range read(t, top) {
				if !strings.HasPrefix(path, "in/") && path != "outside/" {
					t.Errorf("%s was written", path)
				}
			}
			if _, err := archive.Verify(t.Context(), bytes.NewReader(hostile(t, headers...)), archive.Limits{Files: 5, Bytes: 1 << 20}); err == nil {
				t.Error("it is verified")
			}
		})
	}
}

// TestBomb is of a few bytes that become very many.
func TestBomb(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/zero")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	b, _ := pack(t, dir)
	if len(b) > 64<<10 {
		t.Fatalf("no bomb: %d bytes", len(b))
	}
	_, err = archive.Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), archive.Limits{Files: 10, Bytes: 1 << 20})
	var bad *archive.BadError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "room") {
		t.Errorf("got %v", err)
	}
}

// TestDamaged is of archives that were cut short or changed on their way.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b": strings.Repeat("content ", 1000), "c": "#!x", "d": "-> c"})
	b, want := pack(t, dir)
	for n := range b {
		got, err := archive.Unpack(t.Context(), bytes.NewReader(b[:n]), t.TempDir(), plenty)
		var bad *archive.BadError
		if err == nil || !errors.As(err, &bad) {
			t.Errorf("cut after %d of %d bytes: %v %+v", n, len(b), err, got)
		}
	}
	for n := range b {
		changed := bytes.Clone(b)
		changed[n] ^= 0x20
		got, err := archive.Verify(t.Context(), bytes.NewReader(changed), plenty)
		if err == nil && got.Digest != want.Digest {
			continue // as good as refused: the digest is another
		}
		if err == nil && !bytes.Equal(changed, b) && got != want {
			t.Errorf("byte %d changed: %+v", n, got)
		}
	}
	if _, err := archive.Verify(t.Context(), bytes.NewReader(append(bytes.Clone(b), b...)), plenty); err == nil {
		t.Error("two archives are taken for one")
	}
}

// TestReadError is of a transfer that breaks: that is not the archive's fault.
func TestReadError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, site)
	b, _ := pack(t, dir)
	broken := errors.New("the line is cut")
	_, err := archive.Unpack(t.Context(), io.MultiReader(bytes.NewReader(b[:len(b)/2]), failing{broken}), t.TempDir(), plenty)
	var bad *archive.BadError
	if !errors.Is(err, broken) || errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
	if _, err := archive.Pack(t.Context(), dir, nil, failing{broken}); !errors.Is(err, broken) {
		t.Errorf("packing: %v", err)
	}
}

// TestDiskFull is of a disk that fills up while an archive is unpacked: that is
// not the archive's fault.
func TestDiskFull(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	if err := syscall.Mount("tmpfs", to, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(to, syscall.MNT_DETACH) })
	for name, files := range map[string]map[string]string{
		"one large file":   {"a": strings.Repeat("x", 1<<20)},
		"many small files": {"b/1": strings.Repeat("x", 60<<10), "b/2": strings.Repeat("x", 60<<10), "b/3": strings.Repeat("x", 60<<10), "b/4": strings.Repeat("x", 60<<10), "b/5": strings.Repeat("x", 60<<10)},
	} {
		from, in := filepath.Join(dir, name), filepath.Join(to, name)
		write(t, from, files)
		b, _ := pack(t, from)
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := archive.Unpack(t.Context(), bytes.NewReader(b), in, plenty)
		var bad *archive.BadError
		if !errors.Is(err, syscall.ENOSPC) || errors.As(err, &bad) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := os.RemoveAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFrames is of archives whose frames are not as Pack makes them: they are
// refused before they need memory.
func TestFrames(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1"})
	b, _ := pack(t, dir)
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(8<<20), zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for name, c := range map[string][]byte{
		"large":       z.EncodeAll(make([]byte, 1<<20+1), nil),
		"large noise": z.EncodeAll(noise(2<<20), nil),
		"skippable":   append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 0, 0}, b...),
		"noise":       noise(1000),
	} {
		_, err := archive.Verify(t.Context(), bytes.NewReader(c), plenty)
		var bad *archive.BadError
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for n := 1; n < len(b); n++ {
		if _, err := archive.Verify(t.Context(), bytes.NewReader(append(bytes.Clone(b), b[:n]...)), plenty); err == nil {
			t.Errorf("%d bytes of another frame at the end are not noticed", n)
		}
	}
	// A frame that does not say how large it is, of ever more blocks.
	block := append([]byte{0, 0, 16}, make([]byte, 128<<10)...)
	endless := bytes.NewReader(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x50}, bytes.Repeat(block, 256)...))
	if _, err := archive.Verify(t.Context(), endless, plenty); err == nil || endless.Size()-int64(endless.Len()) > 2<<20 {
		t.Errorf("%d bytes of one frame were read: %v", endless.Size()-int64(endless.Len()), err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// FuzzUnpack feeds tar streams and whole archives that anybody may have made.
func FuzzUnpack(f *testing.F) {
	dir := f.TempDir()
	write(f, dir, map[string]string{"a/b": "1", "c": "#!x", "d": "-> c"})
	b, _ := pack(f, dir)
	f.Add(b, true)
	for _, h := range [][]tar.Header{{file("../evil")}, {link("a", "../.."), file("a/evil")}, {dirEntry("a"), file("a/b"), link("c", "a/b")}} {
		f.Add(hostile(f, h...), true)
		z, _ := zstd.NewReader(bytes.NewReader(hostile(f, h...)))
		raw, _ := io.ReadAll(z)
		f.Add(raw, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, compressed bool) {
		if !compressed {
			z, _ := zstd.NewWriter(nil)
			b = z.EncodeAll(b, nil)
		}
		top, err := os.MkdirTemp("", "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(top)
		in := filepath.Join(top, "in")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := archive.Unpack(t.Context(), bytes.NewReader(b), in, archive.Limits{Files: 100, Bytes: 1 << 20})
		if names, _ := os.ReadDir(top); len(names) != 1 {
			t.Fatalf("something was written outside: %v", names)
		}
		if err != nil {
			return
		}
		seen, err := archive.Digest(t.Context(), in, nil)
		if err != nil || seen != got {
			t.Fatalf("unpacked as %+v, on disk as %+v, %v", got, seen, err)
		}
		packed, err := archive.Pack(t.Context(), in, nil, io.Discard)
		if err != nil || packed != got {
			t.Fatalf("unpacked as %+v, packs as %+v, %v", got, packed, err)
		}
	})
}
