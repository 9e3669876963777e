package lfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// ErrNoProgram tells that files in Git LFS cannot be had on this machine.
var ErrNoProgram = errors.New("git-lfs is not installed")

// Download writes the content of a file to w. repo is a git repository of ours, in
// which git-lfs keeps what it has of a download that is cut, to go on from there;
// from is where its files come from. What is written is not verified.
//
// Errors: [ErrNoProgram], [*gitremote.Failure] without credentials in it, and those
// of w.
func Download(ctx context.Context, repo string, from gitremote.Remote, p Pointer, w io.Writer) error {
	program, err := exec.LookPath("git-lfs")
	if err != nil {
		return ErrNoProgram
	}
	dir := filepath.Join(repo, "lfs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	refused := filepath.Join(dir, p.OID+".refused")
	defer os.Remove(refused)
	env, err := from.Environ(refused)
	if err != nil {
		return err
	}
	to := &failing{w: w}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "smudge")
	cmd.Dir, cmd.Env = repo, append(env, "GIT_DIR="+repo)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(p.Text), to, &said
	cmd.WaitDelay = 10 * time.Second // programs that it started may outlive it
	err = cmd.Run()
	// Its own copy has served.
	gone := os.RemoveAll(filepath.Join(dir, "objects", p.OID[:2], p.OID[2:4], p.OID))
	var other *gitremote.Failure // it wrote what was not asked for; what it says tells more
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case to.err != nil && (said.Len() == 0 || !errors.As(to.err, &other)):
		return to.err
	case err != nil:
		f := &gitremote.Failure{Remedy: "check that the file was pushed (git lfs push --all origin), and that the credentials may read it"}
		if _, err := os.Stat(refused); err == nil {
			f.Kind, f.Remedy = gitremote.ErrDenied, from.LFSRefused()
		}
		f.Err = fmt.Errorf("git-lfs cannot download it from %s (%w): %s; %s", from.LFS(), err, from.Clean(said.String()), f.Remedy)
		return f
	}
	return gone
}

// failing remembers the error of a writer.
type failing struct {
	w   io.Writer
	err error
}

func (f *failing) Write(p []byte) (n int, err error) {
	n, f.err = f.w.Write(p)
	return n, f.err
}
