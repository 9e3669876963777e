package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// What a job has in its directory.
const (
	outName    = "output" // a FIFO
	statusName = "status" // what the script writes of the commands
	envName    = "secrets"
)

const (
	unitPrefix = "lockstep-"
	// lookEvery is how often systemd is asked whether a job has ended that an agent
	// before this one started.
	lookEvery = 250 * time.Millisecond
	// systemdTimeout bounds what systemd is asked once a job is over, beyond the
	// job's own grace.
	systemdTimeout = time.Minute
)

// service is a job that runs in a transient unit.
//
// Its output goes through a FIFO whose read end the unit holds as well. So the
// job outlives its agent: without one it goes on until the pipe is full, and then
// waits for the next agent, which finds there what the last one did not read. It
// can fill neither memory nor a disk.
type service struct {
	s    *Sandbox
	job  Job
	unit string
	dir  string
	out  *os.File
	keep *os.File // a write end; without it, out would end before the job begins
	gone chan struct{}
	// Set before gone is closed.
	state unit.TransientState

	owner *owner
	end   context.CancelFunc // of looking
}

func unitOf(name string) string { return unitPrefix + name + ".service" }

func (s *Sandbox) dirOf(name string) string { return filepath.Join(s.cfg.Dir, name) }

// startService starts the job as a unit, or goes on with the unit that there is.
func (s *Sandbox) startService(ctx context.Context, j Job) (running, error) {
	u := unitOf(j.Name)
	st, err := s.cfg.Units.Transient(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", j.What, err)
	}
	if st.Present {
		r, err := s.attach(j)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot go on with the %s in unit %s: %w", j.What, u, err)
		}
		// Half a start: its output cannot be had any more.
	}
	if err := s.clear(ctx, j.Name); err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", j.What, err)
	}
	r, err := s.launch(ctx, j)
	if err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", j.What, errors.Join(err, os.RemoveAll(s.dirOf(j.Name))))
	}
	return r, nil
}

// clear removes the unit and the directory of a job.
func (s *Sandbox) clear(ctx context.Context, name string) error {
	if err := s.cfg.Units.RemoveTransient(ctx, unitOf(name)); err != nil {
		return err
	}
	return os.RemoveAll(s.dirOf(name))
}

func (s *Sandbox) launch(ctx context.Context, j Job) (_ running, err error) {
	dir := s.dirOf(j.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fifo := filepath.Join(dir, outName)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, fmt.Errorf("cannot make the FIFO %s: %w", fifo, err)
	}
	// Programs open /dev/stderr anew, whoever they run as.
	if err := os.Chmod(fifo, 0o622); err != nil {
		return nil, err
	}
	status, err := os.OpenFile(filepath.Join(dir, statusName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer status.Close()
	t := unit.Transient{
		Name: unitOf(j.Name), Argv: j.argvOnly(), Dir: j.Dir, Env: j.environment(), Stderr: status,
		Confined: s.confines(), Hidden: s.cfg.Hidden,
		Memory: j.Limits.Memory, CPUWeight: j.Limits.CPUWeight, IOWeight: j.Limits.IOWeight, Tasks: j.Limits.Tasks,
		Timeout: j.Limits.Timeout, Grace: j.Grace, Background: j.Background,
	}
	if len(j.Secrets) > 0 {
		t.EnvFile = filepath.Join(dir, envName)
		if err := os.WriteFile(t.EnvFile, environmentFile(j.Secrets), 0o600); err != nil {
			return nil, err
		}
	}
	r, err := s.open(j)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
			if r.owner != nil {
				err = errors.Join(err, r.owner.takeBack())
			}
		}
	}()
	// Blocking, and with a read end of its own, or else the job would die of
	// writing while no agent is there.
	if t.Stdout, err = os.OpenFile(fifo, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	defer t.Stdout.Close()

	if r.owner, err = s.hand(j); err != nil {
		return nil, err
	}
	t.Writable, t.Open = r.owner.dirs(), j.Open
	if err := s.as(&t, r.owner); err != nil {
		return nil, err
	}
	ended, err := s.cfg.Units.StartTransient(ctx, t)
	if err != nil {
		return nil, err
	}
	r.watch(ended)
	return r, nil
}

// hand is [hand] for a unit: a user's own systemd runs nothing as anybody else.
func (s *Sandbox) hand(j Job) (*owner, error) {
	if !s.cfg.System {
		j = j.as("")
	}
	return hand(j)
}

// as says whom the unit runs as. Nothing said, it would be whom systemd runs as,
// which is more than an agent may be that is not root.
func (s *Sandbox) as(t *unit.Transient, o *owner) error {
	if app := o.job.App; app != nil {
		t.Open = slices.Concat(t.Open, app.Writable)
		if os.Getuid() == 0 || !s.cfg.System {
			t.State, t.StateMode = app.State, app.StateMode
		}
		if os.Getuid() == 0 && s.cfg.System {
			t.Group, t.Groups = app.Group, app.Groups
		}
	}
	name, dynamic := o.job.user()
	switch {
	case !s.cfg.System:
	case o.switched && dynamic:
		t.User, t.Dynamic, t.Owned = name, true, t.Writable
	case o.switched:
		t.User = name
	case o.uid != 0:
		u, err := user.Current()
		if err != nil {
			return err
		}
		t.User = u.Username
	}
	return nil
}

// attach goes on with a job that an agent before this one started.
func (s *Sandbox) attach(j Job) (running, error) {
	r, err := s.open(j)
	if err != nil {
		return nil, err
	}
	name, _ := j.user()
	r.owner = &owner{job: j, switched: s.cfg.System && os.Getuid() == 0 && name != ""}
	r.watch(nil)
	return r, nil
}

// open opens the job's output for reading.
func (s *Sandbox) open(j Job) (*service, error) {
	r := &service{s: s, job: j, unit: unitOf(j.Name), dir: s.dirOf(j.Name), gone: make(chan struct{})}
	fifo := filepath.Join(r.dir, outName)
	if _, err := os.Lstat(filepath.Join(r.dir, statusName)); err != nil {
		return nil, err
	}
	var err error
	if r.out, err = os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, err
	}
	if r.keep, err = os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		r.out.Close()
		return nil, err
	}
	return r, nil
}

