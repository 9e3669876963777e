package nginx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// tick is the unit in which Linux gives the birth of a process.
const tick = 10 * time.Millisecond

// Titles that nginx gives its processes.
const (
	titleMaster   = "nginx: master process"
	titleWorker   = "nginx: worker process"
	titleQuitting = "nginx: worker process is shutting down"
)

// procfs reads Linux's /proc.
type procfs struct{ root string }

type process struct {
	pid, parent int
	born        uint64 // ticks since boot
	title       string
}

func (fs procfs) process(pid int) (process, error) {
	dir := filepath.Join(fs.root, strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	p := process{pid: pid}
	if p.parent, p.born, err = parseStat(string(stat)); err != nil {
		return process{}, fmt.Errorf("%s/stat: %w", dir, err)
	}
	title, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return process{}, err
	}
	p.title = strings.TrimRight(string(title), "\x00 ")
	return p, nil
}

// parseStat reads the fields that follow the program's name, which may itself
// hold anything.
func parseStat(stat string) (parent int, born uint64, err error) {
	const parentField, bornField = 1, 19 // counted from the state
	i := strings.LastIndexByte(stat, ')')
	f := strings.Fields(stat[i+1:])
	if i < 0 || len(f) <= bornField {
		return 0, 0, errors.New("not as Linux writes it")
	}
	if parent, err = strconv.Atoi(f[parentField]); err != nil {
		return 0, 0, err
	}
	born, err = strconv.ParseUint(f[bornField], 10, 64)
	return parent, born, err
}

// all lists every process that can be read; they come and go meanwhile.
func (fs procfs) all() ([]process, error) {
	entries, err := os.ReadDir(fs.root)
	if err != nil {
		return nil, err
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := fs.process(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// clock is one moment as both clocks have it: the one by which the kernel notes
// births, and the time of day, in which files bear their changes.
type clock struct {
	boot string        // see [instant]
	up   time.Duration // since boot
	wall time.Time
}

// now is the present moment of this boot.
func (fs procfs) now() (clock, error) {
	id, err := os.ReadFile(filepath.Join(fs.root, "sys/kernel/random/boot_id"))
	if err != nil {
		return clock{}, err
	}
	if len(id) < 8 {
		return clock{}, fmt.Errorf("the boot's id is %q", id)
	}
	c := clock{boot: string(id[:8])}
	// Between the two clocks the process may lose its turn to another.
	for range 20 {
		var before, after unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &before)
		c.wall = time.Now()
		if err := errors.Join(err, unix.ClockGettime(unix.CLOCK_BOOTTIME, &after)); err != nil {
			return clock{}, err
		}
		c.up = time.Duration(before.Nano())
		if time.Duration(after.Nano())-c.up < slack/4 {
			break
		}
	}
	return c, nil
}

func (c clock) instant() instant { return instant{c.boot, uint64(c.up / tick)} }

// slack is by how much less than a tick the clocks may be read apart.
const slack = 2 * time.Millisecond

// at is the first instant that is not before a time of day.
func (c clock) at(t time.Time) instant {
	up := max(0, c.up-c.wall.Sub(t.Round(0))-slack)
	return instant{c.boot, uint64((up + tick - 1) / tick)}
}

// time is the time of day of an instant of this boot.
func (c clock) time(at instant) time.Time {
	return c.wall.Round(0).Add(time.Duration(at.ticks)*tick - c.up)
}

// running is one look at nginx's processes.
type running struct {
	now     clock
	master  process
	workers []process // all generations
	newborn uint64    // the birth of the youngest process of nginx
}

// look finds nginx by its pid file.
func (p *provider) look(ctx context.Context, op string) (*running, error) {
	gone := func(text string, err error) error {
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Text: text, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, gone("", context.Cause(ctx))
	}
	text, err := os.ReadFile(p.cfg.PIDFile)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &lbclient.Error{Class: lbclient.ClassDenied, Op: op, Text: "nginx's pid file may not be read", Err: err}
	}
	if err != nil {
		return nil, gone("nginx does not run, or its pid directive names another file", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return nil, gone(fmt.Sprintf("the pid file %s holds %.20q", p.cfg.PIDFile, text), nil)
	}
	out := &running{}
	if out.now, err = p.proc.now(); err != nil {
		return nil, gone("the machine's uptime cannot be read", err)
	}
	if out.master, err = p.proc.process(pid); err != nil {
		return nil, gone(fmt.Sprintf("nginx does not run: %s names process %d", p.cfg.PIDFile, pid), err)
	}
	if !strings.HasPrefix(out.master.title, titleMaster) {
		return nil, gone(fmt.Sprintf("nginx does not run: %s names process %d, which is %.60q", p.cfg.PIDFile, pid, out.master.title), nil)
	}
	all, err := p.proc.all()
	if err != nil {
		return nil, gone("the processes cannot be listed", err)
	}
	out.adopt(all)
	return out, nil
}

// adopt finds the workers of the master and, when nginx's program was replaced
// in flight, those of its parent or child masters, which serve beside it.
func (r *running) adopt(all []process) {
	masters := map[int]bool{r.master.pid: true}
	for _, p := range all {
		if !strings.HasPrefix(p.title, titleMaster) {
			continue
		}
		if p.pid == r.master.parent || p.parent == r.master.pid {
			masters[p.pid] = true
		}
	}
	for _, p := range all {
		if !masters[p.pid] && !masters[p.parent] {
			continue
		}
		r.newborn = max(r.newborn, p.born)
		// A child that still bears its parent's title does not take connections yet.
		if masters[p.parent] && strings.HasPrefix(p.title, titleWorker) {
			r.workers = append(r.workers, p)
		}
	}
}

func (p process) quitting() bool { return strings.HasPrefix(p.title, titleQuitting) }

// since tells whether a process was born at or after an instant.
func (r *running) since(p process, at instant) bool {
	return at.boot != r.now.boot || p.born >= at.ticks
}

// old counts the workers born before an instant: those that take connections,
// and those that only finish what they have.
func (r *running) old(at instant) (taking, finishing int) {
	for _, w := range r.workers {
		switch {
		case r.since(w, at):
		case w.quitting():
			finishing++
		default:
			taking++
		}
	}
	return taking, finishing
}

// tookUp tells whether all workers that take connections were born at or after
// an instant, and so have read what was on disk then.
func (r *running) tookUp(at instant) bool {
	taking, _ := r.old(at)
	for _, w := range r.workers {
		if taking == 0 && !w.quitting() && r.since(w, at) {
			return true
		}
	}
	return false
}

// tookUpFile tells the same of a file that bears no mark, by the times of day.
// It can be wrong when the clock was set meanwhile.
func (r *running) tookUpFile(changed time.Time) bool { return r.tookUp(r.now.at(changed)) }

// moment returns an instant after the birth of every present process of nginx
// and not after that of any later one. A file that is changed now bears changed, the
// time of day of that instant: its own would fall between two births of which the
// kernel tells only the tick.
func (p *provider) moment(ctx context.Context, op string) (at instant, changed time.Time, err error) {
	for {
		r, err := p.look(ctx, op)
		if err != nil {
			return instant{}, time.Time{}, err
		}
		if at := r.now.instant(); r.newborn < at.ticks {
			return at, r.now.time(at), nil
		}
		if err := pause(ctx, op, tick); err != nil {
			return instant{}, time.Time{}, err
		}
	}
}

func pause(ctx context.Context, op string, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: context.Cause(ctx)}
	case <-t.C:
		return nil
	}
}
