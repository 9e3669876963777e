package hetznertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxRequest bounds the body of a call.
const maxRequest = 1 << 20

// answer is what a call is answered with.
type answer struct {
	status int
	body   any
}

func refuse(status int, code, message string) answer {
	return answer{status, map[string]any{"error": map[string]any{"code": code, "message": message, "details": nil}}}
}

func created(a *action) answer {
	return answer{http.StatusCreated, map[string]any{"action": a.object()}}
}

func notFound(what string, id any) answer {
	return refuse(http.StatusNotFound, "not_found", fmt.Sprintf("%s with ID '%v' not found", what, id))
}

// ServeHTTP is the API, and under /metadata/ the metadata service of each
// server.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/metadata/"); ok {
		c.metadata(w, rest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	c.mu.Lock()
	c.advance()
	c.calls = append(c.calls, r.Method+" "+r.URL.Path)
	f := c.fault(r)
	c.mu.Unlock()
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		case <-c.ctx.Done():
		}
	}
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	status, out := c.carryOut(w.Header(), r, body, f)
	if f.Edit != nil {
		status, out = f.Edit(status, w.Header(), out)
	}
	if f.Lose {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(out)))
	w.WriteHeader(status)
	if f.Half {
		_, _ = w.Write(out[:len(out)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(out)
}

// carryOut does what is asked and checks both sides against the description.
func (c *Cloud) carryOut(header http.Header, r *http.Request, body []byte, f Fault) (int, []byte) {
	c.mu.Lock()
	a := c.admit(header, r, f)
	if a == nil {
		done := c.route(r, body, f)
		a = &done
	}
	out, err := json.Marshal(a.body)
	c.mu.Unlock()
	if err != nil {
		panic(err)
	}
	header.Set("Content-Type", "application/json")
	if c.oracle != nil {
		if err := c.oracle.check(r, body, a.status, header, out); err != nil && c.opt.OnViolation != nil {
			c.opt.OnViolation(err)
		}
	}
	return a.status, out
}

// admit refuses what does not get as far as the API's own work, else nil.
func (c *Cloud) admit(header http.Header, r *http.Request, f Fault) *answer {
	var out answer
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	readOnly := c.opt.ReadOnlyToken != "" && token == c.opt.ReadOnlyToken
	if c.revoked || token != c.opt.Token && !readOnly {
		out = refuse(http.StatusUnauthorized, "unauthorized", "unable to authenticate")
		return &out
	}
	left, ok := c.spend()
	header.Set("RateLimit-Limit", strconv.Itoa(c.opt.RateLimit))
	header.Set("RateLimit-Remaining", strconv.Itoa(left))
	full := time.Duration((float64(c.opt.RateLimit) - c.tokens) * float64(c.opt.Second))
	header.Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(full).Unix(), 10))
	switch {
	case !ok:
		out = refuse(http.StatusTooManyRequests, "rate_limit_exceeded", "limit of requests per hour reached")
	case f.Status != 0:
		if f.RetryAfter != "" {
			header.Set("Retry-After", f.RetryAfter)
		}
		out = refuse(f.Status, f.Code, f.Message)
	case readOnly && r.Method != http.MethodGet:
		out = refuse(http.StatusForbidden, "forbidden", "insufficient permissions for this request")
	default:
		return nil
	}
	return &out
}

// route finds what is asked. The path is split here, for the pattern of a
// ServeMux cannot tell /load_balancers/actions/7 from /load_balancers/7/actions.
func (c *Cloud) route(r *http.Request, body []byte, f Fault) answer {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		return refuse(http.StatusNotFound, "not_found", "the path begins with /v1/")
	}
	words := strings.Split(path, "/")
	query := r.URL.Query()
	is := func(method string, pattern ...string) bool {
		if r.Method != method || len(pattern) != len(words) {
			return false
		}
		for i, p := range pattern {
			if p != "*" && p != words[i] {
				return false
			}
		}
		return true
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(words[i], 10, 64); return n }
	switch {
	case is("GET", "actions"):
		return c.listActions(query, func(*action) bool { return true })
	case is("GET", "actions", "*"):
		return c.getAction(number(1))
	case is("GET", "load_balancers"):
		return c.listBalancers(query)
	case is("GET", "load_balancers", "actions"):
		return c.listActions(query, func(*action) bool { return true })
	case is("GET", "load_balancers", "actions", "*"):
		return c.getAction(number(2))
	case is("GET", "servers"):
		return c.listServers(query)
	case is("GET", "servers", "*"), is("PUT", "servers", "*"):
		return c.server(r.Method, number(1), body)
	case is("GET", "networks", "*") && number(1) == networkID:
		return answer{http.StatusOK, map[string]any{"network": networkObject()}}
	}
	if words[0] != "load_balancers" || len(words) < 2 {
		return refuse(http.StatusNotFound, "not_found", "not found")
	}
	b := c.balancers[number(1)]
	if b == nil {
		return notFound("load balancer", words[1])
	}
	switch {
	case is("GET", "load_balancers", "*"):
		return answer{http.StatusOK, map[string]any{"load_balancer": c.object(b)}}
	case is("PUT", "load_balancers", "*"):
		return c.updateBalancer(b, body)
	case is("GET", "load_balancers", "*", "actions"):
		return c.listActions(query, func(a *action) bool { return a.balancer == b.id })
	case is("GET", "load_balancers", "*", "actions", "*"):
		return c.getAction(number(3))
	case is("POST", "load_balancers", "*", "actions", "add_target"), is("POST", "load_balancers", "*", "actions", "remove_target"):
		var t targetRequest
		if a := decode(body, &t); a != nil {
			return *a
		}
		return c.change(b, words[3], t, f)
	}
	return refuse(http.StatusNotFound, "not_found", "not found")
}

