package mirror

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

func TestTransports(t *testing.T) {
	o := newOrigin(t)
	first := o.commit("Begin")
	o.point("refs/heads/main", first)
	for name, url := range map[string]string{
		"path": o.dir, "file": "file://" + o.dir, "http": o.http().repo(), "git": o.daemon(),
	} {
		t.Run(name, func(t *testing.T) {
			m := openTest(t, url)
			if sha, err := m.RemoteHead(t.Context(), "main"); err != nil || sha != first {
				t.Errorf("RemoteHead: %s, %v; expected %s", sha, err, first)
			}
			c, err := m.Head(t.Context(), "main")
			want := Commit{SHA: first, Subject: "Begin", Committed: time.Unix(1_700_000_001, 0).UTC()}
			if err != nil || c != want {
				t.Errorf("Head: %+v, %v; expected %+v", c, err, want)
			}
			second := o.commit("Go on", first)
			o.point("refs/heads/"+name, second)
			c, err = m.Head(t.Context(), name)
			if err != nil || c.SHA != second {
				t.Errorf("Head after a push: %+v, %v; expected %s", c, err, second)
			}
			wantAncestor(t, m, first, second, true)
			wantAncestor(t, m, second, first, false)
		})
	}
}

// Only commits and tags are kept where the remote can leave out the rest; where
// it cannot, or will not, all is taken.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config []string
		files  bool
	}{
		"the remote filters":            {[]string{"uploadpack.allowFilter", "true"}, false},
		"the remote knows no filters":   {[]string{"uploadpack.allowFilter", "false"}, true},
		"the remote refuses the filter": {[]string{"uploadpackfilter.tree.allow", "false"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			o.git(append([]string{"config"}, c.config...)...)
			for transport, url := range map[string]string{"file": o.dir, "http": o.http().repo()} {
				first := o.chain("refs/heads/main", "", 5)
				m := openTest(t, url)
				head(t, m)
				second := o.chain("refs/heads/main", first, 5)
				if sha := head(t, m); sha != second {
					t.Errorf("%s: head %s, expected %s", transport, sha, second)
				}
				wantAncestor(t, m, first, second, true)
				l := openLocal(m.dir)
				iter, err := l.st.IterEncodedObjects(plumbing.AnyObject)
				if err != nil {
					t.Fatal(err)
				}
				count := map[plumbing.ObjectType]int{}
				if err := iter.ForEach(func(o plumbing.EncodedObject) error { count[o.Type()]++; return nil }); err != nil {
					t.Fatal(err)
				}
				if err := l.close(); err != nil {
					t.Fatal(err)
				}
				if count[plumbing.CommitObject] != 10 || (count[plumbing.TreeObject]+count[plumbing.BlobObject] > 0) != c.files {
					t.Errorf("%s: %v are kept, expected 10 commits, and files %v", transport, count, c.files)
				}
				o.git("update-ref", "-d", "refs/heads/main")
			}
		})
	}
}

func TestForcedPush(t *testing.T) {
	o := newOrigin(t)
	base := o.chain("refs/heads/main", "", 3)
	left, right := o.commit("left", base), o.commit("right", base)
	o.point("refs/heads/main", left)
	m := openTest(t, o.dir)
	head(t, m)
	o.point("refs/heads/main", right)
	o.git("reflog", "expire", "--expire=now", "--all")
	o.git("gc", "-q", "--prune=now")
	if sha := head(t, m); sha != right {
		t.Fatalf("head after a forced push: %s, expected %s", sha, right)
	}
	wantAncestor(t, m, left, right, false)
	wantAncestor(t, m, right, left, false)
	wantAncestor(t, m, base, right, true)
	wantAncestor(t, m, base, left, true) // what was pushed away is remembered
	wantAncestor(t, m, left, left, true)

	o.point("refs/heads/main", base) // back: nothing new to fetch
	if sha := head(t, m); sha != base {
		t.Errorf("head after a push of what is known: %s, expected %s", sha, base)
	}
}

