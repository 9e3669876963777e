package gitstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/gitstore/gitstoretest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB) (*gitstore.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store.git")
	s, err := gitstore.Open(dir)
	must(t, err)
	return s, dir
}

func git(t testing.TB, dir, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, &stderr)
	}
	return string(out)
}

// packed makes a pack with git, of objects that build on one another, small and
// large.
func packed(t testing.TB) (dir string, pack []byte, objects map[string]string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "", "init", "-q", "-b", "main")
	rng := rand.New(rand.NewPCG(1, 2))
	text := func(lines int) string {
		var b strings.Builder
		for range lines {
			fmt.Fprintf(&b, "%x %x\n", rng.Uint32(), rng.Uint64())
		}
		return b.String()
	}
	content := map[string]string{"small": text(50), "large": text(50_000), "huge.bin": strings.Repeat(text(1000), 60), "empty": ""}
	for i := range 3 {
		for name, c := range content {
			if c != "" {
				at := rng.IntN(len(c))
				content[name] = c[:at] + fmt.Sprintf("changed %d\n", i) + c[at:]
			}
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(content[name]), 0o644))
		}
		git(t, dir, "", "add", "-A")
		git(t, dir, "", "commit", "-q", "-m", fmt.Sprint(i))
	}
	git(t, dir, "", "repack", "-q", "-a", "-d", "-f", "--depth=20")
	packs, err := filepath.Glob(filepath.Join(dir, ".git/objects/pack/*.pack"))
	must(t, err)
	pack, err = os.ReadFile(packs[0])
	must(t, err)
	objects = map[string]string{}
	for line := range strings.Lines(git(t, dir, "", "cat-file", "--batch-check=%(objectname) %(objecttype)", "--batch-all-objects")) {
		sha, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		objects[sha] = kind
	}
	return dir, pack, objects
}

