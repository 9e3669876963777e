package sandbox

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// script runs its arguments as commands, and writes the exit status of each on a
// line to standard error, which they do not get: theirs goes to standard output.
// It outlives a SIGTERM to all of them, for it then still has to tell how the
// command ended that it waits for. Its own exit status is 0 whatever they do: a
// unit that did not fail keeps what it printed for the agent to come.
const (
	script = `exec 3>&2 2>&1
stopped=
trap stopped=1 TERM
`
	// behind puts a job behind others where control groups do not. Each session is
	// a group of its own to the scheduler, and nice counts within it alone; of all who
	// are not root the kernel takes one change in 0.1 s. And the first to go when memory
	// runs out shall be the job.
	behind = `{ echo 500 > /proc/self/oom_score_adj
	n=0
	[ ! -e /proc/self/autogroup ] || until echo 10 > /proc/self/autogroup || [ $n = 20 ]; do
		n=$((n+1))
		sleep 0.1
	done
} 2>/dev/null
`
	loop = `for c do
	printf '$ %s\n' "$c"
	/bin/sh -c "$c" 3>&-
	s=$?
	echo "$s" >&3
	[ "$s$stopped" = 0 ] || exit 0
done
`
)

// only drops all variables whose names are not in the first argument, between
// blanks: a service manager adds its own.
const only = `for n in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
	case "$1" in *" $n "*) ;; *) unset "$n" ;; esac
done
shift
`

// argv is what runs the commands with the environment that it is given, and the
// limits that a process can have without a control group.
func (j Job) argv(o *owner) []string {
	return append([]string{"/bin/sh", "-c", j.place() + script + j.tasks(o) + loop, "sh"}, j.Commands...)
}

// tasks limits the processes of a user whom the agent is not: the number counts all
// of the user's, and there is none for root. Shells differ in what they call it. A
// limit of the address space is left out: it is none of memory, and much of what
// builds would not start within it.
func (j Job) tasks(o *owner) string {
	if !o.switched || j.Limits.Tasks == 0 {
		return ""
	}
	return fmt.Sprintf("ulimit -u %[1]d 2>/dev/null || ulimit -p %[1]d || exit 0\n", j.Limits.Tasks)
}

func (j Job) place() string {
	if j.Background {
		return behind
	}
	return ""
}

// argvOnly is what runs the commands with no more than their own environment.
func (j Job) argvOnly() []string {
	names := " PWD "
	if j.App != nil {
		names += "STATE_DIRECTORY "
	}
	for _, kv := range append(j.environment(), j.secrets()...) {
		name, _, _ := strings.Cut(kv, "=")
		names += name + " "
	}
	return append([]string{"/bin/sh", "-c", j.place() + script + only + loop, "sh", names}, j.Commands...)
}

// statuses reads what the script wrote, as far as it is whole.
func statuses(b []byte) []int {
	var all []int
	for line := range strings.Lines(string(b)) {
		s, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil || !strings.HasSuffix(line, "\n") {
			break
		}
		all = append(all, s)
	}
	return all
}

// describe says how a command ended that did not succeed. A shell tells signals
// as 128 and the number.
func describe(status int) string {
	how := fmt.Sprintf("failed with exit status %d", status)
	name := ""
	if status > 128 {
		name = unix.SignalName(syscall.Signal(status - 128))
	}
	if name != "" {
		how += ", which stands for signal " + name
	}
	if status == 128+int(syscall.SIGKILL) {
		how += " (not sent by the agent: the machine may be out of memory)"
	}
	return how
}

// full tells whether a job in dir failed for want of space or inodes, which says
// nothing about the release.
func full(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	const nothing = 1 << 20
	return st.Bavail*uint64(st.Bsize) < nothing || st.Files > 0 && st.Ffree == 0
}

// defaultPath is where programs are looked for when the agent itself has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is the whole environment but for the secrets.
func (j Job) environment() []string {
	var all []string
	set := map[string]bool{}
	for _, kv := range j.Env {
		name, _, _ := strings.Cut(kv, "=")
		set[name] = true
		if name != Marker {
			all = append(all, kv)
		}
	}
	fill := func(name, value string) {
		if !set[name] {
			all = append(all, name+"="+value)
		}
	}
	fill("PATH", cmp.Or(os.Getenv("PATH"), defaultPath))
	if j.Cache == "" {
		fill("HOME", home())
	} else {
		fill("HOME", j.Cache)
		fill("XDG_CACHE_HOME", j.Cache)
		fill("LOCKSTEP_CACHE", j.Cache)
	}
	return all
}

// secrets are the variables with the secrets, in a settled order.
func (j Job) secrets() []string {
	var all []string
	for k, v := range j.Secrets {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return all
}

// home is the home directory of the agent's user. A system service has no HOME in
// its environment.
func home() string {
	if dir := os.Getenv("HOME"); dir != "" {
		return dir
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir
	}
	return "/"
}
