package haproxy

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// procfs finds, on this machine, the processes that a reload left behind.
// After a reload the admin socket belongs to the new process, which counts only
// its own requests, while the old one still finishes those that it had.
type procfs struct {
	root string // "/proc"
}

// former returns the HAProxy processes that were replaced by the process pid,
// or are in more, and still live. It is not visible when pid is no HAProxy that
// can be seen from here: another machine, a container, a hidden /proc.
func (f procfs) former(pid int, more []int) (alive []int, visible bool) {
	if !f.haproxy(pid) {
		return nil, false
	}
	queue := append(f.replaced(pid), more...)
	known := []int{pid}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		if slices.Contains(known, p) || !f.haproxy(p) || !f.before(p, pid) {
			continue
		}
		known = append(known, p)
		alive = append(alive, p)
		queue = append(queue, f.replaced(p)...)
	}
	slices.Sort(alive)
	return alive, true
}

// haproxy tells whether the process lives and is an HAProxy.
func (f procfs) haproxy(pid int) bool {
	name, state, _ := f.stat(pid)
	return strings.Contains(name, "haproxy") && state != "Z" && state != "X"
}

// before tells whether p started no later than q, so that a process number used
// again is not taken for the old process.
func (f procfs) before(p, q int) bool {
	_, _, a := f.stat(p)
	_, _, b := f.stat(q)
	return a <= b
}

func (f procfs) stat(pid int) (name, state string, start uint64) {
	text, err := os.ReadFile(filepath.Join(f.root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", "", 0
	}
	return parseProcStat(string(text))
}

// parseProcStat reads name, state and start (clock ticks since boot) from
// /proc/PID/stat. A name may itself hold spaces and parentheses.
func parseProcStat(text string) (name, state string, start uint64) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return "", "", 0
	}
	fields := strings.Fields(text[end+1:])
	const stateAt, startAt = 0, 19 // fields 3 and 22 of proc(5)
	if len(fields) <= startAt {
		return "", "", 0
	}
	start, err := strconv.ParseUint(fields[startAt], 10, 64)
	if err != nil {
		return "", "", 0
	}
	return text[open+1 : end], fields[stateAt], start
}

// replaced returns the processes that pid was told to replace.
func (f procfs) replaced(pid int) []int {
	line, err := os.ReadFile(filepath.Join(f.root, strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil
	}
	return parseReplaced(string(line))
}

// parseReplaced finds, in a command line as in /proc/PID/cmdline, the process
// numbers after -sf and -st, with which HAProxy is told whom to replace. A
// worker under a master carries its master's line.
func parseReplaced(cmdline string) []int {
	var out []int
	in := false
	for arg := range strings.SplitSeq(cmdline, "\x00") {
		if arg == "-sf" || arg == "-st" {
			in = true
			continue
		}
		pid, err := strconv.Atoi(arg)
		in = in && err == nil && pid > 0
		if in {
			out = append(out, pid)
		}
	}
	return out
}
