package source_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const lfsPointer = "version https://git-lfs.github.com/spec/v1\n" +
	"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

func TestACommitThatCannotBeWrittenSafelyIsRefused(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	blob := u.object("blob", "content\n")
	sub := u.object("tree", rawTree(t, [3]string{"100644", "f", blob}))
	file := func(name string) [3]string { return [3]string{"100644", name, blob} }
	symlink := func(name, target string) [3]string { return [3]string{"120000", name, u.object("blob", target)} }
	dir := func(name string, entries ...[3]string) [3]string {
		return [3]string{"40000", name, u.object("tree", rawTree(t, entries...))}
	}
	cases := []struct {
		name    string
		entries [][3]string
		want    []string // in the error
	}{
		{"a .git directory", [][3]string{dir(".git", file("config"))}, []string{`".git"`}},
		{"a .GIT file", [][3]string{file(".GIT")}, []string{`".GIT"`}},
		{"a .git file further down", [][3]string{dir("a", file(".git"))}, []string{`"a/.git"`}},
		{"dot", [][3]string{file(".")}, []string{`"."`}},
		{"dot dot", [][3]string{dir("..", file("escaped"))}, []string{`".."`}},
		{"slash", [][3]string{file("../escaped")}, []string{`"../escaped"`}},
		{"absolute", [][3]string{file("/tmp/escaped")}, []string{`"/tmp/escaped"`}},
		{"long name", [][3]string{file(strings.Repeat("n", 256))}, []string{"longer"}},
		{"same name twice", [][3]string{file("a"), file("a")}, []string{`"a"`, "twice"}},
		{"link and directory of one name", [][3]string{symlink("a", "b"), dir("a", file("f")), dir("b", file("g"))}, []string{`"a"`, "twice"}},
		{"a link and a directory whose case differs", [][3]string{symlink("Lib", "x"), {"40000", "lib", sub}}, []string{`"lib"`, `"Lib"`, "case"}},
		{"a directory and a link whose case differs", [][3]string{{"40000", "Lib", sub}, symlink("lib", "x")}, []string{`"lib"`, `"Lib"`, "case"}},
		{"a .git directory for NTFS", [][3]string{dir(".git . ", file("config"))}, []string{`".git . "`, "git repository"}},
		{"a short name for NTFS", [][3]string{dir("GIT~1", file("config"))}, []string{`"GIT~1"`, "git repository"}},
		{"a stream for NTFS", [][3]string{file(".git::$INDEX_ALLOCATION")}, []string{"git repository"}},
		{"a path for Windows", [][3]string{file(`a\.git\config`)}, []string{"git repository"}},
		{"a .git directory for HFS+", [][3]string{dir(".g\u200cit", file("config"))}, []string{"git repository"}},
		{"absolute link", [][3]string{symlink("passwd", "/etc/passwd")}, []string{`"passwd"`, `"/etc/passwd"`}},
		{"link above", [][3]string{dir("a", symlink("l", "../../x"))}, []string{`"a/l"`, `"../../x"`}},
		{"link to the parent", [][3]string{symlink("l", "..")}, []string{`"l"`}},
		{"link above through a link", [][3]string{
			dir("p", dir("q", symlink("d", "../.."), symlink("x", "d/../escaped"))),
		}, []string{`"p/q/x"`}},
		{"link above through what is missing", [][3]string{symlink("l", "none/../../x")}, []string{`"l"`}},
		{"empty link", [][3]string{symlink("l", "")}, []string{`"l"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sha := u.commitTree(u.object("tree", rawTree(t, c.entries...)))
			r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
			must(t, r.Fetch(t.Context(), sha, nil))
			parent := t.TempDir()
			dir := filepath.Join(parent, "release")
			err := r.Write(t.Context(), sha, dir)
			if fault.ReasonOf(err) != api.ReasonBadTree {
				t.Fatalf("error %v has reason %q, want bad_tree", err, fault.ReasonOf(err))
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %s: %v", w, err)
				}
			}
			if got := tree(t, parent); len(got) > 1 {
				t.Errorf("something was written: %v", got)
			}
		})
	}
}

func TestWhatOnlyLooksLikeLargeFileStorageIsWritten(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(map[string]string{
		"doc.md":   "A pointer begins with:\n\n" + lfsPointer,
		"spec.txt": "version https://git-lfs.github.com/spec/v1\nis how it begins\n",
		"long":     lfsPointer + strings.Repeat("x", 2000),
	})
	checkout(t, u, openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir), sha)
}

func TestLinksThatStayInsideAreWritten(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(map[string]string{
		"a/b/file": "f",
		"a/up":     "->../a/b/file",
		"root":     "->.",
		"a/root":   "->..",
		"chain":    "->a/root/a/up",
		"loop":     "->pool",
		"pool":     "->loop",
	})
	checkout(t, u, openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir), sha)
}

func TestWriteNeedsAnEmptyDirectory(t *testing.T) {
	u := newUpstream(t)
	sha := u.commit(map[string]string{"a": "new"})
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	must(t, r.Fetch(t.Context(), sha, nil))
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644))
	if err := r.Write(t.Context(), sha, dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Write into a used directory: %v", err)
	}
	if got := tree(t, dir); len(got) != 1 {
		t.Errorf("the directory was touched: %v", got)
	}
}

func TestACommitIsNeeded(t *testing.T) {
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	u.commit(map[string]string{"a": "1"})
	u.git("tag", "-a", "-m", "tag", "v1")
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	for _, object := range []string{"HEAD^{tree}", "v1", "HEAD:a"} {
		sha := u.git("rev-parse", object)
		if err := r.Fetch(t.Context(), sha, nil); err == nil {
			t.Errorf("%s was fetched as if it were a commit", object)
		}
	}
	for _, sha := range []string{"", "main", "HEAD", strings.Repeat("a", 39), strings.Repeat("A", 40), "refs/heads/main"} {
		if err := r.Fetch(t.Context(), sha, nil); fault.ReasonOf(err) != api.ReasonFetchFailed {
			t.Errorf("Fetch(%q): %v", sha, err)
		}
		if r.Has(sha) {
			t.Errorf("Has(%q)", sha)
		}
	}
}
