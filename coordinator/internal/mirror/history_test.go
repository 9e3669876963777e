package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"pgregory.net/rapid"
)

// In any history, whatever its clocks say, ancestry is what following parents
// finds.
func TestAncestryOfAnyHistory(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	marks := filepath.Join(t.TempDir(), "marks")
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		n := rapid.IntRange(2, 25).Draw(t, "commits")
		skewed := rapid.Bool().Draw(t, "skewed clocks")
		var script strings.Builder
		reaches := make([][]bool, n)
		for i := range n {
			reaches[i] = make([]bool, n)
			reaches[i][i] = true
			at := 1_700_000_000 + i
			if skewed {
				at = 1_700_000_000 + rapid.IntRange(0, 5).Draw(t, "clock")
			}
			var parents []int
			if i > 0 {
				parents = rapid.SliceOfNDistinct(rapid.IntRange(max(0, i-6), i-1), 0, min(3, i), rapid.ID).Draw(t, "parents")
			}
			ref := fmt.Sprintf("refs/heads/c%d", i)
			fmt.Fprintf(&script, "reset %s\ncommit %s\nmark :%d\ncommitter A <a@b> %d +0000\ndata 1\nx\n", ref, ref, i+1, at)
			for k, p := range parents {
				fmt.Fprintf(&script, "%s :%d\n", []string{"from", "merge", "merge"}[k], p+1)
				for j := range n {
					reaches[i][j] = reaches[i][j] || reaches[p][j]
				}
			}
			// Two commits of equal content would be one.
			fmt.Fprintf(&script, "M 644 inline f\ndata <<EOT\n%d %d\nEOT\n\n", run, i)
		}
		o.run(script.String(), "--git-dir", o.dir, "fast-import", "--quiet", "--force", "--export-marks="+marks)
		shas := readMarks(t, marks, n)
		l := openLocal(o.dir) // a repository of git itself is as good as a mirror
		defer l.close()
		for i := range n {
			for j := range n {
				got, err := l.isAncestor(context.Background(), shas[j], shas[i])
				if err != nil || got != reaches[i][j] {
					t.Fatalf("is %d an ancestor of %d: %v, %v; expected %v\n%s", j, i, got, err, reaches[i][j], script.String())
				}
			}
		}
	})
}

// readMarks returns the commits that fast-import numbered from 1.
func readMarks(t *rapid.T, path string, n int) []plumbing.Hash {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	shas := make([]plumbing.Hash, n)
	for line := range strings.Lines(string(text)) {
		var mark int
		var sha string
		if _, err := fmt.Sscanf(line, ":%d %s", &mark, &sha); err != nil {
			t.Fatal(err)
		}
		shas[mark-1] = plumbing.NewHash(sha)
	}
	return shas
}

// The question is asked at every push: it must not cost all of the history.
func TestAncestryLooksNoFurtherThanNeeded(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	base := o.chain("refs/heads/main", "", 3000)
	near := o.chain("refs/heads/main", base, 3)
	aside := o.chain("refs/heads/aside", base, 3)
	m := openTest(t, o.dir)
	head(t, m)
	l := openLocal(m.dir)
	defer l.close()
	for _, c := range []struct{ old, new string }{{near, base}, {base, near}, {aside, near}, {near, aside}} {
		old, err := l.known(c.old)
		if err != nil {
			t.Fatal(err)
		}
		new, err := l.known(c.new)
		if err != nil {
			t.Fatal(err)
		}
		w := walk{l: l, seen: map[plumbing.Hash]side{}}
		if _, err := w.meet(t.Context(), old, new); err != nil {
			t.Fatal(err)
		}
		if len(w.seen) > 20 {
			t.Errorf("from %.7s to %.7s, %d commits were read", c.new, c.old, len(w.seen))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.IsAncestor(ctx, near, base); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func BenchmarkIsAncestor(b *testing.B) {
	o := newOrigin(b)
	last := o.chain("refs/heads/main", "", 20_000)
	first := o.git("rev-list", "--max-parents=0", "main")
	m := openTest(b, o.dir)
	head(b, m)
	for name, pair := range map[string][2]string{"behind": {last, o.git("rev-parse", "main~5")}, "whole history": {first, last}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := m.IsAncestor(b.Context(), pair[0], pair[1]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
