package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/internal/archive"
)

var plenty = archive.Limits{Files: 100_000, Bytes: 1 << 30}

// write makes a tree: a path that ends in "/" is a directory, content that
// begins with "-> " a symbolic link, and with "#!" a program.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(content, "-> ")
		var err error
		switch {
		case strings.HasSuffix(path, "/"):
			err = os.MkdirAll(at, 0o755)
		case link:
			err = os.Symlink(target, at)
		case strings.HasPrefix(content, "#!"):
			err = os.WriteFile(at, []byte(content), 0o755)
		default:
			err = os.WriteFile(at, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		path := strings.TrimPrefix(at, dir+"/")
		switch {
		case d.IsDir():
			files[path+"/"] = ""
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(at)
			files[path] = "-> " + target
			return err
		default:
			content, err := os.ReadFile(at)
			files[path] = string(content)
			if fi, _ := d.Info(); fi.Mode()&0o111 != 0 && !strings.HasPrefix(files[path], "#!") {
				files[path] = "(program) " + files[path]
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var site = map[string]string{
	"bin/app":               "#!/bin/sh\necho hello\n",
	"dist/index.html":       "<h1>hello</h1>",
	"dist/app.js":           strings.Repeat("let x = 1;\n", 50_000),
	"dist-extra/a":          "sorted after all of dist",
	"node_modules/.bin/x":   "-> ../x/cli.js",
	"node_modules/x/cli.js": "#!/usr/bin/env node\n",
	"empty/":                "",
	"\xff not utf-8 ☃":      "x",
	"current":               "-> dist",
	strings.Repeat("long/", 60) + strings.Repeat("n", 200): "deep",
}

func pack(t testing.TB, dir string) ([]byte, archive.Summary) {
	t.Helper()
	var b bytes.Buffer
	s, err := archive.Pack(context.Background(), dir, nil, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), s
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from, site)
	b, packed := pack(t, from)
	got, err := archive.Unpack(t.Context(), bytes.NewReader(b), to, plenty)
	if err != nil {
		t.Fatal(err)
	}
	want := read(t, from)
	for path, content := range read(t, to) {
		if want[path] != content {
			t.Errorf("%q came out otherwise", path)
		}
		delete(want, path)
	}
	if len(want) > 0 {
		t.Errorf("missing: %q", want)
	}
	seen, err := archive.Digest(t.Context(), to, nil)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := archive.Verify(t.Context(), bytes.NewReader(b), plenty)
	if err != nil {
		t.Fatal(err)
	}
	if got != packed || seen != packed || checked != packed || !archive.IsDigest(packed.Digest) {
		t.Errorf("packed %+v, unpacked %+v, then on disk %+v, verified %+v", packed, got, seen, checked)
	}
}

// TestDeterministic is of the same files, written in another order, at another
// time, with other rights for others.
func TestDeterministic(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	write(t, one, site)
	for path, content := range site {
		write(t, two, map[string]string{path: content})
		if !strings.HasPrefix(content, "-> ") {
			if err := os.Chtimes(filepath.Join(two, path), time.Unix(1, 0), time.Unix(2, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(two, "dist/index.html"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, sa := pack(t, one)
	b, sb := pack(t, two)
	if !bytes.Equal(a, b) || sa != sb {
		t.Errorf("%d bytes %+v, and %d bytes %+v", len(a), sa, len(b), sb)
	}
}

// TestDigest is of changes that make another release.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b": "1", "c": "2", "l": "-> c"})
	digest := func() string {
		s, err := archive.Digest(t.Context(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest
	}
	seen := map[string]string{digest(): "the first"}
	for what, change := range map[string]func() error{
		"content":           func() error { return os.WriteFile(dir+"/c", []byte("3"), 0o644) },
		"a program":         func() error { return os.Chmod(dir+"/c", 0o755) },
		"a name":            func() error { return os.Rename(dir+"/a/b", dir+"/a/c") },
		"a directory":       func() error { return os.Mkdir(dir+"/e", 0o755) },
		"a link":            func() error { return errors.Join(os.Remove(dir+"/l"), os.Symlink("a", dir+"/l")) },
		"a file for a link": func() error { return errors.Join(os.Remove(dir+"/l"), os.WriteFile(dir+"/l", []byte("a"), 0o644)) },
		"a socket":          func() error { return syscall.Mknod(dir+"/s", syscall.S_IFSOCK|0o644, 0) },
	} {
		if err := change(); err != nil {
			t.Fatal(what, err)
		}
		d := digest()
		if other, taken := seen[d]; taken {
			t.Errorf("%s makes the same digest as %s", what, other)
		}
		seen[d] = what
	}
}

// TestUnfit is of trees that cannot be shipped; the path is named.
func TestUnfit(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		path string
	}{
		"absolute link":     {func(d string) error { return os.Symlink("/usr/bin/python3", d+"/python") }, `"python"`},
		"link out":          {func(d string) error { return os.Symlink("../../etc/passwd", d+"/a/p") }, `"a/p"`},
		"link through link": {func(d string) error { return errors.Join(os.Symlink("..", d+"/a/up"), os.Symlink("a/up/..", d+"/z")) }, `"z"`},
		"pipe":              {func(d string) error { return syscall.Mkfifo(d+"/a/pipe", 0o644) }, `"a/pipe"`},
		"socket":            {func(d string) error { return syscall.Mknod(d+"/sock", syscall.S_IFSOCK|0o644, 0) }, `"sock"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"a/file": "x"})
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			_, err := archive.Pack(t.Context(), dir, nil, io.Discard)
			var bad *archive.BadError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("packing: %v", err)
			}
			s, err := archive.Digest(t.Context(), dir, nil)
			if err != nil || s.Unfit == nil || !strings.Contains(s.Unfit.Error(), c.path) {
				t.Errorf("digest: %+v, %v", s, err)
			}
		})
	}
}

func TestSkip(t *testing.T) {
	dir, without := t.TempDir(), t.TempDir()
	write(t, dir, map[string]string{"a": "1", "log/x": "2", "log/y": "3"})
	write(t, without, map[string]string{"a": "1"})
	s, err := archive.Digest(t.Context(), dir, func(path string) bool { return path == "log" })
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := archive.Digest(t.Context(), without, nil); s != want {
		t.Errorf("%+v, expected %+v", s, want)
	}
}

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

func TestRoundTripOfAny(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "a.b", "a-b", "B", "ä", " ", "x y", "-", "..a", "aa"})
	rapid.Check(t, func(t *rapid.T) {
		from, err := os.MkdirTemp("", "archive")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(from)
		to, err := os.MkdirTemp("", "archive")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(to)
		for range rapid.IntRange(0, 20).Draw(t, "files") {
			parts := rapid.SliceOfN(names, 1, 4).Draw(t, "path")
			path := filepath.Join(append([]string{from}, parts...)...)
			if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
				continue // below a file
			}
			size := rapid.SampledFrom([]int{0, 1, 511, 512, 1000, 128 << 10, 128<<10 + 1, 3 << 20}).Draw(t, "size")
			perm := rapid.SampledFrom([]os.FileMode{0o644, 0o755}).Draw(t, "perm")
			_ = os.WriteFile(path, bytes.Repeat([]byte{byte(size)}, size), perm)
		}
		var b bytes.Buffer
		packed, err := archive.Pack(context.Background(), from, nil, &b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := archive.Unpack(context.Background(), &b, to, plenty)
		if err != nil {
			t.Fatal(err)
		}
		seen, err := archive.Digest(context.Background(), to, nil)
		if err != nil || got != packed || seen != packed {
			t.Fatalf("%+v, %+v, %+v, %v", packed, got, seen, err)
		}
	})
}

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

// big makes a tree like that of a real project: n files, total bytes.
func big(t testing.TB, n int, total int) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 2000)
	for i := range words {
		words[i] = []byte(fmt.Sprintf("word%x ", r.Uint32()>>uint(r.IntN(20))))
	}
	for i := range n {
		at := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d", i%40, i/40%20))
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		size := total / n / 2
		if i%50 == 0 {
			size = total / n * 25
		}
		b := make([]byte, 0, size+16)
		for len(b) < size {
			b = append(b, words[r.IntN(len(words))]...)
		}
		if err := os.WriteFile(filepath.Join(at, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func BenchmarkArchive(b *testing.B) {
	dir := big(b, 13_000, 200<<20)
	packed, s := pack(b, dir)
	b.Logf("%d files, %d MB, packed to %d MB", s.Files, s.Bytes>>20, len(packed)>>20)
	run := func(name string, do func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(s.Bytes)
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("digest", func() error { _, err := archive.Digest(b.Context(), dir, nil); return err })
	run("pack", func() error { _, err := archive.Pack(b.Context(), dir, nil, io.Discard); return err })
	run("verify", func() error { _, err := archive.Verify(b.Context(), bytes.NewReader(packed), plenty); return err })
	run("unpack", func() error {
		to, err := os.MkdirTemp("", "unpack")
		if err != nil {
			return err
		}
		defer os.RemoveAll(to)
		_, err = archive.Unpack(b.Context(), bytes.NewReader(packed), to, plenty)
		return err
	})
}
