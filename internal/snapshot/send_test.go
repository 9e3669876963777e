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

	remote, err := gitremote.Parse(dir)
	must(t, err)
	from, err := snapshot.Open(filepath.Join(t.TempDir(), "from.git"), snapshot.Git(remote))
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
