package lfs_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
)

func pointerTo(content string) lfs.Pointer {
	p, _ := lfs.Parse(fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", sha256.Sum256([]byte(content)), len(content)))
	return p
}

func writes(content string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, content)
		return err
	}
}

func held(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAFileIsGotOnceForAll(t *testing.T) {
	c := lfs.NewCache(t.TempDir())
	var got atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f, err := c.Open(t.Context(), pointerTo("content"), func(ctx context.Context, w io.Writer) error {
				got.Add(1)
				return writes("content")(ctx, w)
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if b, err := io.ReadAll(f); string(b) != "content" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("it was got %d times", got.Load())
	}
}

func TestNothingIsKeptThatIsNotTheFile(t *testing.T) {
	dir := t.TempDir()
	c := lfs.NewCache(dir)
	broken := errors.New("broken")
	for name, content := range map[string]string{"longer": "content and more", "shorter": "cont", "another": "CONTENT", "nothing": ""} {
		_, err := c.Open(t.Context(), pointerTo("content"), writes(content))
		var f *gitremote.Failure
		if !errors.As(err, &f) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Open(t.Context(), pointerTo("content"), func(ctx context.Context, w io.Writer) error {
		return errors.Join(writes("con")(ctx, w), broken)
	}); !errors.Is(err, broken) {
		t.Errorf("cut: %v", err)
	}
	if _, err := c.Open(t.Context(), lfs.Pointer{OID: pointerTo("x").OID, Size: 5 << 30}, writes("x")); !errors.Is(err, lfs.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if left := held(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	f, err := c.Open(t.Context(), pointerTo(""), writes("nobody is asked for nothing"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestWhatIsNotUsedAnyMoreIsRemoved(t *testing.T) {
	dir := t.TempDir()
	c := lfs.NewCache(dir)
	open := func(content string) {
		t.Helper()
		f, err := c.Open(t.Context(), pointerTo(content), writes(content))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	open("old")
	open("used")
	for _, path := range held(t, dir) {
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-48*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	open("used")
	open("new")
	if err := c.Prune(func(_ string, used time.Time) bool { return time.Since(used) < time.Hour }); err != nil {
		t.Fatal(err)
	}
	if left := held(t, dir); len(left) != 2 {
		t.Errorf("%d files are kept, want what was used and what is new: %q", len(left), left)
	}
}

func TestAFullDiskIsToldBeforeADownload(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	_, err := lfs.NewCache(dir).Open(t.Context(), pointerTo("content"), func(context.Context, io.Writer) error {
		t.Error("it was asked for")
		return nil
	})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
}
