package unit

import (
	"fmt"
	"strings"
	"syscall"
)

// The ways a process ends, as systemd reports them (siginfo(7), CLD_...).
const (
	ended  = 1
	killed = 2
	dumped = 3
)

// setup explains the exit statuses with which systemd itself gives up before it
// runs a program (systemd.exec(5), "Process Exit Codes").
var setup = map[int]string{
	200: "200/CHDIR: its WorkingDirectory= cannot be entered",
	203: "203/EXEC: its ExecStart= cannot be run; the program or its interpreter is missing, or not executable",
	209: "209/STDOUT: its StandardOutput= cannot be opened",
	216: "216/GROUP: its Group= does not exist",
	217: "217/USER: its User= does not exist",
	226: "226/NAMESPACE: its sandbox cannot be set up; does every path that its unit file names exist?",
	238: "238/STATE_DIRECTORY: its StateDirectory= cannot be made",
}

// why says in one sentence why a unit is not up.
func (s state) why() string {
	if s.ActiveState == "inactive" && s.InvocationID == "" && get[uint64](s.props, "ConditionTimestampMonotonic") == 0 {
		return s.forgotten()
	}
	for _, kind := range []string{"Condition", "Assert"} {
		unmet := conditions(s.props, kind+"s", func(state int32) bool { return state < 0 })
		if len(unmet) > 0 && !get[bool](s.props, kind+"Result") {
			return "systemd did not start it, since " + unmet[0] + " is not met"
		}
	}
	if c := s.troubled("ExecCondition", "ExecStartPre", "ExecStartPost"); c != "" {
		return c
	}
	switch s.Result {
	case "start-limit-hit":
		return fmt.Sprintf("it ended, was started again, and so on, until it hit its start limit (StartLimitBurst=%d within %s); at last %s",
			get[uint32](s.props, "StartLimitBurst"), microseconds(get[uint64](s.props, "StartLimitIntervalUSec")), s.exit())
	case "timeout":
		if s.ActiveState == "deactivating" || s.TimeoutStart == 0 {
			return "it did not stop in time"
		}
		return "it was not ready within TimeoutStartSec=" + s.TimeoutStart.String() + s.silent()
	case "watchdog":
		return "it did not feed its watchdog (WatchdogSec=) and was killed"
	case "oom-kill":
		return "it ran out of memory and was killed"
	case "protocol":
		return "it ended before it was ready" + s.silent()
	case "resources":
		return "systemd could not set it up (Result=resources); see systemctl status"
	}
	switch {
	case s.Up():
		return fmt.Sprintf("its start failed, though systemd has started it again since (%d restarts)", s.NRestarts)
	case s.SubState == "auto-restart":
		return s.exit() + ", and systemd is about to start it again"
	case s.ActiveState == "activating":
		return "it is not ready yet" + s.silent()
	case s.SubState == "exited":
		return "it is active (exited); expected a program that keeps running"
	case s.Result == "success" && s.ActiveState == "inactive":
		return s.exit() + "; expected a program that keeps running"
	}
	return s.exit()
}

// silent adds what a program of Type=notify may have left undone.
func (s state) silent() string {
	if strings.HasPrefix(get[string](s.props, "Type"), "notify") {
		return ": it never told systemd READY=1 (Type=notify)"
	}
	return ""
}

// exit says how the main process ended.
func (s state) exit() string {
	switch s.ExecMainCode {
	case ended:
		if text := setup[s.ExecMainStatus]; text != "" {
			return "it could not be started (" + text + ")"
		}
		return fmt.Sprintf("it exited with status %d", s.ExecMainStatus)
	case killed, dumped:
		how := "was killed by"
		if s.ExecMainCode == dumped {
			how = "dumped core on"
		}
		sig := syscall.Signal(s.ExecMainStatus)
		return fmt.Sprintf("it %s signal %d (%s)", how, s.ExecMainStatus, sig)
	}
	return fmt.Sprintf("it is %s (%s), Result=%s", s.ActiveState, s.SubState, s.Result)
}

// forgotten is the reason of a unit that systemd has dropped from memory, and
// with it how the last start went. It does so with a unit that is inactive
// without having failed, unless another one, such as multi-user.target, wants it.
func (s state) forgotten() string {
	why := "it is inactive, and systemd keeps no record of why; either it ended without an error, or it was not started"
	all := conditions(s.props, "Conditions", func(int32) bool { return true })
	all = append(all, conditions(s.props, "Asserts", func(int32) bool { return true })...)
	if len(all) > 0 {
		why += " since one of its conditions is not met: " + strings.Join(all, ", ")
	}
	return why
}

// conditions lists the conditions in a certain state (above 0: met, below: not
// met, 0: not looked at), as a unit file writes them.
func conditions(props map[string]any, name string, in func(int32) bool) []string {
	var list []string
	for _, c := range get[[][]any](props, name) {
		// type, triggering, negated, parameter, state
		if len(c) != 5 {
			continue
		}
		kind, _ := c[0].(string)
		trigger, _ := c[1].(bool)
		negated, _ := c[2].(bool)
		value, _ := c[3].(string)
		if st, _ := c[4].(int32); !in(st) {
			continue
		}
		mark := ""
		if trigger {
			mark = "|"
		}
		if negated {
			mark += "!"
		}
		list = append(list, kind+"="+mark+value)
	}
	return list
}
