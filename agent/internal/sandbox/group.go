package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// group is a job that runs as a process group of the agent.
type group struct {
	job    Job
	cmd    *exec.Cmd
	out    *os.File
	status *os.File
	gone   chan struct{} // closed once the shell has exited; it is not reaped yet
	failed error         // of waiting for that; set before
	owner  *owner
}

// startGroup starts the job. What an agent before this one left of it is killed
// first: a process group cannot be gone on with.
func startGroup(j Job) (running, error) {
	fail := func(err error) (running, error) {
		return nil, fmt.Errorf("cannot start the %s in %s: %w", j.What, j.Dir, err)
	}
	killMarked(func(m string) bool { return m == j.Name })
	name, dynamic := j.user()
	if err := groupUser(name, dynamic); err != nil {
		return fail(err)
	}
	if dynamic {
		j = j.as("") // whoever is not root can be nobody else
	}
	o, err := hand(j)
	if err != nil {
		return fail(err)
	}
	rd, wr, err := os.Pipe()
	if err != nil {
		return fail(errors.Join(err, o.takeBack()))
	}
	defer wr.Close()
	srd, swr, err := os.Pipe()
	if err != nil {
		rd.Close()
		return fail(errors.Join(err, o.takeBack()))
	}
	defer swr.Close()

	argv := j.argv(o)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = j.Dir, append(append(j.environment(), j.secrets()...), Marker+"="+j.Name)
	cmd.Stdout, cmd.Stderr = wr, swr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: o.credential()}
	if err := startModest(cmd, j); err != nil {
		rd.Close()
		srd.Close()
		return fail(errors.Join(err, o.takeBack()))
	}
	g := &group{job: j, cmd: cmd, out: rd, status: srd, gone: make(chan struct{}), owner: o}
	go func() {
		g.failed = awaitExit(cmd.Process.Pid)
		close(g.gone)
	}()
	return g, nil
}

func (g *group) output() outputReader { return g.out }

func (g *group) exited() <-chan struct{} { return g.gone }

func (g *group) leave() bool { return false }

func (g *group) stop() {
	g.signal(syscall.SIGTERM)
	grace := time.AfterFunc(g.job.Grace, func() { g.signal(syscall.SIGKILL) })
	<-g.gone
	grace.Stop()
}

// signal goes to the whole group. The shell is not reaped before finish, so the
// group cannot belong to anybody else. ESRCH and EPERM leave nothing that could
// be done about it.
func (g *group) signal(sig syscall.Signal) { _ = syscall.Kill(-g.cmd.Process.Pid, sig) }

func (g *group) finish() (ending, error) {
	defer g.status.Close()
	g.signal(syscall.SIGKILL)
	killMarked(func(m string) bool { return m == g.job.Name })
	var end ending
	var exit *exec.ExitError
	if err := g.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return end, errors.Join(g.failed, err, g.owner.takeBack())
	}
	if ws := g.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		end.killed = "was ended by signal " + unix.SignalName(ws.Signal()) + " to the shell that ran it"
	}
	_ = g.status.SetReadDeadline(time.Now().Add(lingering))
	b, err := io.ReadAll(g.status)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return end, errors.Join(err, g.owner.takeBack())
	}
	end.statuses = statuses(b)
	return end, errors.Join(g.failed, g.owner.takeBack())
}

// groupUser tells whether jobs can run as the user in a process group: where
// there is no systemd, nobody makes the one that exists only meanwhile, and as root
// they shall run only where somebody says so.
func groupUser(name string, dynamic bool) error {
	if !dynamic || os.Getuid() != 0 {
		return nil
	}
	if name != dynamicUser {
		return fault.Errorf(api.ReasonSystemd, "there is no systemd that could make the user %s for it, whom the app runs as (DynamicUser=)", name)
	}
	return fault.Errorf(api.ReasonSystemd, "there is no systemd that could make a user for it, and it is not to run as root; %s", makeUser)
}

// makeUser is what to do for want of a user.
const makeUser = "make one (useradd --system --shell /usr/sbin/nologin lockstep-build), write build: {user: lockstep-build} in agent.yaml, and restart deploy-agent"

// startModest starts the command with what a thread hands down to its children:
// no way to more privileges, and the place behind everybody else. The thread is
// given up afterwards, since it cannot go back.
func startModest(cmd *exec.Cmd, j Job) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			started <- fmt.Errorf("it cannot be kept from gaining privileges: %w", err)
			return
		}
		if j.Background {
			yield()
		}
		started <- cmd.Start()
	}()
	return <-started
}

// Scheduling of a job in the background. Being idle, in the kernel's sense, it
// might never get on where a busy app leaves nothing over.
const (
	niceness        = 10
	batch           = 3 // SCHED_BATCH
	ioBestEffort    = 2
	ioLowest        = 7
	ioClassShift    = 13
	ioprioWhoThread = 1
)

// yield puts the calling thread behind others. It is no bound that anybody relies
// on, so where the kernel refuses it, the job runs without.
func yield() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: batch, Nice: niceness}, 0)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoThread, 0, ioBestEffort<<ioClassShift|ioLowest)
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
