// Package build runs the build commands of a release.
//
// A build is other people's code, so it gets nothing of the agent's own
// environment but PATH and HOME, is bounded in time, and is gone as a whole when it ends:
// whatever it left in the background is killed.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Spec is one build.
type Spec struct {
	Dir      string   // working directory: the staging directory of the release
	Commands []string // shell command lines, run in order until one fails
	// Env is the whole environment, as KEY=value, save that PATH and HOME default
	// to the agent's. A variable [Marker] is added.
	Env     []string
	Timeout time.Duration // of all commands together; 0 is no limit
	// Grace is how long a build that is cancelled or out of time may take to end
	// after SIGTERM before it is killed.
	Grace time.Duration
}

// lingering bounds the wait for output of processes that could not be killed
// because they run as another user.
const lingering = time.Second

// Run runs the commands with sh -c, one after another, and returns when no
// process of the build is left. Standard output and error both go to out, each
// command preceded by a line that shows it.
//
// A command that fails or runs out of time is [api.ReasonBuildFailed], naming the
// command, how it ended and the last lines of its output; it is
// [api.ReasonDiskFull] instead when the file system of Dir is full. A cancelled
// ctx is not the release's fault: then the error wraps the cause of ctx.
func Run(ctx context.Context, s Spec, out io.Writer) error {
	marker, err := newMarker()
	if err != nil {
		return fmt.Errorf("cannot start the build: %w", err)
	}
	env := environment(s.Env, marker)
	limited := ctx
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	for _, command := range s.Commands {
		if ctx.Err() != nil {
			return cancelled(ctx, command)
		}
		if _, err := fmt.Fprintf(out, "$ %s\n", command); err != nil {
			return fmt.Errorf("cannot write the build log: %w", err)
		}
		r := &runner{spec: s, command: command, env: env, marker: marker, tail: &tail{}}
		end, err := r.run(limited, out)
		switch {
		case err != nil:
			return err
		case end.Exited() && end.ExitStatus() == 0 && !r.stopped:
			continue
		case ctx.Err() != nil:
			return cancelled(ctx, command)
		}
		reason := api.ReasonBuildFailed
		how := describe(end)
		if r.stopped {
			how = fmt.Sprintf("was stopped because the build took longer than %v", s.Timeout)
		} else if full(s.Dir) {
			reason = api.ReasonDiskFull
			how += " with the disk full under " + s.Dir
		}
		return fault.Errorf(reason, "build command %q %s%s", command, how, r.tail.quote())
	}
	return nil
}

func cancelled(ctx context.Context, command string) error {
	return fmt.Errorf("cannot finish the build: cancelled at %q: %w", command, context.Cause(ctx))
}

func describe(end syscall.WaitStatus) string {
	if !end.Signaled() {
		return fmt.Sprintf("failed with exit status %d", end.ExitStatus())
	}
	how := "was ended by signal " + unix.SignalName(end.Signal())
	if end.Signal() == syscall.SIGKILL {
		how += " (not sent by the agent: the machine may be out of memory)"
	}
	return how
}

// full tells whether a build in dir failed for want of space or inodes, which
// says nothing about the release.
func full(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	const nothing = 1 << 20
	return st.Bavail*uint64(st.Bsize) < nothing || st.Files > 0 && st.Ffree == 0
}

// runner runs one command.
type runner struct {
	spec    Spec
	command string
	env     []string
	marker  string
	tail    *tail
	stopped bool // ended by us because the context was done
}

func (r *runner) run(ctx context.Context, out io.Writer) (syscall.WaitStatus, error) {
	rd, wr, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("cannot start build command %q: %w", r.command, err)
	}
	defer rd.Close()

	cmd := exec.Command("/bin/sh", "-c", r.command)
	cmd.Dir, cmd.Env = r.spec.Dir, r.env
	cmd.Stdout, cmd.Stderr = wr, wr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	wr.Close()
	if err != nil {
		return 0, fmt.Errorf("cannot start build command %q in %s: %w", r.command, r.spec.Dir, err)
	}

	copied := make(chan error, 1)
	go func() { copied <- drain(rd, io.MultiWriter(r.tail, out)) }()
	exited := make(chan error, 1)
	go func() { exited <- awaitExit(cmd.Process.Pid) }()

	waitErr := r.await(ctx, cmd.Process.Pid, exited)
	// The shell is not reaped yet, so its process group cannot belong to anybody
	// else.
	killGroup(cmd.Process.Pid, syscall.SIGKILL)
	killMarked(r.marker)
	err = cmd.Wait()
	_ = rd.SetReadDeadline(time.Now().Add(lingering))
	copyErr := <-copied

	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		waitErr = errors.Join(waitErr, err)
	}
	if waitErr != nil {
		return 0, fmt.Errorf("cannot wait for build command %q: %w", r.command, waitErr)
	}
	if copyErr != nil {
		return 0, fmt.Errorf("cannot write the build log: %w", copyErr)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus), nil
}

// await returns once the shell has exited, of itself or because ctx is done.
func (r *runner) await(ctx context.Context, pid int, exited <-chan error) error {
	select {
	case err := <-exited:
		return err
	case <-ctx.Done():
	}
	r.stopped = true
	killGroup(pid, syscall.SIGTERM)
	grace := time.NewTimer(r.spec.Grace)
	defer grace.Stop()
	select {
	case err := <-exited:
		return err
	case <-grace.C:
	}
	killGroup(pid, syscall.SIGKILL)
	return <-exited
}

// awaitExit waits until the child pid has exited, and leaves it to be reaped.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func killGroup(pid int, sig syscall.Signal) {
	// ESRCH and EPERM leave nothing that could be done about it.
	_ = syscall.Kill(-pid, sig)
}

// drain copies until the end of r or its deadline. It reads on after w failed, so
// that the build is not stuck on a full pipe, and returns the first error of w.
func drain(r io.Reader, w io.Writer) error {
	var failed error
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && failed == nil {
			_, failed = w.Write(buf[:n])
		}
		if err != nil {
			return failed
		}
	}
}
