package release_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/release"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func open(t *testing.T, dir string) *release.Store {
	t.Helper()
	s, err := release.Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// commit makes a release with one file that holds its id.
func commit(t *testing.T, s *release.Store, id string) {
	t.Helper()
	dir, err := s.Stage(id)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "id"), []byte(id), 0o644))
	must(t, s.Commit(id))
}

func present(t *testing.T, s *release.Store) []string {
	t.Helper()
	ids, err := s.Present()
	must(t, err)
	return ids
}

func TestAReleaseIsSeenOnlyWhenCommitted(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "apps", "blog"))
	dir, err := s.Stage("aa-01")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	if got := present(t, s); len(got) != 0 {
		t.Errorf("present while staged: %v", got)
	}
	if err := s.Instance("").Switch("aa-01"); fault.ReasonOf(err) != api.ReasonReleaseMissing {
		t.Errorf("switching to a staged release: %v, want release_missing", err)
	}
	must(t, s.Commit("aa-01"))
	if got := present(t, s); !slices.Equal(got, []string{"aa-01"}) {
		t.Errorf("present = %v", got)
	}
	if data, err := os.ReadFile(filepath.Join(s.Path("aa-01"), "f")); string(data) != "x" {
		t.Errorf("content %q, %v", data, err)
	}
}

func TestCommitAgainChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	commit(t, s, "aa-01")
	dir, err := s.Stage("aa-01")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "id"), []byte("other"), 0o644))
	must(t, s.Commit("aa-01"))
	must(t, s.Commit("aa-01"))
	if data, _ := os.ReadFile(filepath.Join(s.Path("aa-01"), "id")); string(data) != "aa-01" {
		t.Errorf("a complete release was changed to %q", data)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second staging is still there: %v", err)
	}
	if err := s.Commit("bb-02"); err == nil {
		t.Error("committed what was never staged")
	}
}

func TestStageStartsEmpty(t *testing.T) {
	s := open(t, t.TempDir())
	dir, err := s.Stage("aa-01")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "stale"), nil, 0o644))
	dir, err = s.Stage("aa-01")
	must(t, err)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("staging holds %v, %v", entries, err)
	}
}

func TestOnlyTheLatestFailedReleaseIsRetained(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	failed := func() []string {
		found, err := filepath.Glob(filepath.Join(root, "releases", ".failed-*", "id"))
		must(t, err)
		for i, f := range found {
			found[i] = strings.TrimPrefix(filepath.Base(filepath.Dir(f)), ".failed-")
		}
		return found
	}
	for _, id := range []string{"aa-01", "bb-02", "bb-02"} {
		dir, err := s.Stage(id)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "id"), []byte(id), 0o644))
		must(t, s.Discard(id))
		if got := failed(); !slices.Equal(got, []string{id}) {
			t.Errorf("failed ones after discarding %s: %v", id, got)
		}
		must(t, s.Discard(id)) // nothing staged: nothing happens
	}
	s = open(t, root)
	if got := failed(); !slices.Equal(got, []string{"bb-02"}) {
		t.Errorf("failed ones after opening again: %v", got)
	}
	commit(t, s, "bb-02")
	if got := failed(); len(got) != 0 {
		t.Errorf("failed ones after success: %v", got)
	}
}

func TestReadOnlyDirectoriesAreRemovedToo(t *testing.T) {
	s := open(t, t.TempDir())
	dir, err := s.Stage("aa-01")
	must(t, err)
	cache := filepath.Join(dir, "cache", "mod")
	must(t, os.MkdirAll(cache, 0o755))
	must(t, os.WriteFile(filepath.Join(cache, "f"), nil, 0o444))
	must(t, os.Chmod(cache, 0o555))
	must(t, os.Chmod(filepath.Dir(cache), 0o000))
	if _, err := s.Stage("aa-01"); err != nil {
		t.Errorf("cannot stage over a read-only cache: %v", err)
	}
}

func TestSwitchFollowsTheLink(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	commit(t, s, "aa-01")
	commit(t, s, "bb-02")
	for _, id := range []string{"aa-01", "bb-02", "bb-02", "", "", "aa-01"} {
		must(t, s.Instance("").Switch(id))
		if got, err := s.Instance("").Current(); err != nil || got != id {
			t.Fatalf("Current = %q, %v; want %q", got, err, id)
		}
		data, err := os.ReadFile(filepath.Join(root, "current", "id"))
		if id == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the link is still there: %v", err)
			}
		} else if string(data) != id {
			t.Errorf("through the link: %q, %v; want %q", data, err, id)
		}
	}
	// Relative, so it still leads to the release where the directory is moved.
	moved := filepath.Join(t.TempDir(), "moved")
	must(t, os.Rename(root, moved))
	if data, err := os.ReadFile(filepath.Join(moved, "current", "id")); string(data) != "aa-01" {
		t.Errorf("after a move: %q, %v", data, err)
	}
}

