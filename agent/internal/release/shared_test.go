package release

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestWhatIsSharedIsLinked(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Stage("r1")
	if err != nil {
		t.Fatal(err)
	}
	shared := []string{".env", "public/uploads/"}
	if _, err := s.LinkShared(dir, shared); fault.ReasonOf(err) != api.ReasonSharedMissing || !strings.Contains(err.Error(), s.SharedPath(".env")) {
		t.Fatalf("a file that is missing: %v", err)
	}
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(s.SharedPath(".env"), "A=1")
	write(filepath.Join(dir, "public/uploads/from-the-commit"), "x")
	replaced, err := s.LinkShared(dir, shared)
	if err != nil || !slices.Equal(replaced, []string{"public/uploads/"}) {
		t.Fatalf("replaced %v, %v", replaced, err)
	}
	if err := s.Commit("r1"); err != nil {
		t.Fatal(err)
	}
	write(s.SharedPath("public/uploads/cat"), "meow")
	for path, want := range map[string]string{".env": "A=1", "public/uploads/cat": "meow"} {
		if b, err := os.ReadFile(filepath.Join(s.Path("r1"), path)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	// Removing the release removes the links alone.
	if _, err := s.Prune(nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.SharedPath("public/uploads/cat")); err != nil {
		t.Error(err)
	}
}

func TestNothingIsSharedThroughALinkOfTheCommit(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Stage("r1")
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "public")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LinkShared(dir, []string{"public/uploads/"}); fault.ReasonOf(err) != api.ReasonBadTree {
		t.Errorf("through a link: %v", err)
	}
	for _, path := range []string{"../x", "/etc/passwd", ".", "a/../../b/"} {
		if _, err := s.LinkShared(dir, []string{path}); fault.ReasonOf(err) != api.ReasonBadTree {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}
