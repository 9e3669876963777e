package caddy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// handler is one reverse_proxy handler as Caddy holds it.
type handler struct {
	id        string
	etag      string // of the handler as a whole
	upstreams []upstream
	failFor   time.Duration // how long a failure counts; 0 means never
	maxFails  int64         // how many take an upstream out
}

// upstream is one entry of the list, kept as it is written.
type upstream struct {
	raw     json.RawMessage
	address string // what is dialed, without the default network
}

// parseHandler reads a handler, or says why its upstreams cannot be changed.
func parseHandler(id string, a answer) (*handler, error) {
	var h struct {
		Handler   string            `json:"handler"`
		Upstreams []json.RawMessage `json:"upstreams"`
		Dynamic   json.RawMessage   `json:"dynamic_upstreams"`
		Health    struct {
			Passive struct {
				FailDuration json.RawMessage `json:"fail_duration"`
				MaxFails     int64           `json:"max_fails"`
			} `json:"passive"`
		} `json:"health_checks"`
	}
	if err := json.Unmarshal(a.body, &h); err != nil {
		return nil, err
	}
	if h.Handler != "reverse_proxy" {
		return nil, fmt.Errorf("it is no reverse_proxy handler but %q; put the @id on the handler itself", h.Handler)
	}
	if len(h.Dynamic) > 0 && string(h.Dynamic) != "null" {
		return nil, errors.New("its upstreams are dynamic, and so not Lockstep's to change")
	}
	if a.etag == "" {
		return nil, errors.New("it came without an ETag, without which nothing is changed; Caddy must be 2.6 or newer")
	}
	out := &handler{id: id, etag: a.etag, failFor: duration(h.Health.Passive.FailDuration), maxFails: max(1, h.Health.Passive.MaxFails)}
	for _, raw := range h.Upstreams {
		u, err := parseUpstream(raw)
		if err != nil {
			return nil, err
		}
		out.upstreams = append(out.upstreams, u)
	}
	return out, nil
}

// duration reads Caddy's: nanoseconds, or text. What cannot be read is 0.
func duration(raw json.RawMessage) time.Duration {
	var n int64
	if json.Unmarshal(raw, &n) == nil {
		return time.Duration(n)
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if d, err := time.ParseDuration(s); err == nil {
			return d
		}
	}
	return 0
}

func parseUpstream(raw json.RawMessage) (upstream, error) {
	var u struct {
		Dial string `json:"dial"`
	}
	if err := json.Unmarshal(raw, &u); err != nil || u.Dial == "" {
		return upstream{}, fmt.Errorf("the upstream %.100s dials nothing", raw)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return upstream{}, err
	}
	return upstream{raw: compact.Bytes(), address: address(u.Dial)}, nil
}

// address is a dial without the network that is meant anyway.
func address(dial string) string { return strings.TrimPrefix(dial, "tcp/") }

// fixed tells whether the upstream dials one address that is known beforehand.
func (u upstream) fixed() error {
	if strings.HasPrefix(u.address, "unix/") {
		return nil
	}
	if strings.ContainsAny(u.address, "{}") {
		return fmt.Errorf("%q holds a placeholder, so that nobody knows what it dials", u.address)
	}
	return checkHostPort(u.address)
}

// host is the address without its port.
func (u upstream) host() string {
	if i := strings.LastIndexByte(u.address, ':'); i >= 0 {
		return strings.Trim(u.address[:i], "[]")
	}
	return u.address
}

// resolve returns the address that a server's name means among the upstreams: it
// itself or, where no upstream has it, the only one of that host.
func (h *handler) resolve(server string) (string, error) {
	found := ""
	for _, u := range h.upstreams {
		switch {
		case u.address == server:
			return server, nil
		case u.host() != server || u.address == found:
		case found != "":
			return "", fmt.Errorf("%s means both %s and %s in handler %s; name one with its port", server, found, u.address, h.id)
		default:
			found = u.address
		}
	}
	return found, nil
}

// has counts the entries of an address.
func (h *handler) has(address string) int {
	n := 0
	for _, u := range h.upstreams {
		if u.address == address {
			n++
		}
	}
	return n
}

func (h *handler) addresses() []string {
	var out []string
	for _, u := range h.upstreams {
		out = append(out, u.address)
	}
	return out
}

// without is the list that lacks every entry of an address.
func (h *handler) without(address string) []upstream {
	var out []upstream
	for _, u := range h.upstreams {
		if u.address != address {
			out = append(out, u)
		}
	}
	return out
}

// with inserts the entries of a record, each behind the nearest of those that
// stood before it.
func (h *handler) with(was handlerRecord) ([]upstream, error) {
	out := h.upstreams
	for _, e := range was.Entries {
		u, err := parseUpstream(e.Upstream)
		if err != nil {
			return nil, err
		}
		at := 0
		for i := e.Index - 1; i >= 0 && at == 0; i-- {
			for j := len(out) - 1; j >= 0; j-- {
				if out[j].address == was.Order[i] {
					at = j + 1
					break
				}
			}
		}
		next := append([]upstream{}, out[:at]...)
		out = append(append(next, u), out[at:]...)
	}
	return out, nil
}

// list is what is sent to Caddy. It refuses the empty list, which Caddy would
// take, to answer 503 to everybody.
func list(upstreams []upstream) ([]byte, error) {
	if len(upstreams) == 0 {
		return nil, errors.New("no upstream would be left")
	}
	var raw []json.RawMessage
	for _, u := range upstreams {
		raw = append(raw, u.raw)
	}
	return json.Marshal(raw)
}

// dialed finds every reverse_proxy handler of a whole configuration that dials
// an address, by path, and by its @id where it has one.
func dialed(config any, target string, at string, found func(path, id string)) {
	switch v := config.(type) {
	case []any:
		for i, e := range v {
			dialed(e, target, fmt.Sprintf("%s/%d", at, i), found)
		}
	case map[string]any:
		if ups, ok := v["upstreams"].([]any); ok && v["handler"] == "reverse_proxy" {
			for _, u := range ups {
				m, _ := u.(map[string]any)
				if dial, _ := m["dial"].(string); address(dial) == target {
					id, _ := v["@id"].(string)
					found(at, id)
					break
				}
			}
		}
		for k, e := range v {
			dialed(e, target, at+"/"+k, found)
		}
	}
}
