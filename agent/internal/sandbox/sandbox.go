// Package sandbox runs other people's commands on a node: builds above all.
//
// They get nothing of the agent's own environment but PATH, are bounded in
// time and in what they may use up, and are gone as a whole when they end: what
// they left in the background is killed. A transient unit of systemd holds them
// in where there is a systemd to ask, a process group where there is none;
// [Sandbox.Check] tells which, and which bounds do not hold on this machine.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Job is a list of commands to be run once.
type Job struct {
	// Name tells the job from all others on the machine, and is the same for an
	// agent that was restarted meanwhile: app, agent, what it is, release, attempt,
	// joined by dots. It consists of letters, digits, '.', '_', and '-'.
	Name string
	// What the commands are in a sentence: "build", "release", "before_drain".
	What string
	// Reason of an error that is the commands' own doing: one failed, or they ran
	// out of time.
	Reason api.Reason

	Commands []string // shell command lines, run in order until one fails
	Dir      string   // where they start
	// Env is the environment, as KEY=value, save that PATH defaults to the agent's
	// and HOME to Cache. A variable [Marker] is added.
	Env []string
	// Secrets are more variables. Unlike Env they show nowhere but in the
	// environment of the commands, and are masked in the output.
	Secrets map[string]string
	// User is whom they run as: "" is whom the agent runs as, [Dynamic] one that
	// exists only meanwhile. Only an agent that is root can choose.
	User string
	// App has them run as a unit's program does, and write where that may: they are
	// the app's own commands. User does not count then. Where there is no systemd to
	// make a user up, a Dynamic one is refused.
	App *unit.Account
	// Cache is a directory, made if need be, that they find as $LOCKSTEP_CACHE and
	// $XDG_CACHE_HOME, and that outlives the job; "" for none.
	Cache string
	// Writable are the directories that they may write to besides Cache and a /tmp
	// of their own; normally Dir. They belong to User while the job runs, and with
	// all that is in them to the agent afterwards.
	Writable []string
	// Open are more paths that they may write to as far as whom they run as may: they
	// keep their owners. What is not there is left out.
	Open   []string
	Limits Limits
	// Background has the job yield to everything else on the machine.
	Background bool
	// Grace is how long a job that is cancelled or out of time may take to end
	// after SIGTERM before it is killed.
	Grace time.Duration

	alone bool // it does run as a [Dynamic] user
}

// Limits bound a job. 0 is no limit.
type Limits struct {
	Memory int64 // bytes
	// MemoryPercent is of the machine's memory; it counts where Memory is 0.
	MemoryPercent int
	CPUWeight     int // 1 to 10000; that of everything else is 100
	IOWeight      int // likewise
	Tasks         int // processes and threads
	Timeout       time.Duration
	TimeoutKey    string        // what Timeout is called where it is written
	Silence       time.Duration // without any output
}

// Dynamic is a user who exists only while the job runs.
const Dynamic = "dynamic"

// ErrLeave as the cause of a cancellation leaves the job running, where that is
// possible, for a [Sandbox.Run] of the same job by the next agent to go on with.
var ErrLeave = errors.New("the agent stops")

// Config is what a sandbox works with.
type Config struct {
	// Units is the systemd to ask; nil for none.
	Units *unit.Manager
	// System tells that it is the machine's, not a user's own.
	System bool
	// Dir is where jobs under way keep what their agent's successor needs. Nobody
	// else may enter it.
	Dir string
	// Hidden are files and directories that jobs shall not see, though they may run
	// as the agent's user.
	Hidden []string
}

// Sandbox runs jobs. It is safe for concurrent use.
type Sandbox struct {
	cfg Config

	mu     sync.Mutex
	denied string // systemd does not let the agent start units: its words
	loose  bool   // units cannot be confined here
}

// New returns a sandbox, without I/O.
func New(c Config) *Sandbox { return &Sandbox{cfg: c} }

func (s *Sandbox) confines() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.loose
}

// asks tells whether jobs are units of a systemd; why says why not. A systemd that
// is there and does not answer is an error: without it, jobs would have more
// power than they should.
func (s *Sandbox) asks(ctx context.Context) (yes bool, why string, err error) {
	if s.cfg.Units == nil {
		return false, "the agent has no systemd to ask", nil
	}
	s.mu.Lock()
	denied := s.denied
	s.mu.Unlock()
	if denied != "" {
		return false, denied, nil
	}
	switch err := s.cfg.Units.Ping(ctx); {
	case errors.Is(err, fs.ErrNotExist):
		return false, err.Error(), nil
	case err != nil:
		return false, "", err
	}
	return true, "", nil
}

