package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// What [api.Sandbox.With] may be.
const (
	withSystemd = "systemd"
	withGroup   = "process group"
)

// checkTimeout bounds a trial of the sandbox.
const checkTimeout = 30 * time.Second

// trial tells who it runs as and what the kernel has set for its control group.
// systemd accepts bounds also where no controller is there to hold them.
const trial = `echo "user $(id -un 2>/dev/null || id -u)"
tell() { [ ! -r "$2" ] || echo "$1 $(cat "$2")"; }
g=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
tell memory "$g/memory.max"
tell cpu "$g/cpu.weight"
tell io "$g/io.weight"
tell tasks "$g/pids.max"
g=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
tell memory "$g/memory.limit_in_bytes"
g=/sys/fs/cgroup/pids$(sed -n 's/^[0-9]*:pids://p' /proc/self/cgroup)
tell tasks "$g/pids.max"
`

// trialLimits are such that nobody would have set them otherwise.
var trialLimits = Limits{Memory: 77 << 20, CPUWeight: 23, IOWeight: 29, Tasks: 61, Timeout: checkTimeout}

// bounds are what the trial looks for, and what a report calls it.
var bounds = []struct{ key, value, name string }{
	{"memory", fmt.Sprint(trialLimits.Memory), "memory"},
	{"cpu", fmt.Sprint(trialLimits.CPUWeight), "CPU weight"},
	{"io", fmt.Sprint(trialLimits.IOWeight), "IO weight"},
	{"tasks", fmt.Sprint(trialLimits.Tasks), "tasks"},
}

const unconfined = "read-only system"

// Check runs something in the sandbox and returns how that went: what holds jobs
// of a user in, and which of their bounds do not hold.
func (s *Sandbox) Check(ctx context.Context, as string) api.Sandbox {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	units, why, err := s.asks(ctx)
	if err != nil {
		return api.Sandbox{With: withSystemd, Problem: err.Error()}
	}
	if !units {
		return s.group(why, as)
	}
	said, err := s.try(ctx, as)
	if fault.ReasonOf(err) == api.ReasonSystemd && !s.cfg.System && s.confines() {
		// A user's systemd may not be let to make the namespaces that it takes.
		s.loosen(true)
		if said, err = s.try(ctx, as); err != nil {
			s.loosen(false)
		}
	}
	if units, why, _ := s.asks(ctx); !units {
		return s.group(why, as) // it was denied
	}
	if err != nil {
		return api.Sandbox{With: withSystemd, Problem: err.Error()}
	}
	r := api.Sandbox{With: withSystemd}
	for line := range strings.Lines(said) {
		if name, ok := strings.CutPrefix(line, "user "); ok {
			r.User = strings.TrimSpace(name)
		}
	}
	for _, b := range bounds {
		held := slices.ContainsFunc(strings.Split(said, "\n"), func(line string) bool {
			f := strings.Fields(line)
			return len(f) > 1 && f[0] == b.key && f[len(f)-1] == b.value
		})
		if !held {
			r.Unenforced = append(r.Unenforced, b.name)
		}
	}
	if !s.confines() {
		r.Unenforced = append(r.Unenforced, unconfined)
	}
	return r
}

func (s *Sandbox) try(ctx context.Context, as string) (string, error) {
	dir, err := os.MkdirTemp("", "lockstep-trial")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	j := Job{
		Name: "trial." + rand.Text(), What: "trial of the sandbox", Reason: api.ReasonInternal, User: as,
		Commands: []string{trial}, Dir: dir, Writable: []string{dir}, Limits: trialLimits, Background: true, Grace: time.Second,
	}
	r, err := s.startService(ctx, j)
	if err != nil {
		s.deny(err)
		return "", err
	}
	var out bytes.Buffer
	err = j.follow(ctx, r, &out)
	return out.String(), err
}

func (s *Sandbox) loosen(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loose = yes
}

// group is what a process group holds: time, the end as a whole, and the tasks of a
// user whom the agent is not.
func (s *Sandbox) group(why, as string) api.Sandbox {
	r := api.Sandbox{With: withGroup, Why: why}
	name, dynamic := Job{User: as}.user()
	if err := groupUser(name, dynamic); err != nil {
		r.Problem = why + "; " + err.Error()
		return r
	}
	other := false
	if u, err := user.Current(); err == nil {
		r.User = u.Username
	}
	if as != "" && as != Dynamic && os.Getuid() == 0 {
		r.User = as
		switch u, err := user.Lookup(as); {
		case err != nil:
			r.Problem = fmt.Sprintf("%v; %s", err, makeUser)
		default:
			other = u.Uid != "0"
		}
	}
	for _, b := range bounds {
		if b.key != "tasks" || !other {
			r.Unenforced = append(r.Unenforced, b.name)
		}
	}
	r.Unenforced = append(r.Unenforced, unconfined)
	return r
}
