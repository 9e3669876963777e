package haproxy

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// info is what "show info" says about the process that answered.
type info struct {
	version   string
	pid       int
	start     int64 // Unix seconds; 0 from versions that do not say
	uptime    int64 // seconds
	stopping  bool  // the process finishes its work and takes no more
	processes int   // that share the configuration, 1 since HAProxy 2.5
}

func parseInfo(text string) (info, error) {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if _, twice := fields[key]; ok && !twice {
			fields[key] = strings.TrimSpace(value)
		}
	}
	out := info{version: fields["Version"], processes: 1}
	var err error
	number := func(key string, must bool) int64 {
		value, ok := fields[key]
		if !ok && !must {
			return 0
		}
		n, perr := strconv.ParseInt(value, 10, 64)
		if (perr != nil || n < 0) && err == nil {
			err = fmt.Errorf(`"show info" has %s %q, want a number`, key, value)
		}
		return n
	}
	out.pid = int(number("Pid", true))
	out.uptime = number("Uptime_sec", true)
	out.start = number("Start_time_sec", false)
	out.stopping = number("Stopping", false) != 0
	if n := number("Nbproc", false); n > 0 {
		out.processes = int(n)
	}
	if err == nil && out.pid == 0 {
		err = errors.New(`"show info" has no Pid`)
	}
	return out, err
}

// table gives the fields of a row by the names of its columns, for columns are
// added and moved from one HAProxy version to the next.
type table struct {
	column map[string]int
	err    error // the first field that could not be read
}

func newTable(header, required []string) (*table, error) {
	t := &table{column: make(map[string]int, len(header))}
	for i, name := range header {
		if _, twice := t.column[name]; !twice {
			t.column[name] = i
		}
	}
	for _, name := range required {
		if _, ok := t.column[name]; !ok {
			return nil, fmt.Errorf("there is no column %s", name)
		}
	}
	return t, nil
}

func (t *table) text(row []string, name string) string {
	i, ok := t.column[name]
	if !ok || i >= len(row) {
		return ""
	}
	return row[i]
}

// number reads a field that must be one.
func (t *table) number(row []string, name string) int64 {
	n, err := strconv.ParseInt(t.text(row, name), 10, 64)
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("column %s has %q, want a number", name, t.text(row, name))
	}
	return n
}

// optional reads a field that may be missing or empty.
func (t *table) optional(row []string, name string) int64 {
	if t.text(row, name) == "" {
		return 0
	}
	return t.number(row, name)
}

// stateRow is a line of "show servers state".
type stateRow struct {
	backend    string // its number
	server     string
	admin      adminState
	op         opState
	weight     int64 // in use
	configured int64 // in the configuration
	result     int64 // of the last check
	checkState int64 // bits
}

// parseState reads "show servers state <backend>".
func parseState(text string) ([]stateRow, error) {
	version, rest, ok := strings.Cut(strings.TrimLeft(text, "\n"), "\n")
	if !ok || strings.TrimSpace(version) != "1" {
		return nil, fmt.Errorf(`"show servers state" has format %q, want 1`, firstLine(version))
	}
	header, rest, _ := strings.Cut(rest, "\n")
	names := strings.Fields(strings.TrimPrefix(header, "#"))
	t, err := newTable(names, []string{"be_id", "srv_name", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight",
		"srv_check_result", "srv_check_state"})
	if err != nil {
		return nil, fmt.Errorf(`"show servers state": %w`, err)
	}
	var out []stateRow
	for line := range strings.Lines(rest) {
		row := strings.Fields(line)
		if len(row) == 0 {
			continue
		}
		if len(row) < len(names) {
			return nil, fmt.Errorf(`"show servers state" has a row of %d fields, want %d`, len(row), len(names))
		}
		out = append(out, stateRow{
			backend:    t.text(row, "be_id"),
			server:     t.text(row, "srv_name"),
			admin:      adminState(t.number(row, "srv_admin_state")),
			op:         opState(t.number(row, "srv_op_state")),
			weight:     t.number(row, "srv_uweight"),
			configured: t.number(row, "srv_iweight"),
			result:     t.number(row, "srv_check_result"),
			checkState: t.number(row, "srv_check_state"),
		})
	}
	if t.err != nil {
		return nil, fmt.Errorf(`"show servers state": %w`, t.err)
	}
	return out, nil
}

// statRow is a server's line of "show stat".
type statRow struct {
	server             string
	current, queued    int64 // requests (TCP mode: connections) with the server, and waiting for it
	status             string
	checkStatus        string // "L7OK", "INI"; empty without a check
	tracked            string // "backend/server", empty if its state is its own
	backup             bool
	rise, fall, health int64 // all 0 without a check
}

// parseStat reads "show stat <backend> 4 -1", keeping the servers.
func parseStat(text string) ([]statRow, error) {
	r := csv.NewReader(strings.NewReader(strings.TrimLeft(text, "\n")))
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf(`"show stat" has no header: %w`, err)
	}
	header[0] = strings.TrimPrefix(header[0], "# ")
	t, err := newTable(header, []string{"pxname", "svname", "qcur", "scur", "status", "type", "tracked",
		"check_status", "check_rise", "check_fall", "check_health"})
	if err != nil {
		return nil, fmt.Errorf(`"show stat": %w`, err)
	}
	width := len(header)
	var out []statRow
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf(`"show stat": %w`, err)
		}
		if len(row) < width-1 { // each line ends with a comma, which some versions omit
			return nil, fmt.Errorf(`"show stat" has a row of %d fields, want %d`, len(row), width)
		}
		const typeServer = "2"
		if t.text(row, "type") != typeServer {
			continue
		}
		out = append(out, statRow{
			server:      t.text(row, "svname"),
			current:     t.number(row, "scur"),
			queued:      t.number(row, "qcur"),
			status:      t.text(row, "status"),
			checkStatus: t.text(row, "check_status"),
			tracked:     t.text(row, "tracked"),
			backup:      t.optional(row, "bck") != 0,
			rise:        t.optional(row, "check_rise"),
			fall:        t.optional(row, "check_fall"),
			health:      t.optional(row, "check_health"),
		})
	}
	if t.err != nil {
		return nil, fmt.Errorf(`"show stat": %w`, t.err)
	}
	return out, nil
}
