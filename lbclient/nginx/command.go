package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxOutput caps what is kept of a command's output, of which nginx -T writes
// its whole configuration.
const maxOutput = 32 << 20

// run runs a command to its end, or kills it with all that it started.
func run(ctx context.Context, argv []string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, program(argv[0]), argv[1:]...)
	var out, words capped
	out.left, words.left = maxOutput, 64<<10
	cmd.Stdout, cmd.Stderr = &out, &words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.String(), words.String(), err
}

// program finds nginx where it lies outside everybody's PATH.
func program(name string) string {
	const usual = "/usr/sbin/nginx"
	if _, err := exec.LookPath(name); err != nil && name == "nginx" {
		if _, err := os.Stat(usual); err == nil {
			return usual
		}
	}
	return name
}

// capped keeps the beginning of what is written to it.
type capped struct {
	bytes.Buffer
	left int
}

func (c *capped) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	c.Buffer.Write(b[:n])
	return len(b), nil
}

// test lets nginx judge what is on disk and, where its command allows, shows
// that nginx reads f at all. Its error is of the given class when nginx refuses.
func (p *provider) test(ctx context.Context, op string, f *file, refused lbclient.Class) error {
	argv := slices.Clone(p.cfg.Test)
	dump := slices.Index(argv, "-t")
	if dump >= 0 {
		argv[dump] = "-T"
	}
	out, words, err := run(ctx, argv)
	if err != nil {
		return commandError(ctx, op, argv, words+out, err, refused)
	}
	if dump >= 0 && !f.among(out) {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf(`nginx does not read %s (%q does not show it); include it, or name the file that holds the upstream`, f.path, strings.Join(argv, " "))}
	}
	return nil
}

// among tells whether nginx named the file among those that it read.
func (f *file) among(dump string) bool {
	own, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(dump) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, ":\n"), "# configuration file ")
		if !ok {
			continue
		}
		if info, err := os.Stat(path); err == nil && os.SameFile(info, own) {
			return true
		}
	}
	return false
}

func commandError(ctx context.Context, op string, argv []string, words string, err error, refused lbclient.Class) error {
	out := &lbclient.Error{Class: refused, Op: op, Err: err,
		Text: fmt.Sprintf("%q failed and said %q", strings.Join(argv, " "), complaint(words))}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		out.Class = lbclient.ClassTransient
		out.Text = fmt.Sprintf("%q did not end in time", strings.Join(argv, " "))
	case !errors.As(err, &exit):
		out.Class = lbclient.ClassInvalid
		out.Text = fmt.Sprintf("%q cannot be run", strings.Join(argv, " "))
	case strings.Contains(words, "Permission denied"):
		out.Class = lbclient.ClassDenied
	}
	return out
}

// complaint picks the line of nginx's words that says what is wrong.
func complaint(words string) string {
	lines := strings.Split(strings.TrimSpace(words), "\n")
	pick := lines[len(lines)-1]
	for _, l := range lines {
		if strings.Contains(l, "[emerg]") || strings.Contains(l, "[crit]") {
			pick = l
			break
		}
	}
	if len(pick) > 300 {
		pick = pick[:300] + "..."
	}
	return pick
}