func (r *service) close() error { return errors.Join(r.out.Close(), r.keep.Close()) }

// watch looks whether the unit has ended.
func (r *service) watch(ended <-chan string) {
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	go func() {
		defer close(r.gone)
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		for {
			select {
			case <-ended:
				ended = nil
			case <-look.C:
			case <-ctx.Done():
				return
			}
			st, err := r.s.cfg.Units.Transient(ctx, r.unit)
			if ctx.Err() != nil {
				return
			}
			// A systemd that is being restarted takes its units along.
			if err == nil && (st.Ended || !st.Present) {
				r.state = st
				return
			}
		}
	}()
}

func (r *service) output() outputReader { return r.out }

func (r *service) exited() <-chan struct{} { return r.gone }

func (r *service) leave() bool {
	r.end()
	<-r.gone
	r.keep.Close()
	return true
}

func (r *service) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), r.job.Grace+systemdTimeout)
	defer cancel()
	if err := r.s.cfg.Units.StopTransient(ctx, r.unit); err != nil {
		// It may run on, but nobody waits for it; what is left of it is told by finish.
		r.end()
	}
}

func (r *service) finish() (ending, error) {
	defer r.end()
	ctx, cancel := context.WithTimeout(context.Background(), r.job.Grace+systemdTimeout)
	defer cancel()
	b, err := os.ReadFile(filepath.Join(r.dir, statusName))
	if e := r.s.cfg.Units.RemoveTransient(ctx, r.unit); e != nil {
		return ending{}, errors.Join(err, e) // its processes may still write
	}
	r.keep.Close()
	err = errors.Join(err, r.owner.takeBack(), os.RemoveAll(r.dir))
	end := ending{statuses: statuses(b)}
	switch st := r.state; {
	case err != nil:
		return end, err
	case st.Unset:
		return end, fault.Errorf(api.ReasonSystemd, "systemd could not set up unit %s: %s", r.unit, st.Why)
	case !st.Present:
		end.killed = "was ended together with unit " + r.unit + " by somebody else"
	case st.Result == "timeout":
		end.timeout = true
	case st.Result == "oom-kill":
		end.killed = "was killed because it needs more than the memory that it may have" + r.job.memory()
	case st.Why != "":
		end.killed = "was ended with unit " + r.unit + ": " + st.Why
	}
	return end, nil
}

func (j Job) memory() string {
	if j.Limits.Memory == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d MiB: build_limits.memory)", j.Limits.Memory>>20)
}

// environmentFile writes variables as systemd reads them (systemd.exec(5),
// EnvironmentFile=).
func environmentFile(vars map[string]string) []byte {
	var b strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`)
	for k, v := range vars {
		fmt.Fprintf(&b, "%s=\"%s\"\n", k, quote.Replace(v))
	}
	return []byte(b.String())
}