func TestEveryObjectIsReadAsGitWroteIt(t *testing.T) {
	dir, pack, objects := packed(t)
	s, store := open(t)
	must(t, s.Receive(bytes.NewReader(pack)))
	v, err := s.View()
	must(t, err)
	defer v.Close()
	for sha, kind := range objects {
		h, err := gitstore.ParseHash(sha)
		must(t, err)
		c, err := v.Read(h)
		if err != nil {
			t.Errorf("%s: %v", sha, err)
			continue
		}
		var b bytes.Buffer
		if _, err := c.WriteTo(&b); err != nil {
			t.Errorf("%s: %v", sha, err)
		}
		c.Close()
		if want := git(t, dir, "", "cat-file", kind, sha); b.String() != want || c.Kind.String() != kind || c.Size != int64(len(want)) {
			t.Errorf("%s %s: %d bytes of a %s, want %d of a %s", sha, kind, b.Len(), c.Kind, len(want), kind)
		}
	}
	git(t, store, "", "fsck", "--full", "--strict")
	if left, _ := filepath.Glob(filepath.Join(store, "objects/pack/tmp_*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What is sent is received as it was, whatever part of it the receiver has.
func TestWhatIsSentArrives(t *testing.T) {
	dir, pack, objects := packed(t)
	from, _ := open(t)
	must(t, from.Receive(bytes.NewReader(pack)))
	// A second pack in which what builds on what is the other way round.
	git(t, dir, "", "repack", "-q", "-a", "-d", "-f", "--depth=3", "--window=50")
	packs, err := filepath.Glob(filepath.Join(dir, ".git/objects/pack/*.pack"))
	must(t, err)
	second, err := os.ReadFile(packs[0])
	must(t, err)
	must(t, from.Receive(bytes.NewReader(second)))
	v, err := from.View()
	must(t, err)
	defer v.Close()
	var all []gitstore.Hash
	for sha := range objects {
		h, err := gitstore.ParseHash(sha)
		must(t, err)
		all = append(all, h)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 3 {
		to, _ := open(t)
		have := map[gitstore.Hash]bool{}
		var first, rest []gitstore.Hash
		for _, h := range all {
			if rng.IntN(3) == 0 {
				have[h] = true
				first = append(first, h)
			} else {
				rest = append(rest, h)
			}
		}
		send := func(objects []gitstore.Hash, have map[gitstore.Hash]bool) {
			p, err := v.Pack(objects, have)
			must(t, err)
			var b bytes.Buffer
			n, err := p.WriteTo(&b)
			must(t, err)
			if n != int64(b.Len()) {
				t.Fatalf("WriteTo returned %d of %d", n, b.Len())
			}
			must(t, to.Receive(&b))
		}
		send(first, nil)
		send(rest, have)
		w, err := to.View()
		must(t, err)
		defer w.Close()
		for _, h := range all {
			c, err := w.Read(h)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.WriteTo(&bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
}

// A pack that is cut short or changed anywhere is refused, and leaves nothing.
func TestADamagedPackIsRefused(t *testing.T) {
	_, pack, _ := packed(t)
	rng := rand.New(rand.NewPCG(3, 4))
	s, dir := open(t)
	for i := range 12 {
		bad := bytes.Clone(pack)
		if i%2 == 0 {
			bad = bad[:rng.IntN(len(bad))]
		} else {
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		}
		if err := s.Receive(bytes.NewReader(bad)); err == nil {
			t.Errorf("damage %d was taken", i)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Two objects of which each is stored as a difference to the other are no object.
func TestObjectsThatBuildOnOneAnotherAreRefused(t *testing.T) {
	a, b := gitstore.Sum(gitstore.Blob, []byte("a")), gitstore.Sum(gitstore.Blob, []byte("b"))
	delta := []byte{1, 1, 1, 'x'}
	s, _ := open(t)
	err := s.Receive(bytes.NewReader(gitstoretest.Pack(gitstoretest.Object{Kind: 7, Base: b, Content: delta}, gitstoretest.Object{Kind: 7, Base: a, Content: delta})))
	if !errors.Is(err, gitstore.ErrMissing) {
		t.Errorf("received: %v", err)
	}
}

// FuzzReceive: whatever comes, it ends, in an error or in objects that are what
// their names say.
func FuzzReceive(f *testing.F) {
	base := gitstore.Sum(gitstore.Blob, []byte("content"))
	whole := gitstoretest.Pack(
		gitstoretest.Object{Kind: gitstore.Blob, Content: []byte("content")},
		gitstoretest.Object{Kind: 7, Base: base, Content: []byte{7, 9, 0x90, 7, 2, 'x', 'y'}},
		gitstoretest.Object{Kind: gitstore.Tree, Content: append([]byte("100644 f\x00"), base[:]...)},
	)
	f.Add(whole)
	f.Add(gitstoretest.Pack(gitstoretest.Object{Kind: 7, Base: base, Content: []byte{7, 200, 1, 0x90, 7}}))
	f.Add(whole[:40])
	f.Fuzz(func(t *testing.T, pack []byte) {
		s, _ := open(t)
		_ = s.Receive(bytes.NewReader(pack))
		v, err := s.View()
		if err != nil {
			t.Fatalf("the store cannot be opened any more: %v", err)
		}
		v.Close()
	})
}

// FuzzTree: what is read of a tree makes the same tree again.
func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 f\x0012345678901234567890"))
	f.Add([]byte("40000 d\x0012345678901234567890160000 s\x0012345678901234567890"))
	f.Add([]byte("0 \x0012345678901234567890"))
	f.Fuzz(func(t *testing.T, content []byte) {
		entries, err := gitstore.ParseTree(content)
		if err != nil {
			return
		}
		n := 0
		for _, e := range entries {
			n += len(e.Name) + 1 + len(e.Hash)
			if strings.Contains(e.Name, "\x00") {
				t.Fatalf("a name holds a zero byte: %q", e.Name)
			}
		}
		if n > len(content) {
			t.Fatalf("%d bytes were read of %d", n, len(content))
		}
	})
}