func decode(body []byte, into any) *answer {
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(into); err != nil {
		a := refuse(http.StatusBadRequest, "json_error", err.Error())
		return &a
	}
	return nil
}

// targetRequest is the body of add_target and remove_target.
type targetRequest struct {
	Type   string `json:"type"`
	Server *struct {
		ID int64 `json:"id"`
	} `json:"server"`
	IP *struct {
		IP string `json:"ip"`
	} `json:"ip"`
	LabelSelector *struct {
		Selector string `json:"selector"`
	} `json:"label_selector"`
	UsePrivateIP bool `json:"use_private_ip"`
}

func (q targetRequest) target() (t Target, server int64, refused *answer) {
	switch {
	case q.Type == "server" && q.Server != nil:
		return Target{Server: q.Server.ID, UsePrivateIP: q.UsePrivateIP}, q.Server.ID, nil
	case q.Type == "ip" && q.IP != nil:
		if a, err := netip.ParseAddr(q.IP.IP); err == nil {
			return Target{IP: a.String()}, 0, nil
		}
	case q.Type == "label_selector" && q.LabelSelector != nil && q.LabelSelector.Selector != "":
		return Target{Selector: q.LabelSelector.Selector, UsePrivateIP: q.UsePrivateIP}, 0, nil
	}
	a := refuse(http.StatusUnprocessableEntity, "invalid_input", "invalid input in field 'type'")
	return Target{}, 0, &a
}

func (c *Cloud) updateBalancer(b *balancer, body []byte) answer {
	var q struct {
		Name   *string            `json:"name"`
		Labels *map[string]string `json:"labels"`
	}
	if a := decode(body, &q); a != nil {
		return *a
	}
	if q.Name != nil {
		b.name = *q.Name
	}
	if q.Labels != nil {
		b.labels = maps.Clone(*q.Labels)
	}
	return answer{http.StatusOK, map[string]any{"load_balancer": c.object(b)}}
}

// server answers for one server. A PUT replaces all labels.
func (c *Cloud) server(method string, id int64, body []byte) answer {
	s := c.servers[id]
	if s == nil {
		return notFound("server", id)
	}
	if method == http.MethodPut {
		var q struct {
			Name   *string            `json:"name"`
			Labels *map[string]string `json:"labels"`
		}
		if a := decode(body, &q); a != nil {
			return *a
		}
		if q.Name != nil {
			s.Name = *q.Name
		}
		if q.Labels != nil {
			s.Labels = maps.Clone(*q.Labels)
			c.rewire()
		}
	}
	return answer{http.StatusOK, map[string]any{"server": s.object(c.balancersOf(s))}}
}

// balancersOf are the balancers in which a server is a target.
func (c *Cloud) balancersOf(s *Server) []int64 {
	out := []int64{}
	for _, id := range slices.Sorted(maps.Keys(c.balancers)) {
		for _, t := range c.balancers[id].targets {
			if slices.ContainsFunc(c.spots(t), func(sp spot) bool { return sp.server == s.ID }) {
				out = append(out, id)
				break
			}
		}
	}
	return out
}

func (c *Cloud) metadata(w http.ResponseWriter, rest string) {
	server, path, _ := strings.Cut(rest, "/")
	id, err := strconv.ParseInt(server, 10, 64)
	c.mu.Lock()
	s := c.servers[id]
	c.mu.Unlock()
	switch {
	case err != nil || s == nil:
		w.WriteHeader(http.StatusNotFound)
	case path == "instance-id":
		fmt.Fprint(w, s.ID)
	case path == "hostname":
		fmt.Fprint(w, s.Name)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}
