package httpapi_test

import (
	"bytes"
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
	"syscall"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// sender sends one real commit whichever is asked for, and remembers which was.
type sender struct {
	repo  *snapshot.Repo
	real  string
	asked []string
	err   error
}

func (s *sender) Send(ctx context.Context, app, sha string, haves []string) (*snapshot.Sending, error) {
	s.asked = append(s.asked, app+" "+sha+" "+strings.Join(haves, ","))
	if s.err != nil {
		return nil, s.err
	}
	return s.repo.Send(ctx, s.real, haves)
}

func (s *sender) SendLarge(ctx context.Context, app, sha, path string) (*os.File, error) {
	s.asked = append(s.asked, app+" "+sha+" "+path)
	if s.err != nil {
		return nil, s.err
	}
	return s.repo.SendLarge(ctx, s.real, path)
}

func TestAgentsGetTheCommitsOfTheirReleases(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	git := func(args ...string) string {
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
	large := "the large file"
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(large)))
	kept := filepath.Join(dir, ".git", "lfs", "objects", oid[:2], oid[2:4])
	err := errors.Join(os.MkdirAll(kept, 0o755), os.WriteFile(filepath.Join(kept, oid), []byte(large), 0o644),
		os.WriteFile(filepath.Join(dir, "model.bin"), fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(large)), 0o644),
		os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	git("add", ".")
	git("commit", "-q", "-m", "change")
	origin, err := snapshot.Git(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := snapshot.Open(filepath.Join(t.TempDir(), "commits"), origin)
	if err != nil {
		t.Fatal(err)
	}
	src := &sender{repo: repo, real: git("rev-parse", "HEAD")}
	s := newStage(t)
	s.restart(func(c *httpapi.Config) { c.Sources = src })
	if _, err := s.admin.Deploy(t.Context(), "hello", api.DeployRequest{By: "ann"}); err != nil {
		t.Fatal(err)
	}
	id := sha("a")[:12] + "-111111"
	web1 := s.client("token-of-web1")

	body, err := web1.Source(t.Context(), "hello", id, []string{sha("b")})
	if err != nil {
		t.Fatal(err)
	}
	pack, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	store, err := gitstore.Open(filepath.Join(t.TempDir(), "store"))
	if err == nil {
		err = store.Receive(bytes.NewReader(pack))
	}
	if err != nil {
		t.Errorf("what was sent is no pack: %v", err)
	}
	if want := []string{"hello " + sha("a") + " " + sha("b")}; !slices.Equal(src.asked, want) {
		t.Errorf("asked for %q, want %q", src.asked, want)
	}

	if _, err := exec.LookPath("git-lfs"); err == nil {
		for _, offset := range []int64{0, 5} {
			body, err := web1.LargeFile(t.Context(), "hello", id, "model.bin", offset)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if err := errors.Join(err, body.Close()); err != nil || string(got) != large[offset:] {
				t.Errorf("from %d on: %q, %v", offset, got, err)
			}
		}
	}
	var refused *api.Error
	for _, path := range []string{"plain", "none", "", "../model.bin", "/etc/passwd", "model.bin/x", ".git/config"} {
		if _, err := web1.LargeFile(t.Context(), "hello", id, path, 0); !errors.As(err, &refused) || refused.Kind != api.ErrorNotFound {
			t.Errorf("%q: %v, want not_found", path, err)
		}
	}
	src.asked = src.asked[:1]
	for _, c := range []struct {
		name, token, app, release string
		want                      api.ErrorKind
	}{
		{"a node without the app", "token-of-web3", "hello", id, api.ErrorForbidden},
		{"another app", "token-of-web1", "other", id, api.ErrorForbidden},
		{"no release", "token-of-web1", "hello", sha("b")[:12] + "-111111", api.ErrorNotFound},
		{"a path", "token-of-web1", "hello", "../hello", api.ErrorNotFound},
		{"no token of a node", adminToken, "hello", id, api.ErrorUnauthorized},
	} {
		_, err := s.client(c.token).Source(t.Context(), c.app, c.release, nil)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if _, err := s.client(c.token).LargeFile(t.Context(), c.app, c.release, "model.bin", 0); !errors.As(err, &e) || e.Kind != c.want {
			t.Errorf("%s, of a file in LFS: %v, want %s", c.name, err, c.want)
		}
	}
	if len(src.asked) != 1 {
		t.Errorf("refused requests came through: %q", src.asked)
	}

	for reason, kind := range map[string]error{
		api.SourceDenied: gitremote.ErrDenied, api.SourceUnknownCommit: gitremote.ErrUnknownCommit, api.SourceHostKey: gitremote.ErrHostKey,
	} {
		src.err = &gitremote.Failure{Kind: kind, Err: errors.New("why")}
		_, err := web1.Source(t.Context(), "hello", id, nil)
		var e *api.Error
		if !errors.As(err, &e) || e.Reason != reason || !strings.Contains(e.Text, "why") {
			t.Errorf("%s: %v", reason, err)
		}
	}
	var e *api.Error
	src.err = fmt.Errorf("%w: a submodule", snapshot.ErrBad)
	if _, err := web1.Source(t.Context(), "hello", id, nil); !errors.As(err, &e) || e.Reason != api.SourceBad {
		t.Errorf("a commit that cannot be used: %v", err)
	}
	for _, c := range []struct {
		err  error
		want string // in what is said
	}{
		{lfs.ErrNoProgram, "install git-lfs"},
		{fmt.Errorf("writing: %w", syscall.ENOSPC), "no room"},
	} {
		src.err = c.err
		if _, err := web1.LargeFile(t.Context(), "hello", id, "model.bin", 0); !errors.As(err, &e) || !strings.Contains(e.Text, c.want) {
			t.Errorf("%v: %v, want %q", c.err, err, c.want)
		}
	}
	src.err = httpapi.ErrNoSource
	if _, err := web1.Source(t.Context(), "hello", id, nil); !errors.As(err, &e) || e.Kind != api.ErrorNotFound {
		t.Errorf("no source: %v", err)
	}
}