// A reader that looks all the time must always find a release.
func TestThereIsNeverNoCurrent(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	commit(t, s, "aa-01")
	commit(t, s, "bb-02")
	must(t, s.Instance("").Switch("aa-01"))
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := os.ReadFile(filepath.Join(root, "current", "id")); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 50 {
		must(t, s.Instance("").Switch("bb-02"))
		must(t, s.Instance("").Switch("aa-01"))
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("a reader found no release: %v", err)
	}
}

func TestAForeignCurrentIsLeftAlone(t *testing.T) {
	cases := []struct {
		name string
		make func(path string) error
		want string
	}{
		{"directory", func(p string) error { return os.Mkdir(p, 0o755) }, "a directory"},
		{"file", func(p string) error { return os.WriteFile(p, []byte("mine"), 0o644) }, "a file"},
		{"link elsewhere", func(p string) error { return os.Symlink("/srv/www", p) }, "/srv/www"},
		{"link to no release", func(p string) error { return os.Symlink("releases/.staging-x", p) }, ".staging-x"},
		{"link into a release", func(p string) error { return os.Symlink("releases/aa-01/sub", p) }, "aa-01/sub"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			commit(t, s, "aa-01")
			must(t, c.make(filepath.Join(root, "current")))
			before, err := os.Lstat(filepath.Join(root, "current"))
			must(t, err)
			_, err = s.Instance("").Current()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Current: %v, want an error with %q", err, c.want)
			}
			for _, id := range []string{"aa-01", ""} {
				if err := s.Instance("").Switch(id); err == nil {
					t.Errorf("Switch(%q) replaced it", id)
				}
			}
			if _, err := s.Prune(nil, 0); err == nil {
				t.Error("Prune removed releases without knowing the current one")
			}
			after, err := os.Lstat(filepath.Join(root, "current"))
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("it was touched: %v", err)
			}
		})
	}
}

func TestAnAbsoluteLinkIsUnderstood(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	commit(t, s, "aa-01")
	must(t, os.Symlink(s.Path("aa-01"), filepath.Join(root, "current")))
	if id, err := s.Instance("").Current(); id != "aa-01" {
		t.Errorf("Current = %q, %v", id, err)
	}
}

func TestPrune(t *testing.T) {
	cases := []struct {
		name    string
		commits string // in this order
		uses    string // switched to, in this order; the last is current
		keep    string
		recent  int
		removed string
	}{
		{"all but current", "a b c", "c", "", 0, "a b"},
		{"nothing is current", "a b", "", "", 0, "a b"},
		{"kept ones", "a b c d", "d", "a c", 0, "b"},
		{"kept ones that are not here", "a b", "b", "z", 0, "a"},
		{"the most recent besides current", "a b c d", "d", "", 2, "a"},
		{"kept ones do not count as recent", "a b c d", "d", "c", 1, "a"},
		{"use counts, not commit", "a b c d", "a b a d", "", 1, "b c"},
		{"names do not count", "d c b a", "a", "", 1, "c d"},
		{"more than there are", "a b", "b", "", 9, ""},
		{"a negative number", "a b", "b", "", -1, "a"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			for _, id := range strings.Fields(c.commits) {
				commit(t, s, id)
			}
			for _, id := range strings.Fields(c.uses) {
				must(t, s.Instance("").Switch(id))
			}
			s = open(t, root) // what is recent outlives the process
			before := present(t, s)
			removed, err := s.Prune(strings.Fields(c.keep), c.recent)
			must(t, err)
			if got := strings.Join(removed, " "); got != c.removed {
				t.Errorf("removed %q, want %q", got, c.removed)
			}
			left := slices.DeleteFunc(before, func(id string) bool { return slices.Contains(removed, id) })
			if got := present(t, s); !slices.Equal(got, left) {
				t.Errorf("present %v, want %v", got, left)
			}
		})
	}
}

