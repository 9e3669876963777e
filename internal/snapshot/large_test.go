package snapshot_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// A file in Git LFS can be asked for whether the store has its commit or lost it,
// and once it is there the repository is not needed any more.
func TestAFileInLFSIsSent(t *testing.T) {
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	dir, _ := upstream(t)
	const content = "the large file"
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	at := filepath.Join(dir, ".git", "lfs", "objects", oid[:2], oid[2:4])
	must(t, os.MkdirAll(at, 0o755))
	must(t, os.WriteFile(filepath.Join(at, oid), []byte(content), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "in", "deep"), 0o755))
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
	must(t, os.WriteFile(filepath.Join(dir, "in", "deep", "model.bin"), []byte(pointer), 0o755))
	must(t, os.Symlink("deep", filepath.Join(dir, "in", "link")))
	run(t, dir, "git", "add", "-A")
	run(t, dir, "git", "commit", "-q", "-m", "large")
	sha := run(t, dir, "git", "rev-parse", "HEAD")
	origin, err := snapshot.Git(dir, nil)
	must(t, err)
	store := filepath.Join(t.TempDir(), "store")
	r, err := snapshot.Open(store, origin)
	must(t, err)
	get := func() {
		t.Helper()
		f, err := r.SendLarge(t.Context(), sha, "in/deep/model.bin")
		must(t, err)
		defer f.Close()
		if b, err := io.ReadAll(f); string(b) != content || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	}
	get()
	must(t, os.RemoveAll(store))
	get()
	for _, path := range []string{"in", "in/link/model.bin", "in/deep/model.bin/x", "in//deep/model.bin", "in/deep/../deep/model.bin", ""} {
		if _, err := r.SendLarge(t.Context(), sha, path); !errors.Is(err, snapshot.ErrNotLarge) {
			t.Errorf("%q: %v, want %v", path, err, snapshot.ErrNotLarge)
		}
	}
	must(t, os.Rename(dir, dir+"-gone"))
	get()
}