// start starts the job, or goes on with it.
func (s *Sandbox) start(ctx context.Context, j Job) (running, error) {
	units, _, err := s.asks(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", j.What, err)
	}
	if units {
		r, err := s.startService(ctx, j)
		if !s.deny(err) {
			return r, err
		}
	}
	return startGroup(j)
}

// deny notes that systemd does not let the agent start units, if that is what err
// says.
func (s *Sandbox) deny(err error) bool {
	if !unit.Denied(err) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = err.Error()
	return true
}

// Has tells whether there is a job of the name that [Sandbox.Run] would go on
// with.
func (s *Sandbox) Has(ctx context.Context, name string) (bool, error) {
	if units, _, err := s.asks(ctx); err != nil || !units {
		return false, err
	}
	st, err := s.cfg.Units.Transient(ctx, unitOf(name))
	if err != nil || !st.Present {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(s.dirOf(name), statusName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// EndOthers ends the jobs whose names begin with prefix, save for keep: they are
// an earlier agent's, and nobody waits for them any more.
func (s *Sandbox) EndOthers(ctx context.Context, prefix, keep string) error {
	units, _, err := s.asks(ctx)
	if err != nil {
		return err
	}
	if !units {
		killMarked(func(m string) bool { return strings.HasPrefix(m, prefix) })
		return nil
	}
	names, err := s.cfg.Units.Transients(ctx, unitPrefix+prefix+"*.service")
	if err != nil {
		return err
	}
	for _, n := range names {
		n = strings.TrimSuffix(strings.TrimPrefix(n, unitPrefix), ".service")
		if n != keep {
			err = errors.Join(err, s.clear(ctx, n))
		}
	}
	return err
}

var validName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$`)

// Run runs the commands with sh -c, one after another, and returns when no
// process of the job is left. Standard output and error both go to out, each
// command preceded by a line that shows it. A job of the same name that runs
// already, or ended while nobody waited for it, is not run again: then Run goes
// on with that.
//
// A command that fails or runs out of time is an error with the job's reason,
// naming the command, how it ended and the last lines of its output; the reason
// is [api.ReasonDiskFull] instead when the file system of Dir is full. A
// cancelled ctx is not the commands' fault: then the error wraps the cause of ctx.
func (s *Sandbox) Run(ctx context.Context, j Job, out io.Writer) error {
	if !validName.MatchString(j.Name) {
		return fmt.Errorf("cannot run the %s: %q is no name of a job", j.What, j.Name)
	}
	if len(j.Commands) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return j.cancelled(ctx, nil)
	}
	if err := j.Limits.settle(); err != nil {
		return fmt.Errorf("cannot start the %s: %w", j.What, err)
	}
	j.alone = j.App == nil && j.User == Dynamic && s.cfg.System && os.Getuid() == 0
	r, err := s.start(ctx, j)
	if err != nil {
		return err
	}
	return j.follow(ctx, r, out)
}

// outputReader is the read end of a pipe.
type outputReader interface {
	io.ReadCloser
	SetReadDeadline(time.Time) error
}

// running is a job under way.
type running interface {
	// output reads what the job prints; its end may come late, so a deadline is
	// set once the job is over.
	output() outputReader
	// exited is closed once the commands have ended.
	exited() <-chan struct{}
	// stop asks all processes to end, and sees to it that exited is closed soon
	// after the grace.
	stop()
	// finish kills what is left once exited is closed, and tells how it went.
	finish() (ending, error)
	// leave lets go of the job; false when it cannot go on without the agent.
	leave() bool
}

// ending is how the commands ended.
type ending struct {
	statuses []int  // of the commands that ended, in order, as the shell has it
	killed   string // why what ran them was killed itself; "" when it was not
	timeout  bool   // by systemd
}

// lingering bounds the wait for output of processes that could not be killed
// because they run as another user.
const lingering = time.Second

// follow waits for the end of r.
func (j Job) follow(ctx context.Context, r running, out io.Writer) error {
	last := &tail{}
	p := &pump{mask: newMask(io.MultiWriter(last, out), j.Secrets)}
	p.heard.Store(time.Now().UnixNano())
	rd := r.output()
	defer rd.Close()
	copied := make(chan error, 1)
	go func() { copied <- p.run(rd) }()

	stopped, left := j.await(ctx, r, p)
	if left {
		_ = rd.SetReadDeadline(time.Now())
		if err := <-copied; err != nil { // what is not written now, the next agent writes
			return errors.Join(j.cancelled(ctx, nil), err)
		}
		return j.cancelled(ctx, nil)
	}
	end, err := r.finish()
	_ = rd.SetReadDeadline(time.Now().Add(lingering))
	copyErr := <-copied
	switch {
	case err != nil:
		return fmt.Errorf("cannot wait for the %s: %w", j.What, err)
	case ctx.Err() != nil:
		return j.cancelled(ctx, end.statuses)
	case copyErr != nil:
		return fmt.Errorf("cannot write the log of the %s: %w", j.What, copyErr)
	}
	if end.timeout {
		stopped = j.late()
	}
	return j.verdict(end, stopped, last)
}

// await waits until the commands have ended, and ends them when ctx is done or
// they run out of time; stopped then says why, unless it was ctx.
func (j Job) await(ctx context.Context, r running, p *pump) (stopped string, left bool) {
	var timeout <-chan time.Time
	if j.Limits.Timeout > 0 {
		t := time.NewTimer(j.Limits.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	var silence <-chan time.Time
	var quiet *time.Timer
	if j.Limits.Silence > 0 {
		quiet = time.NewTimer(j.Limits.Silence)
		defer quiet.Stop()
		silence = quiet.C
	}
	for stopped == "" {
		select {
		case <-r.exited():
			return "", false
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrLeave) && r.leave() {
				return "", true
			}
			stopped = "was cancelled"
		case <-timeout:
			stopped = j.late()
		case <-silence:
			if rest := j.Limits.Silence - time.Since(time.Unix(0, p.heard.Load())); rest > 0 {
				quiet.Reset(rest)
				continue
			}
			stopped = fmt.Sprintf("printed nothing for %v (build_limits.silence)", j.Limits.Silence)
		}
	}
	r.stop()
	<-r.exited()
	return stopped, false
}

// verdict turns an ending into an error, nil when every command succeeded.
func (j Job) verdict(end ending, stopped string, last *tail) error {
	n := len(end.statuses)
	bad := slices.IndexFunc(end.statuses, func(s int) bool { return s != 0 })
	if n == len(j.Commands) && bad < 0 && stopped == "" && end.killed == "" {
		return nil
	}
	if bad < 0 {
		bad = min(n, len(j.Commands)-1)
	}
	reason, how := j.Reason, end.killed
	switch {
	case stopped != "":
		how = fmt.Sprintf("was stopped because the %s %s", j.What, stopped)
	case how == "" && bad < n:
		how = describe(end.statuses[bad])
	case how == "":
		how = "was ended together with the shell that ran it"
	}
	if stopped == "" && full(j.Dir) {
		reason = api.ReasonDiskFull
		how += " with the disk full under " + j.Dir + " (make room there, or keep fewer releases: keep_releases)"
	}
	if j.alone && reason == j.Reason && stopped == "" && last.denied() {
		how += " (it runs as a user of its own, who reads no file that is another's alone: hand it over in secrets, or let build.user in agent.yaml name a user who may)"
	}
	return fault.Errorf(reason, "%s command %q %s%s", j.What, brief(j.Commands[bad]), how, last.quote(j.Commands[bad]))
}

func (j Job) late() string {
	if j.Limits.TimeoutKey == "" {
		return fmt.Sprintf("took longer than %v", j.Limits.Timeout)
	}
	return fmt.Sprintf("took longer than %v (%s)", j.Limits.Timeout, j.Limits.TimeoutKey)
}

func (j Job) cancelled(ctx context.Context, statuses []int) error {
	at := j.Commands[min(len(statuses), len(j.Commands)-1)]
	return fmt.Errorf("cannot finish the %s: cancelled at %q: %w", j.What, brief(at), context.Cause(ctx))
}

// brief is enough of a command to know it by; the log has all of it.
func brief(command string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(command), "\n")
	if r := []rune(first); len(r) > 120 {
		first, rest = string(r[:120]), "more"
	}
	if rest != "" {
		first += " …"
	}
	return first
}

// pump carries output, and notes when there was some last.
type pump struct {
	mask  *mask
	heard atomic.Int64 // Unix time in nanoseconds
}

// run copies until the end of r or its deadline. It reads on when the output
// cannot be written, so that the job is not stuck on a full pipe, and returns the
// first error of that.
func (p *pump) run(r io.Reader) error {
	var failed error
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			p.heard.Store(time.Now().UnixNano())
			if failed == nil {
				_, failed = p.mask.Write(buf[:n])
			}
		}
		if err != nil {
			if failed == nil {
				failed = p.mask.flush()
			}
			return failed
		}
	}
}