// A release goes at once, so that a crash leaves no half of one.
func TestAReleaseIsNeverSeenHalfRemoved(t *testing.T) {
	s := open(t, t.TempDir())
	const id, files = "aa-01", 2000
	dir, err := s.Stage(id)
	must(t, err)
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644))
	}
	must(t, s.Commit(id))
	watching, seen := make(chan struct{}), make(chan int, 1)
	go func() {
		least := files
		for first := true; ; first = false {
			d, err := os.Open(s.Path(id))
			if err != nil {
				break
			}
			names, _ := d.Readdirnames(-1)
			d.Close()
			// Only what still has the name of a release counts.
			if _, err := os.Stat(s.Path(id)); err == nil {
				least = min(least, len(names))
			}
			if first {
				close(watching)
			}
		}
		seen <- least
	}()
	<-watching
	_, err = s.Prune(nil, 0)
	must(t, err)
	if least := <-seen; least != files {
		t.Errorf("a release of %d files was seen with %d", files, least)
	}
}

func TestIDsThatAreNoPlainNamesAreRefused(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".staging-x", "a b", "a\n", strings.Repeat("a", 200)} {
		if _, err := s.Stage(id); err == nil {
			t.Errorf("Stage(%q) was accepted", id)
		}
		if err := s.Commit(id); err == nil {
			t.Errorf("Commit(%q) was accepted", id)
		}
		if err := s.Discard(id); err == nil {
			t.Errorf("Discard(%q) was accepted", id)
		}
		if id == "" {
			continue
		}
		if err := s.Instance("").Switch(id); err == nil {
			t.Errorf("Switch(%q) was accepted", id)
		}
	}
}

func TestOf(t *testing.T) {
	real := t.TempDir()
	link := filepath.Join(t.TempDir(), "apps")
	must(t, os.Symlink(real, link))
	s := open(t, link) // the kernel reports paths below real
	real, err := filepath.EvalSymlinks(real)
	must(t, err)
	cases := []struct{ path, want string }{
		{real + "/releases/aa-01/bin/app", "aa-01"},
		{real + "/releases/aa-01", "aa-01"},
		{real + "/releases/aa-01/", "aa-01"},
		{real + "/releases/aa-01/bin/app (deleted)", "aa-01"},
		{real + "/releases/aa-01 (deleted)", "aa-01"},
		{real + "/releases", ""},
		{real + "/releases/", ""},
		{real + "/releases/.staging-aa-01/bin/app", ""},
		{real + "/releases/../current/x", ""},
		{real + "/releases-old/aa-01/x", ""},
		{real + "/current/bin/app", ""},
		{"/usr/bin/python3", ""},
		{"", ""},
	}
	for _, c := range cases {
		got, ok := s.Of(c.path)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("Of(%q) = %q, %v; want %q", c.path, got, ok, c.want)
		}
	}
}

func TestCheckSpace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	if err := release.CheckSpace(dir, 1, 1); err != nil {
		t.Errorf("no room for one byte: %v", err)
	}
	const lots = 1 << 60
	err := release.CheckSpace(dir, lots, 0)
	if fault.ReasonOf(err) != api.ReasonDiskFull || !strings.Contains(err.Error(), "1.0 EiB are needed") {
		t.Errorf("for %d bytes: %v (%s)", uint64(lots), err, fault.ReasonOf(err))
	}
	if err := release.CheckSpace("/proc", 1, 0); fault.ReasonOf(err) != api.ReasonDiskFull ||
		!strings.Contains(err.Error(), "file system /proc ") {
		t.Errorf("on a file system without room: %v", err)
	}
}

// TestInstances is of several instances on one node: each has a link of its own,
// and nothing that any of them is linked to is pruned, also when it is not asked
// for any more.
func TestInstances(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, id := range []string{"aa-01", "bb-02", "cc-03", "dd-04"} {
		commit(t, s, id)
	}
	must(t, s.Instance("8000").Switch("aa-01"))
	must(t, s.Instance("8001").Switch("bb-02"))
	must(t, s.Instance("").Switch("cc-03"))
	must(t, s.Instance("8001").Switch("cc-03"))
	must(t, s.Instance("8001").Switch("bb-02"))
	for name, want := range map[string]string{"8000": "aa-01", "8001": "bb-02", "": "cc-03", "8002": ""} {
		if got, err := s.Instance(name).Current(); err != nil || got != want {
			t.Errorf("instance %q is on %q (%v), expected %q", name, got, err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "current-8000")); err != nil || to != "releases/aa-01" {
		t.Errorf("current-8000 leads to %q (%v)", to, err)
	}
	// What is no link of ours says nothing, and stops nothing.
	must(t, os.WriteFile(filepath.Join(dir, "current-backup"), nil, 0o600))
	must(t, os.Symlink("/tmp", filepath.Join(dir, "current-old")))
	removed, err := s.Prune(nil, 0)
	if err != nil || !slices.Equal(removed, []string{"dd-04"}) {
		t.Errorf("removed %v (%v), expected only the one that nobody is on", removed, err)
	}
}
