package unit

import (
	"fmt"
	"strings"
)

// line is one command of a unit beside its main process, and how its last run
// went.
type line struct {
	text       string // as the unit file has it: ExecStartPre=/bin/true
	ignored    bool   // its failure counts for nothing
	start, end uint64 // monotonic; 0 for not yet
	code       int    // CLD_EXITED and so on, 0 while it runs
	status     int
}

// commands are those of some settings of the unit's, in their order.
func (s state) commands(settings ...string) []line {
	var all []line
	for _, setting := range settings {
		for _, c := range get[[][]any](s.props, setting) {
			// path, argv, ignore failure, start and exit time (real, monotonic), pid, code, status
			if len(c) != 10 {
				continue
			}
			argv, _ := c[1].([]string)
			ignored, _ := c[2].(bool)
			start, _ := c[4].(uint64)
			end, _ := c[6].(uint64)
			code, _ := c[8].(int32)
			status, _ := c[9].(int32)
			all = append(all, line{setting + "=" + strings.Join(argv, " "), ignored, start, end, int(code), int(status)})
		}
	}
	return all
}

// troubled names the command that failed in the unit's last start, or that it
// hangs in; "" for none.
func (s state) troubled(settings ...string) string {
	// Its conditions are what systemd looks at before anything is run.
	began := get[uint64](s.props, "ConditionTimestampMonotonic")
	late := s.Result == "timeout" || s.ReloadResult == "timeout"
	for _, c := range s.commands(settings...) {
		switch {
		case c.start == 0 || c.start < began || c.ignored && c.code != 0:
		case c.code == ended && c.status == 0:
		case c.code != ended && late:
			return fmt.Sprintf("its %s did not end within TimeoutStartSec=%s", c.text, s.TimeoutStart)
		case c.code == 0 && c.end == 0:
			return fmt.Sprintf("its %s does not end", c.text)
		default:
			run := state{Status: Status{ExecMainCode: c.code, ExecMainStatus: c.status}}
			return fmt.Sprintf("its %s failed: %s", c.text, run.exit())
		}
	}
	return ""
}
