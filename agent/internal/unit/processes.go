package unit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Process is one process of a unit.
type Process struct {
	PID     int
	Started uint64   // when, in the kernel's ticks since boot: a higher one is younger
	Paths   []string // of its executable and its working directory, as of [Manager.Runs]
}

// Processes returns all processes of a unit, which are those of its control group,
// the main one first; none when it is down. One that ends meanwhile is left out.
func (m *Manager) Processes(ctx context.Context, unit string) ([]Process, error) {
	st, err := m.state(ctx, unit)
	if err != nil {
		return nil, err
	}
	group := get[string](st.props, "ControlGroup")
	if group == "" || group == "/" {
		return nil, nil
	}
	// The groups are not read from /sys/fs/cgroup, for where that shows which of
	// them differs from system to system.
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fault.Errorf(api.ReasonInternal, "cannot list the processes of %s: %w", unit, err)
	}
	var all []Process
	var hidden error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !within(pid, group) {
			continue
		}
		paths, err := looks(pid)
		if err != nil {
			if os.IsPermission(err) {
				hidden = err
			}
			continue
		}
		p := Process{PID: pid, Started: started(pid), Paths: paths}
		if forked(paths[0]) || !within(pid, group) {
			continue // systemd's own yet, or its number is another's by now
		}
		if pid == st.MainPID {
			all = append([]Process{p}, all...)
		} else {
			all = append(all, p)
		}
	}
	if len(all) == 0 && hidden != nil {
		return nil, fault.Errorf(api.ReasonInternal,
			"cannot see what the processes of %s run from: %w; the agent must be root or the user of the unit", unit, hidden)
	}
	return all, nil
}

// within tells whether a process is in a control group, or in one below it.
func within(pid int, group string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// hierarchy:controllers:path; systemd's own has none, or its name.
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if ok && (controllers == "" || controllers == "name=systemd") && (path == group || strings.HasPrefix(path, group+"/")) {
			return true
		}
	}
	return false
}

// started reads when a process started, 0 when it cannot.
func started(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the program's name in brackets, which may hold anything.
	_, after, _ := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	fields := strings.Fields(string(after))
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
