package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	// execTimeout bounds the wait for a process that systemd has forked to
	// become the unit's program: a start of Type=simple does not wait for it.
	execTimeout = 2 * time.Second
	execPoll    = 10 * time.Millisecond
)

// Runs returns the main process of a unit, 0 and nothing when there is none, and
// the paths, with every link resolved, of the file that it executes and of its
// working directory. A path keeps its name when what it names was deleted.
//
// It is the proof of what runs: the kernel resolved the paths when the process
// started, so a link that was moved since does not deceive.
func (m *Manager) Runs(ctx context.Context, unit string) (pid int, paths []string, err error) {
	limit, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	for {
		before, err := m.state(ctx, unit)
		if err != nil {
			return 0, nil, err
		}
		if before.MainPID == 0 {
			return 0, nil, nil
		}
		paths, perr := looks(before.MainPID)
		after, err := m.state(ctx, unit)
		if err != nil {
			return 0, nil, err
		}
		// Only while the unit holds on to the process is its number no one else's.
		same := after.MainPID == before.MainPID && after.InvocationID == before.InvocationID
		if same && perr == nil && !forked(paths[0]) {
			return before.MainPID, paths, nil
		}
		if same && perr != nil && !errors.Is(perr, os.ErrNotExist) && !errors.Is(perr, syscall.ESRCH) {
			return before.MainPID, nil, fault.Errorf(api.ReasonInternal,
				"cannot see what process %d of %s runs from: %w; the agent must be root or the user of the unit", before.MainPID, unit, perr)
		}
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return 0, nil, fmt.Errorf("cannot see what %s runs from: %w", unit, context.Cause(ctx))
			}
			if perr != nil || !same {
				return 0, nil, nil // it ends as often as it is looked at
			}
			return before.MainPID, paths, nil
		case <-time.After(execPoll):
		}
	}
}

// looks reads where a process runs from.
func looks(pid int) ([]string, error) {
	var paths []string
	for _, name := range []string{"exe", "cwd"} {
		p, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return nil, err
		}
		paths = append(paths, undeleted(p))
	}
	return paths, nil
}

// undeleted drops what the kernel adds to the name of a deleted file, unless
// there is a file that is really called so.
func undeleted(p string) string {
	bare, cut := strings.CutSuffix(p, " (deleted)")
	if !cut {
		return p
	}
	if _, err := os.Lstat(p); err == nil {
		return p
	}
	return bare
}

// forked tells whether the file is systemd itself: a process that has yet to
// become the unit's program.
func forked(exe string) bool {
	base := filepath.Base(exe)
	return base == "systemd" || base == "systemd-executor"
}
