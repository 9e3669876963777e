package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// pointer stands in git for a file in Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: keys are sorted
// after version, and a pointer is below 1024 bytes).
type pointer struct {
	text []byte
	oid  string // SHA-256 of the content
	size int64
}

var (
	pointerOID  = regexp.MustCompile(`(?m)^oid sha256:([0-9a-f]{64})$`)
	pointerSize = regexp.MustCompile(`(?m)^size ([0-9]{1,18})$`)
)

func parsePointer(content []byte) (p pointer, ok bool) {
	if len(content) >= 1024 || !bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/v1\n")) {
		return p, false
	}
	oid, size := pointerOID.FindSubmatch(content), pointerSize.FindSubmatch(content)
	if oid == nil || size == nil {
		return p, false
	}
	n, err := strconv.ParseInt(string(size[1]), 10, 64)
	return pointer{bytes.Clone(content), string(oid[1]), n}, err == nil
}

// lfs gets files of Git LFS through the git-lfs program. What it downloads stays
// in the store until another commit is written.
type lfs struct {
	store  string
	remote snapshot.Origin

	mu   sync.Mutex
	used map[string]bool // oids
}

// programmable is an origin that git's programs can be told to log in to.
type programmable interface {
	Environ(refused string) ([]string, error)
	Clean(text string) string
}

// openLFS is for writing one commit.
func openLFS(store string, remote snapshot.Origin) (*lfs, error) {
	store, err := filepath.Abs(store)
	if err != nil {
		return nil, err
	}
	l := &lfs{store: store, remote: remote, used: map[string]bool{}}
	if err := os.Remove(l.refused()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return l, nil
}

func (l *lfs) refused() string { return filepath.Join(l.store, "lfs", "refused") }

var errNoLFS = errors.New("and its content cannot be had here")

// write writes the content of p. It fails with errNoLFS and a remedy when there is
// no way to get it from this machine.
func (l *lfs) write(ctx context.Context, p pointer, to io.Writer) error {
	remote, ok := l.remote.(programmable)
	if !ok {
		return fmt.Errorf("%w: the coordinator, which this node gets commits from, does not send such files; write via: agent in the app's source, with credentials in agent.yaml, and install git-lfs here", errNoLFS)
	}
	program, err := exec.LookPath("git-lfs")
	if err != nil {
		return fmt.Errorf("%w: install git-lfs (and git)", errNoLFS)
	}
	env, err := remote.Environ(l.refused())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.refused()), 0o755); err != nil {
		return err
	}
	l.mu.Lock()
	l.used[p.oid] = true
	l.mu.Unlock()
	sum := &measured{to: to, left: p.size}
	digest := sha256.New()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "smudge")
	cmd.Dir, cmd.Env = l.store, append(env, "GIT_DIR="+l.store)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(p.text), io.MultiWriter(sum, digest), &said
	cmd.WaitDelay = 10 * time.Second // programs that it started may outlive it
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case sum.err != nil:
		return sum.err
	case err != nil:
		return &gitremote.Failure{
			Err: fmt.Errorf("git-lfs cannot download it from %s (%w): %s; check that the file was pushed (git lfs push --all origin), and that the credentials may read it",
				l.remote, err, remote.Clean(said.String())),
		}
	case sum.left != 0 || hex.EncodeToString(digest.Sum(nil)) != p.oid:
		return &gitremote.Failure{Err: fmt.Errorf("what git-lfs downloaded from %s is not the file of sha256:%s: %s", l.remote, p.oid, remote.Clean(said.String()))}
	}
	return nil
}

// measured takes no more than it was said to get.
type measured struct {
	to   io.Writer
	left int64
	err  error
}

func (m *measured) Write(p []byte) (n int, err error) {
	if m.left -= int64(len(p)); m.left < 0 {
		return 0, errors.New("it is larger than the commit says")
	}
	n, m.err = m.to.Write(p)
	return n, m.err
}

// prune removes what was downloaded for other commits, and what the program left.
func (l *lfs) prune() error {
	dir := filepath.Join(l.store, "lfs")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !l.used[d.Name()] {
			err = os.Remove(path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
