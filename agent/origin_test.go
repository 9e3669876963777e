package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// sends is a coordinator that sends one commit.
type sends struct {
	from *snapshot.Repo
	sha  string
	err  error
}

func (s sends) Source(ctx context.Context, _, _ string, haves []string) (io.ReadCloser, error) {
	if s.err != nil {
		return nil, s.err
	}
	sending, err := s.from.Send(ctx, s.sha, haves)
	if err != nil {
		return nil, err
	}
	out, in := io.Pipe()
	go func() {
		defer sending.Close()
		_, err := sending.WriteTo(in)
		in.CloseWithError(err)
	}()
	return out, nil
}

func (s sends) LargeFile(_ context.Context, _, _, path string, offset int64) (io.ReadCloser, error) {
	f, err := s.from.SendLarge(context.Background(), s.sha, path)
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	return f, err
}

func TestACommitComesFromTheCoordinator(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("add", "a")
	git("commit", "-q", "-m", "change")
	sha := git("rev-parse", "HEAD")
	origin, err := snapshot.Git(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	from, err := snapshot.Open(filepath.Join(t.TempDir(), "commits"), origin)
	if err != nil {
		t.Fatal(err)
	}
	open := func(s Sources) *source.Repo {
		p := &app{name: "hello", a: &Agent{deps: Deps{Sources: s}}}
		origin, err := p.origin(api.Spec{Repo: "https://no-such-host.invalid/x.git", SourceVia: api.ViaCoordinator}, "r1")
		if err != nil {
			t.Fatal(err)
		}
		repo, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
		if err != nil {
			t.Fatal(err)
		}
		return repo
	}
	repo := open(sends{from: from, sha: sha})
	release := filepath.Join(t.TempDir(), "release")
	if err := errors.Join(repo.Fetch(t.Context(), sha, nil), repo.Write(t.Context(), sha, release)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(release, "a")); string(got) != "content" {
		t.Errorf("a is %q, %v", got, err)
	}

	err = open(sends{err: &api.Error{Kind: api.ErrorConflict, Reason: api.SourceBad, Text: "a bad submodule"}}).Fetch(t.Context(), sha, nil)
	if fault.ReasonOf(err) != api.ReasonBadTree || !strings.Contains(err.Error(), "a bad submodule") {
		t.Errorf("a commit that cannot be used: %v (%s)", err, fault.ReasonOf(err))
	}
	for _, c := range []struct {
		err, want error
	}{
		{&api.Error{Kind: api.ErrorUnavailable, Reason: api.SourceDenied, Text: "the token expired"}, gitremote.ErrDenied},
		{&api.Error{Kind: api.ErrorUnavailable, Reason: api.SourceUnknownCommit, Text: "no such commit"}, gitremote.ErrUnknownCommit},
		{&api.Error{Kind: api.ErrorUnavailable, Text: "stopping"}, gitremote.ErrUnreachable},
		{&api.UnreachableError{Err: io.EOF}, gitremote.ErrUnreachable},
	} {
		err := open(sends{err: c.err}).Fetch(t.Context(), sha, nil)
		if !errors.Is(err, c.want) || fault.ReasonOf(err) != api.ReasonFetchFailed || !strings.Contains(err.Error(), "the coordinator") {
			t.Errorf("%v: %v (%s), want %v", c.err, err, fault.ReasonOf(err), c.want)
		}
	}
}

// breaking is a coordinator whose connections break.
type breaking struct {
	sends
	content string
	each    int   // bytes that one connection carries
	err     error // of all
	offsets []int64
}

func (b *breaking) LargeFile(_ context.Context, _, _, _ string, offset int64) (io.ReadCloser, error) {
	b.offsets = append(b.offsets, offset)
	if b.err != nil {
		return nil, b.err
	}
	left := b.content[offset:]
	if len(left) <= b.each {
		return io.NopCloser(strings.NewReader(left)), nil
	}
	return io.NopCloser(io.MultiReader(strings.NewReader(left[:b.each]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
}

func TestAFileInLFSGoesOnWhereTheConnectionBroke(t *testing.T) {
	b := &breaking{content: strings.Repeat("large", 5), each: 10}
	p := lfs.Pointer{OID: fmt.Sprintf("%x", sha256.Sum256([]byte(b.content))), Size: int64(len(b.content))}
	lend := func(ctx context.Context) (string, error) {
		var got strings.Builder
		err := relayed{b, "hello", "r1"}.Lend(ctx, "model.bin", p, &got)
		return got.String(), err
	}
	got, err := lend(t.Context())
	if err != nil || got != b.content {
		t.Errorf("got %q, %v", got, err)
	}
	if want := []int64{0, 10, 20}; !slices.Equal(b.offsets, want) {
		t.Errorf("asked from %v on, want %v", b.offsets, want)
	}
	b.offsets, b.err = nil, &api.Error{Kind: api.ErrorUnavailable, Reason: api.SourceDenied, Text: "the token expired"}
	if _, err = lend(t.Context()); !errors.Is(err, gitremote.ErrDenied) || len(b.offsets) != 1 {
		t.Errorf("after %d requests: %v, want one and %v", len(b.offsets), err, gitremote.ErrDenied)
	}
}
