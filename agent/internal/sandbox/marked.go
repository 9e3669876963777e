package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// Marker is the environment variable that tells the processes of one job from
// all others: it holds the job's name. A daemon that a build started in a session
// of its own is no longer in the job's process group, but it still carries the
// marker.
const Marker = "LOCKSTEP_JOB"

// killMarked kills every process that carries the marker. Between being listed
// and being killed a process may fork, so it looks again until none is found;
// the bound is for processes that cannot be killed at once (in device sleep).
func killMarked(marker string) {
	const looks = 20
	for range looks {
		if killMarkedOnce(marker) == 0 {
			return
		}
	}
}

func killMarkedOnce(marker string) (killed int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if !carries(pid, marker) {
			continue
		}
		// The handle is taken before the second look, so the number cannot come to
		// mean another process in between.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if carries(pid, marker) && p.Kill() == nil {
			killed++
		}
		_ = p.Release()
	}
	return killed
}

// carries is false for processes of other users, whose environment is private,
// and for the dead, which have none.
func carries(pid int, marker string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	want := []byte(Marker + "=" + marker)
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(kv, want) {
			return true
		}
	}
	return false
}