func TestHistoryOverMerges(t *testing.T) {
	o := newOrigin(t)
	base := o.commit("base")
	side1 := o.commit("side 1", base)
	side2 := o.commit("side 2", side1)
	main1 := o.commit("main 1", base)
	merge := o.commit("merge", main1, side2)
	after := o.commit("after", merge)
	apart := o.commit("another beginning")
	octopus := o.commit("octopus", after, apart, side1)
	o.point("refs/heads/main", octopus)
	m := openTest(t, o.dir)
	head(t, m)
	for _, c := range []struct {
		old, new string
		want     bool
	}{
		{side1, after, true}, {side2, merge, true}, {main1, octopus, true}, {apart, octopus, true}, {base, side2, true},
		{apart, after, false}, {side2, main1, false}, {main1, side2, false}, {merge, side2, false}, {after, merge, false},
	} {
		wantAncestor(t, m, c.old, c.new, c.want)
	}
	for _, unknown := range []string{strings.Repeat("1", 40), "main", "", base[:7], o.git("rev-parse", base+"^{tree}")} {
		if _, err := m.IsAncestor(t.Context(), unknown, base); !errors.Is(err, ErrUnknownCommit) {
			t.Errorf("IsAncestor(%q, base): %v, expected ErrUnknownCommit", unknown, err)
		}
		if _, err := m.IsAncestor(t.Context(), base, unknown); !errors.Is(err, ErrUnknownCommit) {
			t.Errorf("IsAncestor(base, %q): %v, expected ErrUnknownCommit", unknown, err)
		}
	}
}

func TestBranchesComeAndGo(t *testing.T) {
	o := newOrigin(t)
	m := openTest(t, o.dir)
	_, err := m.Head(t.Context(), "main")
	if !errors.Is(err, ErrNoBranch) || !strings.Contains(err.Error(), "no branches") {
		t.Errorf("Head of an empty repository: %v", err)
	}
	if _, err := m.RemoteHead(t.Context(), "main"); !errors.Is(err, ErrNoBranch) {
		t.Errorf("RemoteHead of an empty repository: %v", err)
	}
	sha := o.commit("Begin")
	o.point("refs/heads/main", sha)
	o.point("refs/heads/fix", sha)
	if got, err := m.Head(t.Context(), "fix"); err != nil || got.SHA != sha {
		t.Fatalf("Head after the first push: %v, %v", got, err)
	}
	// The name of a branch becomes the folder of another.
	o.git("update-ref", "-d", "refs/heads/fix")
	o.point("refs/heads/fix/one", o.commit("Fix", sha))
	for what, call := range map[string]func() error{
		"Head":       func() error { _, err := m.Head(t.Context(), "fix"); return err },
		"RemoteHead": func() error { _, err := m.RemoteHead(t.Context(), "fix"); return err },
	} {
		err := call()
		if !errors.Is(err, ErrNoBranch) || !errors.Is(err, ErrUnknownRef) || !strings.Contains(err.Error(), `"fix"`) || !strings.Contains(err.Error(), "fix/one, main") {
			t.Errorf("%s of a deleted branch: %v; expected its name and those there are", what, err)
		}
	}
	if _, err := m.Head(t.Context(), "fix/one"); err != nil {
		t.Error(err)
	}
	// All that was fetched is still ordered.
	o.git("update-ref", "-d", "refs/heads/main")
	o.git("update-ref", "-d", "refs/heads/fix/one")
	if _, err := m.Head(t.Context(), "main"); !errors.Is(err, ErrNoBranch) {
		t.Errorf("Head after all branches were deleted: %v", err)
	}
	wantAncestor(t, m, sha, sha, true)
}

