package archive_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// TestEscapesAgreesWithTheKernel is of any links: those that are not said to escape must not do so when the kernel follows them.
func TestEscapesAgreesWithTheKernel(t *testing.T) {
	var followed, refused int
	rapid.Check(t, func(t *rapid.T) {
		outer, err := os.MkdirTemp("", "links")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(outer)
		if outer, err = filepath.EvalSymlinks(outer); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(outer, "x", "root")
		// Outside, everything that a link could name is there.
		for _, dir := range []string{"a/a/a", "b/b/b", "x/a/a", "x/b/b", "x/root/a/a/a", "x/root/b/b/b"} {
			if err := os.MkdirAll(filepath.Join(outer, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		part := rapid.SampledFrom([]string{"a", "b", "..", "..", "."})
		target := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(part, 1, 6).Draw(t, "parts"), "/")
		})
		dirs := rapid.SampledFrom([]string{"", "a/", "a/a/", "b/", "b/b/"})
		targets := map[string]string{}
		for range rapid.IntRange(1, 5).Draw(t, "links") {
			path := dirs.Draw(t, "dir") + rapid.SampledFrom([]string{"a", "b", "l", "m"}).Draw(t, "name")
			full := filepath.Join(root, path)
			// A link takes the place of an empty directory; one that holds something
			// stays.
			_ = os.Remove(full)
			to := target.Draw(t, "target")
			if os.Symlink(to, full) == nil {
				targets[path] = to
			}
		}
		for path := range targets {
			if archive.Escapes(path, targets) {
				refused++
				continue
			}
			real, err := filepath.EvalSymlinks(filepath.Join(root, path))
			if err != nil {
				continue
			}
			followed++
			if real != root && !strings.HasPrefix(real, root+"/") {
				t.Fatalf("%s leads to %s, out of %s; links %v", path, real, root, targets)
			}
		}
	})
	if followed == 0 || refused == 0 {
		t.Errorf("nothing was tried: %d links followed, %d refused", followed, refused)
	}
}
