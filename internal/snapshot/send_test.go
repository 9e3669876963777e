package snapshot_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// relay is an origin that another store sends from.
type relay struct {
	from *snapshot.Repo
	sha  string
	sent *atomic.Int64
}

func (r relay) String() string                                      { return "the relay" }
func (r relay) Dial(context.Context) (snapshot.Conversation, error) { return r, nil }
func (r relay) HandsOut(gitstore.Hash) bool                         { return true }
func (r relay) Tips() []gitstore.Hash                               { return nil }
func (r relay) Close()                                              {}
func (r relay) Ask(a gitremote.Ask) (*snapshot.Answer, error) {
	var haves []string
	for _, h := range a.Haves {
		haves = append(haves, h.String())
	}
	s, err := r.from.Send(context.Background(), r.sha, haves)
	if err != nil {
		return nil, err
	}
	out, in := io.Pipe()
	go func() {
		defer s.Close()
		n, err := s.WriteTo(in)
		r.sent.Add(n)
		in.CloseWithError(err)
	}()
	return &snapshot.Answer{ReadCloser: out, Shallow: a.Wants}, nil
}

func TestACommitIsSentOn(t *testing.T) {
	dir, first := upstream(t)
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	commit := func(name, content string) string {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
		run(t, dir, "git", "add", "-A")
		run(t, dir, "git", "commit", "-q", "-m", "change")
		return run(t, dir, "git", "rev-parse", "HEAD")
	}
	text := strings.Repeat("a line that is in every version\n", 3000)
	second := commit("lib/noise", string(noise))
	third := commit("lib/text", text)
	fourth := commit("lib/text", text+"and one more\n")

	origin, err := snapshot.Git(dir, nil)
	must(t, err)
	from, err := snapshot.Open(filepath.Join(t.TempDir(), "from.git"), origin)
	must(t, err)
	store := filepath.Join(t.TempDir(), "to.git")
	var sent atomic.Int64
	get := func(sha string) int64 {
		t.Helper()
		sent.Store(0)
		to, err := snapshot.Open(store, relay{from, sha, &sent})
		must(t, err)
		must(t, to.Fetch(t.Context(), sha, nil))
		if !to.Has(sha) {
			t.Errorf("%s is not there", sha)
		}
		return sent.Load()
	}
	get(first)
	get(second)
	for _, sha := range []string{third, fourth} {
		if n := get(sha); n > 5000 {
			t.Errorf("%d bytes were sent for a small change", n)
		}
	}
	if n := get(first); n != 0 {
		t.Errorf("%d bytes were sent of what was there", n)
	}
	run(t, store, "git", "fsck", "--full", "--strict")

	// Damage where it is sent from is noticed before it is sent, and mended.
	packs, err := filepath.Glob(filepath.Join(filepath.Dir(store), "..", "*", "from.git", "objects", "pack", "*.pack"))
	must(t, err)
	if len(packs) == 0 {
		t.Fatal("there are no packs to damage")
	}
	for _, p := range packs {
		b, err := os.ReadFile(p)
		must(t, err)
		b[len(b)/2] ^= 0x55
		must(t, os.Chmod(p, 0o644))
		must(t, os.WriteFile(p, b, 0o644))
	}
	must(t, os.RemoveAll(store))
	get(fourth)

	to, err := snapshot.Open(store, relay{from, strings.Repeat("1", 40), &sent})
	must(t, err)
	if err := to.Fetch(t.Context(), strings.Repeat("1", 40), nil); !errors.Is(err, gitremote.ErrUnknownCommit) {
		t.Errorf("an unknown commit: %v", err)
	}
}

func TestSubmodulesAreSentAlong(t *testing.T) {
	lib, pinned := upstream(t)
	dir, _ := upstream(t)
	text := strings.Repeat("a line of text\n", 2000)
	module := func(sha string) string {
		must(t, os.MkdirAll(filepath.Join(dir, "lib"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, ".gitmodules"), []byte("[submodule \"lib\"]\n\tpath = lib\n\turl = "+lib+"\n"), 0o644))
		run(t, dir, "git", "add", ".gitmodules")
		run(t, dir, "git", "update-index", "--add", "--cacheinfo", "160000,"+sha+",lib")
		run(t, dir, "git", "commit", "-q", "-m", "submodule")
		return run(t, dir, "git", "rev-parse", "HEAD")
	}
	change := func(content string) string {
		must(t, os.WriteFile(filepath.Join(lib, "a"), []byte(content), 0o644))
		run(t, lib, "git", "commit", "-q", "-a", "-m", "change")
		return run(t, lib, "git", "rev-parse", "HEAD")
	}
	noise := make([]byte, 100_000)
	_, _ = rand.Read(noise)
	first := module(pinned)
	second := module(change(text + string(noise)))
	third := module(change(text + "more\n" + string(noise)))

	origin, err := snapshot.Git(dir, nil)
	must(t, err)
	from, err := snapshot.Open(filepath.Join(t.TempDir(), "from.git"), origin)
	must(t, err)
	store := filepath.Join(t.TempDir(), "to.git")
	var sent atomic.Int64
	get := func(sha string) int64 {
		t.Helper()
		sent.Store(0)
		to, err := snapshot.Open(store, relay{from, sha, &sent})
		must(t, err)
		must(t, to.Fetch(t.Context(), sha, nil))
		v, err := to.View()
		must(t, err)
		defer v.Close()
		if _, err := v.ReadAll(hash(t, run(t, dir, "git", "rev-parse", sha+":lib")), gitstore.Commit, 1<<20); err != nil {
			t.Errorf("the submodule's commit: %v", err)
		}
		return sent.Load()
	}
	get(first)
	get(second)
	if n := get(third); n > 5000 {
		t.Errorf("%d bytes were sent for a small change in a submodule", n)
	}
	if n := get(second); n != 0 {
		t.Errorf("%d bytes were sent of what was there", n)
	}
}

func hash(t *testing.T, sha string) gitstore.Hash {
	t.Helper()
	h, err := gitstore.ParseHash(sha)
	must(t, err)
	return h
}