// A coordinator that starts again, or whose remote is away, knows what it knew.
func TestLocalWithoutRemote(t *testing.T) {
	o := newOrigin(t)
	first := o.commit("Begin")
	second := o.commit("Go on", first)
	o.point("refs/heads/main", second)
	m := openTest(t, o.dir)
	head(t, m)
	if err := os.Rename(o.dir, o.dir+".away"); err != nil {
		t.Fatal(err)
	}
	again, err := Open(m.dir, o.dir, gitremote.Login{})
	if err != nil {
		t.Fatal(err)
	}
	wantAncestor(t, again, first, second, true)
	if c, err := again.Resolve(t.Context(), first); err != nil || c.Subject != "Begin" {
		t.Errorf("Resolve of a known commit: %v, %v", c, err)
	}
	if c, err := again.Resolve(t.Context(), first[:9]); err != nil || c.SHA != first {
		t.Errorf("Resolve of a known commit's digits: %v, %v", c, err)
	}
	// A name may have moved since.
	if c, err := again.Resolve(t.Context(), "main"); !errors.Is(err, gitremote.ErrNoRepository) {
		t.Errorf("Resolve of a branch while the remote is away: %v, %v; expected gitremote.ErrNoRepository", c, err)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	first := o.commit("Begin")
	second := o.commit("Go on", first)
	a, b := o.twins(7)
	o.point("refs/heads/main", second)
	o.point("refs/heads/twin-a", a)
	o.point("refs/heads/twin-b", b)
	o.point("refs/tags/v1", first)
	o.git("tag", "-a", "-m", "Version 2", "v2", second)
	o.git("tag", "-a", "-m", "A tag of a tag", "v2-signed", "v2")
	blob := o.git("rev-parse", first+":file")
	o.point("refs/tags/a-file", blob)
	o.point("refs/heads/both", first)
	o.point("refs/tags/both", second)
	o.point("refs/heads/same", first)
	o.point("refs/tags/same", first)
	hexName := "abcdef0"
	o.point("refs/heads/"+hexName, second)

	m := openTest(t, o.dir)
	for ref, want := range map[string]string{
		"main": second, "v1": first, "v2": second, "v2-signed": second, "same": first,
		"refs/heads/both": first, "refs/tags/both": second,
		first: first, strings.ToUpper(first): first, first[:7]: first, first[:12]: first, first[:39]: first,
		hexName: second, a[:8]: a, b: b,
	} {
		if c, err := m.Resolve(t.Context(), ref); err != nil || c.SHA != want {
			t.Errorf("Resolve(%s): %v, %v; expected %s", ref, c.SHA, err, want)
		}
	}
	for _, ref := range []string{"both", a[:7]} {
		if c, err := m.Resolve(t.Context(), ref); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("Resolve(%s): %v, %v; expected ErrAmbiguous", ref, c, err)
		}
	}
	tree := o.git("rev-parse", first+"^{tree}")
	for _, ref := range []string{"", "none", first[:6], strings.Repeat("0", 40), "HEAD", "main~1", "../config", "a-file", blob, tree, tree[:10], first + "0"} {
		if c, err := m.Resolve(t.Context(), ref); !errors.Is(err, ErrUnknownRef) {
			t.Errorf("Resolve(%q): %v, %v; expected ErrUnknownRef", ref, c, err)
		}
	}

	third := o.commit("And on", second)
	if _, err := m.Resolve(t.Context(), third); !errors.Is(err, ErrUnknownRef) {
		t.Errorf("a commit that no branch contains: %v, expected ErrUnknownRef", err)
	}
	o.point("refs/heads/main", third)
	if c, err := m.Resolve(t.Context(), third[:10]); err != nil || c.SHA != third {
		t.Errorf("a commit that was just pushed: %v, %v", c, err)
	}
	if c, err := m.Resolve(t.Context(), "main"); err != nil || c.SHA != third {
		t.Errorf("a branch that has moved: %v, %v; expected %s", c, err, third)
	}
}

// twins makes two commits whose SHAs share their first digits.
func (o *origin) twins(digits int) (a, b string) {
	o.t.Helper()
	tree := o.run("", "--git-dir", o.dir, "mktree")
	seen := map[string]string{}
	for i := 0; ; i++ {
		body := fmt.Sprintf("tree %s\nauthor A <a@example.com> 1700000000 +0000\ncommitter A <a@example.com> 1700000000 +0000\n\ntwin %d\n", tree, i)
		sum := sha1.Sum([]byte(fmt.Sprintf("commit %d\x00%s", len(body), body)))
		prefix := hex.EncodeToString(sum[:])[:digits]
		other, ok := seen[prefix]
		seen[prefix] = body
		if ok {
			return o.run(other, "--git-dir", o.dir, "hash-object", "-t", "commit", "-w", "--stdin"),
				o.run(body, "--git-dir", o.dir, "hash-object", "-t", "commit", "-w", "--stdin")
		}
	}
}

