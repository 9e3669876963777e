package archive_test

import (
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
