package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Exit codes with a meaning of their own, as sysexits.h has them.
const (
	exitDone        = 0
	exitUnsupported = 69 // EX_UNAVAILABLE
	exitNotYet      = 75 // EX_TEMPFAIL
	exitDenied      = 77 // EX_NOPERM
)

const (
	// maxStderr and maxStderrLines bound what an error quotes.
	maxStderr      = 2 << 10
	maxStderrLines = 5
	// outputGrace is how long somebody who escaped the program's process group
	// may keep its output open.
	outputGrace = time.Second
)

// stage is what a program is asked.
type stage string

const (
	stagePreflight    stage = "preflight"
	stageObserve      stage = "observe"
	stageSnapshot     stage = "snapshot"
	stageDrain        stage = "drain"
	stageDrainStatus  stage = "drain-status"
	stageForce        stage = "force"
	stageRejoin       stage = "rejoin"
	stageRejoinStatus stage = "rejoin-status"
)

// changes tells whether a stage may have changed something when its end was
// not seen.
func (s stage) changes() bool { return s == stageDrain || s == stageForce || s == stageRejoin }

// answer is what a program that was not in error said.
type answer struct {
	line
	notYet bool
	said   string // the last of its standard error
}

// run asks the program. Its errors are of type [*lbclient.Error].
func (p *provider) run(ctx context.Context, s stage, extra ...string) (answer, error) {
	op := p.op(string(s))
	fail := func(class lbclient.Class, text string, err error) (answer, error) {
		return answer{}, &lbclient.Error{Class: class, Op: op, Text: text, Err: err}
	}
	lost := lbclient.ClassTransient
	if s.changes() {
		lost = lbclient.ClassAmbiguous
	}
	if err := ctx.Err(); err != nil {
		return fail(lbclient.ClassTransient, "", err) // not begun
	}
	within, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := append([]string{
		"PATH=" + path, "LC_ALL=C", "LB_BALANCER=" + p.cfg.Name, "LB_NODE=" + p.cfg.Node,
		"LB_TARGET=" + p.cfg.Server, "LB_STAGE=" + string(s),
	}, p.cfg.Env...)
	out, err := start(within, append(p.cfg.Command[:len(p.cfg.Command):len(p.cfg.Command)], string(s)), append(env, extra...))
	if err != nil {
		class := lbclient.ClassTransient
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOEXEC):
			class = lbclient.ClassInvalid
		case errors.Is(err, fs.ErrPermission):
			class = lbclient.ClassDenied
		}
		return fail(class, fmt.Sprintf("%s cannot be run; it must be an executable file, a script one with #! in front", p.cfg.Command[0]), err)
	}
	quote := ""
	if out.stderr != "" {
		quote = ", and said: " + out.stderr
	}
	if err := within.Err(); err != nil && out.code != exitDone {
		if ctx.Err() != nil {
			return fail(lost, "it was killed with all that it had started"+quote, ctx.Err())
		}
		return fail(lost, fmt.Sprintf("it did not end within %s and was killed with all that it had started%s", p.cfg.Timeout, quote), nil)
	}
	if out.code < 0 {
		return fail(lost, fmt.Sprintf("it was ended by %s%s", out.signal, quote), nil)
	}
	l, err := parseLine(out.stdout)
	if err == nil && out.overflow {
		err = fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	switch out.code {
	case exitDone, exitNotYet:
		if err != nil {
			return fail(lbclient.ClassInvalid, "its standard output cannot be understood"+quote, err)
		}
		if l.Error != "" || l.Class != "" {
			return fail(lbclient.ClassInvalid, fmt.Sprintf("it says that it failed (%s) and exits with %d", l.Error, out.code), nil)
		}
		return answer{line: l, notYet: out.code == exitNotYet, said: out.stderr}, nil
	case exitUnsupported:
		return fail(lbclient.ClassUnsupported, fmt.Sprintf("it does not do that (exit code %d)%s", out.code, quote), nil)
	case exitDenied:
		return fail(lbclient.ClassDenied, fmt.Sprintf("it is not permitted (exit code %d)%s", out.code, quote), nil)
	}
	class, text := lbclient.ClassTransient, fmt.Sprintf("it exited with %d%s", out.code, quote)
	if err == nil && l.Class != "" {
		class = l.Class
	}
	if err == nil && l.Error != "" {
		text = printable(l.Error) + " (" + text + ")"
	}
	return fail(class, text, nil)
}

// outcome is how a process ended.
type outcome struct {
	code     int    // -1 when a signal ended it
	signal   string // which
	stdout   []byte
	overflow bool // it said more than is kept
	stderr   string
}

// start runs a process in a group of its own and waits for it. The group is
// killed when ctx ends, and what is left of it when the process does.
func start(ctx context.Context, argv, env []string) (outcome, error) {
	stdout, stderr := &head{max: maxLine}, &tail{max: maxStderr}
	cmd := osexec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		return outcome{}, err
	}
	group := cmd.Process.Pid
	kill := func() { _ = unix.Kill(-group, unix.SIGKILL) } // nobody may be left
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		kill()
	})
	// The process is left a zombie until its group is killed, so that the number
	// cannot come to mean another group meanwhile.
	for {
		err := unix.Waitid(unix.P_PID, group, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !stop() {
		<-killed
	}
	kill()
	err := cmd.Wait()
	state := cmd.ProcessState
	if state == nil {
		return outcome{}, fmt.Errorf("its end was not seen: %w", err)
	}
	out := outcome{code: state.ExitCode(), stdout: stdout.kept.Bytes(), overflow: stdout.lost, stderr: stderr.lines()}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out.signal = "signal " + ws.Signal().String()
	}
	return out, nil
}

// head keeps the beginning of what is written.
type head struct {
	kept bytes.Buffer
	max  int
	lost bool
}

func (h *head) Write(b []byte) (int, error) {
	room := max(0, h.max-h.kept.Len())
	h.kept.Write(b[:min(room, len(b))])
	h.lost = h.lost || len(b) > room
	return len(b), nil
}

// tail keeps the end of what is written.
type tail struct {
	kept []byte
	max  int
}

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b[max(0, len(b)-t.max):]...)
	t.kept = t.kept[max(0, len(t.kept)-t.max):]
	return len(b), nil
}

// lines are the last lines, as one.
func (t *tail) lines() string {
	var out []string
	for l := range strings.Lines(string(t.kept)) {
		if l = printable(l); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out[max(0, len(out)-maxStderrLines):], " / ")
}

// printable keeps what a terminal shows, for errors end there.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.TrimSpace(s)
}
