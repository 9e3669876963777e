package release

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// committed adds a release of one file of so many bytes.
func committed(t *testing.T, s *Store, id string, size int) {
	t.Helper()
	dir, err := s.Stage(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(strings.Repeat("x", size)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitAs(id, "sha256:"+id); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherReleaseIsGuessedToBeLikeTheLast(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	if b, n, err := s.Estimate(); b != 0 || n != 0 || err != nil {
		t.Errorf("of none: %d, %d, %v", b, n, err)
	}
	committed(t, s, "r1", 100)
	committed(t, s, "r2", 10_000)
	if b, n, err := s.Estimate(); b != 3*4096 || n != 1 || err != nil {
		t.Errorf("%d bytes, %d files, %v", b, n, err)
	}
}

// Whoever started it: what a process runs from is not removed.
func TestWhatAProcessRunsFromIsKept(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	committed(t, s, "r1", 1)
	committed(t, s, "r2", 1)
	committed(t, s, "r3", 1)
	worker := exec.Command("sleep", "600")
	worker.Dir = s.Path("r1")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	gone, err := s.Prune([]string{"r3"}, 0)
	if err != nil || !slices.Equal(gone, []string{"r2"}) {
		t.Errorf("removed %v, %v", gone, err)
	}
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait() // it was killed
	gone, err = s.Prune([]string{"r3"}, 0)
	if err != nil || !slices.Equal(gone, []string{"r1"}) {
		t.Errorf("removed %v, %v", gone, err)
	}
}

// A disk that is full in the last moment leaves neither a release nor a record of one.
func TestAFullDiskLeavesNoRecord(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small file system can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(filepath.Join(dir, "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	staged, err := s.Stage("r1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(staged, "f"), make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := s.CommitAs("r1", "sha256:r1"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("committed on a full disk: %v", err)
	}
	if err := s.Unstage(""); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "app", "releases", "*r1*"))
	if hidden, e := filepath.Glob(filepath.Join(dir, "app", "releases", ".*r1*")); err != nil || e != nil || len(left)+len(hidden) > 0 {
		t.Errorf("left behind: %v, %v", left, hidden)
	}
}
