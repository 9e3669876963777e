package unit

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Transient is a unit without a file, which runs a program once.
type Transient struct {
	Name    string // "something.service"
	Argv    []string
	Dir     string
	Env     []string // anybody on the machine can read it
	EnvFile string   // more of it, one NAME="value" a line; systemd reads it as the program starts; "" for none
	// Stdout and Stderr are the program's, and stay open as long as the unit is
	// there, also when the caller has closed them or ended. The program has no input.
	Stdout, Stderr *os.File

	// User is whom it runs as, "" for systemd's own. With Dynamic there need not be
	// one of this name, and the directories in Owned are made that user's first.
	User    string
	Group   string   // "" for User's own
	Groups  []string // more of them
	Dynamic bool
	Owned   []string

	// State are directories as StateDirectory= has them, which are made if need be.
	State     []string
	StateMode uint32

	// Confined has it see the system read-only but for Writable, a /tmp of its own,
	// and nothing of Hidden.
	Confined bool
	Writable []string
	Open     []string // more of it, as far as it is there
	Hidden   []string

	Memory     int64 // bytes; 0, here and below, is no limit
	CPUWeight  int
	IOWeight   int
	Tasks      int
	Timeout    time.Duration // until it is ended; Result is then "timeout"
	Grace      time.Duration // between SIGTERM and SIGKILL
	Background bool          // yields to everything else
}

// StartTransient starts the unit, and returns once systemd has taken it. The unit
// is there, whatever becomes of the program, until [Manager.RemoveTransient], and
// a second one of its name is refused. What systemd runs is not "active" before
// it has ended.
//
// ended gets a value when the start is over, however it ended, as long as the
// connection holds: it spares waiting for the next look.
func (m *Manager) StartTransient(ctx context.Context, t Transient) (ended <-chan string, err error) {
	what := "start " + t.Name
	props, err := m.properties(t)
	if err != nil {
		return nil, fmt.Errorf("cannot %s: %w", what, err)
	}
	ch := make(chan string, 1) // the reader of the connection must never wait for us
	// Asked only once: a second time might meet the unit of the first.
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := m.connected(ctx)
	if err != nil {
		return nil, m.unanswered(what, err)
	}
	if _, err := l.StartTransientUnitContext(ctx, t.Name, "fail", props, ch); err != nil {
		if !answered(err) {
			m.drop(l)
			return nil, m.unanswered(what, err)
		}
		return nil, refused(what, err)
	}
	return ch, nil
}

// Denied tells whether systemd refused what a user may not do.
func Denied(err error) bool {
	switch name(err) {
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return true
	}
	return false
}

// Transients returns the names of the units that match a glob pattern and that
// [Manager.RemoveTransient] has not removed, running or not.
func (m *Manager) Transients(ctx context.Context, pattern string) ([]string, error) {
	var names []string
	err := m.call(ctx, "list the units "+pattern, func(ctx context.Context, c *sd.Conn) error {
		units, err := c.ListUnitsByPatternsContext(ctx, []string{}, []string{pattern})
		names = nil
		for _, u := range units {
			// One that is only remembered, because something mentions it, was never
			// started.
			if u.LoadState == "loaded" {
				names = append(names, u.Name)
			}
		}
		return err
	})
	return names, err
}

// StopTransient asks the unit's processes to end, with SIGTERM and after its grace
// with SIGKILL, and returns when they have, or ctx is done. One that is not there
// is no error.
func (m *Manager) StopTransient(ctx context.Context, unit string) error {
	err := m.Stop(ctx, unit)
	if fault.ReasonOf(err) == api.ReasonUnitMissing {
		return nil
	}
	return err
}

