package source

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/gitstore/gitstoretest"
)

// treeOf is a tree object of entries of one mode, all of them the same object.
func treeOf(mode, prefix string, n int, of gitstore.Hash) gitstoretest.Object {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%s %s%04d\x00%s", mode, prefix, i, of[:])
	}
	return gitstoretest.Object{Kind: gitstore.Tree, Content: b.Bytes()}
}

// tooLarge is what is said of a commit of which these objects are all, the last one
// its tree, when at most total bytes may be written.
func tooLarge(t *testing.T, total int64, objects ...gitstoretest.Object) string {
	t.Helper()
	store, err := gitstore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Receive(bytes.NewReader(gitstoretest.Pack(objects...))); err != nil {
		t.Fatal(err)
	}
	v, err := store.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	root := objects[len(objects)-1]
	p, err := newPlan(t.Context(), v, gitstore.Sum(root.Kind, root.Content))
	if err == nil {
		p.total = total
		dir := t.TempDir()
		to, terr := emptyRoot(dir)
		if terr != nil {
			t.Fatal(terr)
		}
		defer to.Close()
		err = p.write(t.Context(), v, &largeFiles{}, to)
		written := int64(0)
		werr := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := d.Info()
			written += fi.Size()
			return err
		})
		if werr != nil || written > total {
			t.Errorf("%d bytes were written where %d may be: %v", written, total, werr)
		}
	}
	if fault.ReasonOf(err) != api.ReasonBadTree {
		t.Fatalf("error %v has reason %q, want bad_tree", err, fault.ReasonOf(err))
	}
	return err.Error()
}

// A few objects can stand for more files, and more bytes, than a node should ever
// write.
func TestACommitThatUnpacksToTooMuchIsRefused(t *testing.T) {
	file := gitstoretest.Object{Kind: gitstore.Blob, Content: []byte("0123456789")}
	many := treeOf("100644", "f", 1000, gitstore.Sum(file.Kind, file.Content))
	root := treeOf("40000", "dir", 501, gitstore.Sum(many.Kind, many.Content))
	pointer := gitstoretest.Object{Kind: gitstore.Blob, Content: []byte("version https://git-lfs.github.com/spec/v1\n" +
		"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4294967297\n")}
	for what, c := range map[string]struct {
		text string
		want []string
	}{
		"files": {tooLarge(t, maxTotal, file, many, root), []string{`"dir0`, "500000 files and directories"}},
		"bytes": {tooLarge(t, 95, file, treeOf("100644", "f", 10, gitstore.Sum(file.Kind, file.Content))), []string{`"f00`, "all of a release 95"}},
		"bytes of one file, which LFS has": {tooLarge(t, maxTotal, pointer, treeOf("100644", "model", 1, gitstore.Sum(pointer.Kind, pointer.Content))),
			[]string{`"model0000" has 4294967297 bytes`, "a file may have 4294967296"}},
	} {
		for _, w := range c.want {
			if !strings.Contains(c.text, w) {
				t.Errorf("too many %s: %q lacks %q", what, c.text, w)
			}
		}
	}
}
