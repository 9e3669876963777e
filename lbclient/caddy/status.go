package caddy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// status is what Caddy says of one address, over all its handlers.
type status struct {
	requests int64
	fails    int64
}

// parseStatuses reads /reverse_proxy/upstreams.
func parseStatuses(body []byte) (map[string]status, error) {
	var rows []struct {
		Address  *string `json:"address"`
		Requests *int64  `json:"num_requests"`
		Fails    int64   `json:"fails"`
	}
	if err := json.Unmarshal(body, &rows); err != nil {
		return nil, err
	}
	out := make(map[string]status)
	for _, r := range rows {
		if r.Address == nil || r.Requests == nil || *r.Requests < 0 {
			return nil, fmt.Errorf("a row lacks its address or num_requests")
		}
		s := out[address(*r.Address)]
		s.requests += *r.Requests
		s.fails += r.Fails
		out[address(*r.Address)] = s
	}
	return out, nil
}

// metrics is what Caddy's process says of itself.
type metrics struct {
	start   string          // of the process, in its own words; "" when unknown
	version [3]int          // zero when unknown
	healthy map[string]bool // by address; up to ten seconds old
}

var (
	gauge   = regexp.MustCompile(`^caddy_reverse_proxy_upstreams_healthy\{upstream="([^"\\]+)"\} ([01])$`)
	build   = regexp.MustCompile(`^go_build_info\{.*path="github\.com/caddyserver/caddy/v2".*version="v?([0-9]+)\.([0-9]+)\.([0-9]+)"`)
	started = regexp.MustCompile(`^process_start_time_seconds ([0-9.e+]+)$`)
)

// parseMetrics reads /metrics and passes over what it does not know.
func parseMetrics(body []byte) metrics {
	out := metrics{healthy: make(map[string]bool)}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if m := gauge.FindStringSubmatch(line); m != nil {
			out.healthy[address(m[1])] = m[2] == "1"
		} else if m := started.FindStringSubmatch(line); m != nil {
			out.start = m[1]
		} else if m := build.FindStringSubmatch(line); m != nil {
			for i := range out.version {
				n, err := strconv.Atoi(m[i+1])
				if err != nil {
					n = 0
				}
				out.version[i] = n
			}
		}
	}
	return out
}

// countsRemoved tells whether a Caddy of this version lists an upstream that was
// removed for as long as it has requests.
func (m metrics) countsRemoved() bool {
	first := [3]int{2, 11, 2}
	for i := range first {
		if m.version[i] != first[i] {
			return m.version[i] > first[i]
		}
	}
	return true
}