// Commits are others' text: they end up in terminals, logs, and the store.
func TestCommitsOfAnyKind(t *testing.T) {
	for message, want := range map[string]string{
		"One line":                         "One line",
		"\n\n  Padded  \n\nBody":           "Padded",
		"Two\nlines\n\nBody":               "Two lines",
		"Windows\r\n\r\nBody":              "Windows",
		"":                                 "",
		"Red \x1b[31malert\x1b[0m\a":       "Red [31malert [0m",
		"Bytes \xff\xfe":                   "Bytes \uFFFD",
		"\u202eevil":                       "evil",
		strings.Repeat("é", 1000):          strings.Repeat("é", 200) + "…",
		"x" + strings.Repeat("é", 1000):    "x" + strings.Repeat("é", 199) + "…",
		"日本語 and \"quotes\"":               "日本語 and \"quotes\"",
		"A line\n \t \nThen a body\nof it": "A line",
	} {
		if got := subject(message); got != want {
			t.Errorf("subject(%q) = %q, expected %q", message, got, want)
		}
	}
	o := newOrigin(t)
	tree := o.run("", "--git-dir", o.dir, "mktree")
	for at, want := range map[string]time.Time{
		"1700000000 +0200":     time.Unix(1_700_000_000, 0).UTC(),
		"0 +0000":              {},
		"99999999999999 +0000": {},
		"-5 +0000":             {},
	} {
		body := fmt.Sprintf("tree %s\nauthor A <a@b> %s\ncommitter A <a@b> %s\n\nOdd clock\n", tree, at, at)
		sha := o.run(body, "--git-dir", o.dir, "hash-object", "-t", "commit", "--literally", "-w", "--stdin")
		o.point("refs/heads/main", sha)
		c, err := openTest(t, o.dir).Head(t.Context(), "main")
		if err != nil || c.Subject != "Odd clock" || !c.Committed.Equal(want) || c.Committed.Location() != time.UTC {
			t.Errorf("a commit of %q: %+v, %v; expected %v", at, c, err, want)
		}
	}
}

// The remote may itself be cut off, and later be whole.
func TestRemoteWithoutItsBeginning(t *testing.T) {
	o := newOrigin(t)
	o.chain("refs/heads/main", "", 10)
	cut := &origin{t: t, dir: filepath.Join(t.TempDir(), "cut.git")}
	o.run("", "clone", "-q", "--bare", "--depth", "3", "file://"+o.dir, cut.dir)
	m := openTest(t, cut.dir)
	c2, c5 := o.git("rev-parse", "main~2"), o.git("rev-parse", "main~5")
	first := head(t, m)
	wantAncestor(t, m, c2, first, true)
	wantAncestor(t, m, first, c2, false)
	if _, err := m.IsAncestor(t.Context(), c5, first); !errors.Is(err, ErrUnknownCommit) {
		t.Errorf("a commit before the beginning: %v", err)
	}
	cut.git("fetch", "-q", "--unshallow", "file://"+o.dir, "+refs/heads/*:refs/heads/*")
	if sha := head(t, m); sha != first {
		t.Fatalf("head %s, expected %s", sha, first)
	}
	wantAncestor(t, m, c5, first, true)
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	first := o.chain("refs/heads/main", "", 20)
	m := openTest(t, o.dir)
	head(t, m)
	var wg sync.WaitGroup
	for i := range 4 {
		o.point(fmt.Sprintf("refs/heads/b%d", i), o.commit("Branch", first))
		wg.Go(func() {
			branch := fmt.Sprintf("b%d", i)
			c, err := m.Head(t.Context(), branch)
			if err != nil {
				t.Error(err)
				return
			}
			if is, err := m.IsAncestor(t.Context(), first, c.SHA); err != nil || !is {
				t.Errorf("IsAncestor on %s: %v, %v", branch, is, err)
			}
			if sha, err := m.RemoteHead(t.Context(), branch); err != nil || sha != c.SHA {
				t.Errorf("RemoteHead of %s: %s, %v", branch, sha, err)
			}
		})
	}
	wg.Wait()
	// Whoever waits for its turn can give up.
	m.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Head(ctx, "main"); !errors.Is(err, context.Canceled) {
		t.Errorf("Head with an ended context: %v", err)
	}
	<-m.turn
}