// RemoveTransient kills what is left of the unit and makes systemd forget it. One
// that is not there is no error.
func (m *Manager) RemoveTransient(ctx context.Context, unit string) error {
	err := m.call(ctx, "kill what is left of "+unit, func(ctx context.Context, c *sd.Conn) error {
		err := c.KillUnitWithTarget(ctx, unit, sd.All, 9)
		if name(err) == noSuchUnit || noProcess(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := m.StopTransient(ctx, unit); err != nil {
		return err
	}
	return m.call(ctx, "forget "+unit, func(ctx context.Context, c *sd.Conn) error {
		err := c.ResetFailedUnitContext(ctx, unit)
		if name(err) == noSuchUnit {
			return nil
		}
		return err
	})
}

// noProcess is systemd's answer when there is nothing to kill.
func noProcess(err error) bool {
	n := name(err)
	return n == "org.freedesktop.systemd1.NoSuchProcess" || n == "System.Error.ESRCH"
}

// TransientState is how a transient unit stands.
type TransientState struct {
	Present bool // it was started and is not removed
	Ended   bool // its program has; what that left behind may run on
	Result  string
	Status  int // exit status of the program; -1 when it was killed or has not ended
	// Why says why it did not end well, "" when it did: then also Status is 0.
	Why string
	// Unset: systemd could not set up what the program was to run in, so that did
	// not begin; Why says what, and what to do.
	Unset bool
}

// Transient returns how a transient unit stands. One that is not there is no error.
func (m *Manager) Transient(ctx context.Context, unit string) (TransientState, error) {
	st, err := m.state(ctx, unit)
	if fault.ReasonOf(err) == api.ReasonUnitMissing {
		return TransientState{}, nil
	}
	if err != nil {
		return TransientState{}, err
	}
	t := TransientState{Present: true, Result: st.Result, Status: -1}
	switch st.ActiveState {
	case "active", "failed", "inactive":
		t.Ended = true
	default:
		return t, nil
	}
	if st.ExecMainCode == ended {
		t.Status = st.ExecMainStatus
	}
	if st.Result == "success" {
		return t, nil
	}
	t.Why = st.why()
	// The program begins with writing; a failure before it is one of ExecStartPre=
	// or of systemd's own, which has exit statuses from 200.
	t.Unset = st.troubled("ExecCondition", "ExecStartPre", "ExecStartPost") != "" || st.Result == "resources" || st.ExecMainCode == ended && setup[st.ExecMainStatus] != ""
	if t.Unset {
		t.Why += m.lastLines(ctx, st.InvocationID)
	}
	return t, nil
}

// command is a program with its arguments as systemd takes it, with flags.
type command struct {
	Path  string
	Argv  []string
	Flags []string
}

// literal keeps systemd from replacing variables.
func literal(argv []string) []string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return out
}

func (m *Manager) properties(t Transient) ([]sd.Property, error) {
	var props []sd.Property
	set := func(name string, v any) { props = append(props, sd.Property{Name: name, Value: dbus.MakeVariant(v)}) }

	set("Description", "Lockstep job "+strings.TrimSuffix(t.Name, path.Ext(t.Name)))
	// The unit of a oneshot that remains stays readable after its end, and a time
	// limit of its start is one of all of it.
	set("Type", "oneshot")
	set("RemainAfterExit", true)
	set("ExecStartEx", []command{{t.Argv[0], literal(t.Argv), []string{}}})
	set("WorkingDirectory", t.Dir)
	set("Environment", t.Env)
	if t.EnvFile != "" {
		set("EnvironmentFiles", []struct {
			Path     string
			Optional bool
		}{{t.EnvFile, false}})
	}
	set("StandardInput", "null")
	set("StandardOutputFileDescriptor", dbus.UnixFD(t.Stdout.Fd()))
	set("StandardErrorFileDescriptor", dbus.UnixFD(t.Stderr.Fd()))
	set("KillMode", "control-group")
	set("SendSIGKILL", true)
	set("OOMPolicy", "kill")
	set("UMask", uint32(0o022))
	set("NoNewPrivileges", true)

	m.setUser(t, set)
	if t.Confined {
		if err := m.confine(t, set); err != nil {
			return nil, err
		}
	}
	limit(t, set)
	return props, nil
}

// give makes the owner of the runtime directory, which systemd makes for the
// user of the unit, that of other directories as well. One that is so already
// is not gone through.
const give = `set -eu
u=$(stat -Lc %u "$RUNTIME_DIRECTORY")
for d do
	[ "$(stat -c %u "$d")" = "$u" ] || chown -hR --reference="$RUNTIME_DIRECTORY" -- "$d"
done
`

func (m *Manager) setUser(t Transient, set func(string, any)) {
	if len(t.State) > 0 {
		set("StateDirectory", t.State)
		set("StateDirectoryMode", t.StateMode)
	}
	if t.Group != "" {
		set("Group", t.Group)
	}
	if len(t.Groups) > 0 {
		set("SupplementaryGroups", t.Groups)
	}
	if t.User == "" {
		return
	}
	set("User", t.User)
	if !t.Dynamic {
		return
	}
	set("DynamicUser", true)
	set("RuntimeDirectory", []string{"lockstep-" + strings.TrimSuffix(t.Name, path.Ext(t.Name))})
	set("ExecStartPreEx", []command{{
		"/bin/sh", literal(append([]string{"/bin/sh", "-c", give, "sh"}, t.Owned...)), []string{"privileged"},
	}})
}

// confine restricts what the unit sees of the file system. A user's systemd can
// do so only within a user namespace of the unit's own; otherwise it leaves it
// out without a word.
func (m *Manager) confine(t Transient, set func(string, any)) error {
	set("ProtectSystem", "strict")
	set("PrivateTmp", true)
	set("PrivateDevices", true)
	if m.scope == User {
		set("PrivateUsers", true)
	}
	const recursive = 16384 // MS_REC
	var writable []string
	var binds []bind
	for i, dir := range slices.Concat(t.Writable, t.Open) {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil && i >= len(t.Writable) {
			continue
		}
		if err != nil {
			return err
		}
		// What is in /tmp is out of sight there unless it is mounted again.
		if strings.HasPrefix(real, "/tmp/") || strings.HasPrefix(real, "/var/tmp/") {
			binds = append(binds, bind{real, real, false, recursive})
		}
		writable = append(writable, real)
	}
	if len(binds) > 0 {
		set("BindPaths", binds)
	}
	set("ReadWritePaths", writable)
	hide(t.Hidden, writable, seen(t.Dir, writable), set)
	return nil
}

// seen mounts the directory where the unit starts, if it is out of sight in /tmp
// otherwise.
func seen(dir string, writable []string) []bind {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || (!strings.HasPrefix(real, "/tmp/") && !strings.HasPrefix(real, "/var/tmp/")) {
		return nil // systemd tells what is wrong with it
	}
	if slices.ContainsFunc(writable, func(w string) bool { return real == w || strings.HasPrefix(real, w+"/") }) {
		return nil
	}
	return []bind{{real, real, false, 0}}
}

// bind is a path that is seen in the place of another.
type bind struct {
	From, To string
	Optional bool
	Flags    uint64
}

// hide puts something empty in the place of each path that there is.
// InaccessiblePaths= would do it with more words, but a user's systemd takes what
// it puts there from its runtime directory, which may be in the /tmp that is
// hidden.
func hide(paths, writable []string, files []bind, set func(string, any)) {
	var dirs []struct{ Path, Options string }
	for _, p := range paths {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			continue // what is not there, or out of reach of the agent, need not be hidden
		}
		under := func(dir string) bool { return strings.HasPrefix(real, dir+"/") }
		if (under("/tmp") || under("/var/tmp")) && !slices.ContainsFunc(writable, under) {
			continue // it is hidden with all of /tmp
		}
		if fi, err := os.Stat(real); err == nil && fi.IsDir() {
			dirs = append(dirs, struct{ Path, Options string }{real, "ro,mode=700"})
		} else {
			files = append(files, bind{"/dev/null", real, false, 0})
		}
	}
	if len(files) > 0 {
		set("BindReadOnlyPaths", files)
	}
	if len(dirs) > 0 {
		set("TemporaryFileSystem", dirs)
	}
}

func limit(t Transient, set func(string, any)) {
	positive := func(name string, n uint64) {
		if n > 0 {
			set(name, n)
		}
	}
	positive("MemoryMax", uint64(t.Memory))
	positive("CPUWeight", uint64(t.CPUWeight))
	positive("IOWeight", uint64(t.IOWeight))
	positive("TasksMax", uint64(t.Tasks))
	timeout := uint64(t.Timeout.Microseconds())
	if t.Timeout <= 0 {
		timeout = 1<<64 - 1 // none, rather than systemd's default
	}
	set("TimeoutStartUSec", timeout)
	set("TimeoutStopUSec", uint64(max(t.Grace, time.Millisecond).Microseconds()))
	if t.Background {
		const batch, bestEffort = 3, 2 // SCHED_BATCH, IOPRIO_CLASS_BE
		set("Nice", int32(10))
		set("CPUSchedulingPolicy", int32(batch))
		set("IOSchedulingClass", int32(bestEffort))
		set("IOSchedulingPriority", int32(7))
		set("OOMScoreAdjust", int32(500))
	}
}
