package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// Marker is the environment variable that tells the processes of a job without a
// unit from all others. A daemon that a build started in a session of its own is no
// longer in the job's process group, but it still carries the marker: the job's
// name.
const Marker = "LOCKSTEP_JOB"

// killMarked kills every process whose marker is of a kind. Between being listed
// and being killed a process may fork, so it looks again until none is found;
// the bound is for processes that cannot be killed at once (in device sleep).
func killMarked(is func(mark string) bool) {
	const looks = 20
	for range looks {
		if killMarkedOnce(is) == 0 {
			return
		}
	}
}

func killMarkedOnce(is func(string) bool) (killed int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if !carries(pid, is) {
			continue
		}
		// The handle is taken before the second look, so the number cannot come to
		// mean another process in between.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if carries(pid, is) && p.Kill() == nil {
			killed++
		}
		_ = p.Release()
	}
	return killed
}

// carries is false for processes of other users, whose environment is private,
// and for the dead, which have none.
func carries(pid int, is func(string) bool) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if mark, ok := bytes.CutPrefix(kv, []byte(Marker+"=")); ok && is(string(mark)) {
			return true
		}
	}
	return false
}
