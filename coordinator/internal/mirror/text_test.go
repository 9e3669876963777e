package mirror

import (
	"maps"
	"strings"
	"testing"
)

func FuzzParseRefs(f *testing.F) {
	f.Add(refsHeader)
	f.Add(refsHeader + strings.Repeat("a", 40) + " refs/heads/main\n")
	f.Add(refsHeader + strings.Repeat("a", 40) + " refs/heads/../../config\n")
	f.Add("garbage")
	f.Fuzz(func(t *testing.T, text string) {
		refs, err := parseRefs(text)
		if err != nil {
			return
		}
		l := &local{dir: t.TempDir()}
		if err := l.saveRefs(refs); err != nil {
			t.Fatal(err)
		}
		again := openLocal(l.dir)
		defer again.close()
		if err := again.loadRefs(); err != nil || !maps.Equal(again.refs, refs) {
			t.Errorf("%v was saved and read as %v, %v", refs, again.refs, err)
		}
	})
}

// Names come from the remote, and go into a file and onto terminals.
func TestMirrored(t *testing.T) {
	for name, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/feature/a-b_c.1": true, "refs/tags/v1.2.3": true, "refs/heads/日本": true,
		"refs/pull/1/head": false, "HEAD": false, "refs/heads/": false, "refs/heads/../../config": false,
		"refs/heads/a\nb": false, "refs/heads/a b": false, "refs/heads/a\x1b": false, "refs/heads/a..b": false, "refs/heads/x.lock": false,
		"refs/tags/v1^{}": false,
	} {
		if got := mirrored(name); got != want {
			t.Errorf("mirrored(%q) = %v, expected %v", name, got, want)
		}
	}
}
