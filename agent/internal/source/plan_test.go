package source

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/gitstore/gitstoretest"
)

// Whatever a tree object holds, nothing is written outside the directory and
// nothing that git or the file system would take for something else.
func FuzzTree(f *testing.F) {
	blob := gitstore.Sum(gitstore.Blob, []byte("../../escaped"))
	for _, s := range []string{
		"100644 f\x00", "100755 x\x00", "120000 l\x00", "40000 d\x00", "100644 ../f\x00", "100644 .git\x00",
		"160000 s\x00", "40000 ..\x00", "100644 a/b\x00", "100664 old\x00", "0 z\x00", "",
	} {
		f.Add([]byte(s + string(blob[:])))
	}
	f.Add([]byte("100644 a\x00" + string(blob[:]) + "120000 a\x00" + string(blob[:])))
	f.Fuzz(func(t *testing.T, content []byte) {
		outer := t.TempDir()
		store, err := gitstore.Open(filepath.Join(outer, "store"))
		if err != nil {
			t.Fatal(err)
		}
		tree := gitstore.Sum(gitstore.Tree, content)
		message := []byte("tree " + tree.String() + "\n\nmessage\n")
		err = store.Receive(bytes.NewReader(gitstoretest.Pack(
			gitstoretest.Object{Kind: gitstore.Blob, Content: []byte("../../escaped")},
			gitstoretest.Object{Kind: gitstore.Tree, Content: content},
			gitstoretest.Object{Kind: gitstore.Commit, Content: message},
		)))
		if err != nil {
			t.Fatal(err)
		}
		v, err := store.View()
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		root := filepath.Join(outer, "in", "release")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		to, err := emptyRoot(root)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		// Refused or not, and however far it came.
		_ = writeCommit(t.Context(), v, gitstore.Sum(gitstore.Commit, message), &largeFiles{}, to)
		for _, dir := range []string{outer, filepath.Join(outer, "in")} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if n := e.Name(); n != "store" && n != "in" && n != "release" {
					t.Fatalf("%s was written outside of the directory", n)
				}
			}
		}
		err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			if strings.EqualFold(d.Name(), ".git") {
				t.Fatalf("%s was written", path)
			}
			if d.Type() == os.ModeSymlink {
				t.Fatalf("the link %s, which leads out of the directory, was written", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
