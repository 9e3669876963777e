package digitaloceantest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody bounds a request.
const maxBody = 1 << 20

// guard does what comes before and after every call: faults, rations, tokens,
// the log, and validation.
func (c *Cloud) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		status := 0
		defer func() {
			c.mu.Lock()
			c.calls = append(c.calls, Call{r.Method, r.URL.Path, string(body), status, time.Now()})
			c.mu.Unlock()
			if status == 0 {
				panic(http.ErrAbortHandler) // closes the connection
			}
		}()
		f := c.befalls(r)
		switch {
		case f == nil:
		case f.Answer != nil && !f.Lose:
			status = f.Answer.write(w)
			return
		case f.Hang:
			select {
			case <-r.Context().Done():
			case <-c.closing:
			}
			return
		case f.Drop:
			return
		}
		answer := httptest.NewRecorder()
		if f != nil && f.Ignore {
			answer.WriteHeader(http.StatusNoContent)
		} else {
			c.admit(next).ServeHTTP(answer, r)
		}
		if f != nil && f.Lose {
			if f.Answer != nil {
				status = f.Answer.write(w)
			}
			return
		}
		if c.spec != nil {
			for _, v := range c.spec.validate(r, body, answer.Code, answer.Header(), answer.Body.Bytes()) {
				c.mu.Lock()
				c.violations = append(c.violations, fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, v))
				c.mu.Unlock()
			}
		}
		status = answer.Code
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(status)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// admit lets in who has a token and calls left.
func (c *Cloud) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		c.mu.Lock()
		full, known := token == c.opts.Token, token == c.opts.Token || token == c.opts.ReadOnly
		c.mu.Unlock()
		if token == "" || !known {
			refuse(w, http.StatusUnauthorized, "unauthorized", "Unable to authenticate you")
			return
		}
		left, reset, wait, over := c.ration(token, time.Now())
		h := w.Header()
		h.Set("ratelimit-limit", strconv.Itoa(c.opts.Hourly))
		h.Set("ratelimit-remaining", strconv.Itoa(left))
		h.Set("ratelimit-reset", strconv.FormatInt(reset.Unix(), 10))
		if over {
			if wait > 0 {
				h.Set("retry-after", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			}
			refuse(w, http.StatusTooManyRequests, "too_many_requests", "API Rate limit exceeded.")
			return
		}
		if !full && r.Method != http.MethodGet {
			refuse(w, http.StatusForbidden, "forbidden", "You are not authorized to perform this operation")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *Answer) write(w http.ResponseWriter) (status int) {
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.Status)
	_, _ = io.WriteString(w, a.Body)
	return a.Status
}

func refuse(w http.ResponseWriter, status int, id, message string) {
	Refuse(status, id, message).write(w)
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(b)
}

func (c *Cloud) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v2/load_balancers", c.locked(c.listBalancers))
	m.HandleFunc("GET /v2/load_balancers/{id}", c.locked(c.getBalancer))
	m.HandleFunc("PUT /v2/load_balancers/{id}", c.locked(c.putBalancer))
	m.HandleFunc("POST /v2/load_balancers/{id}/droplets", c.locked(c.editDroplets))
	m.HandleFunc("DELETE /v2/load_balancers/{id}/droplets", c.locked(c.editDroplets))
	m.HandleFunc("GET /v2/droplets", c.locked(c.listDroplets))
	m.HandleFunc("GET /v2/droplets/{id}", c.locked(c.getDroplet))
	m.HandleFunc("POST /v2/tags/{tag}/resources", c.locked(c.editTag))
	m.HandleFunc("DELETE /v2/tags/{tag}/resources", c.locked(c.editTag))
	m.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { notFound(w) })
	return m
}

func (c *Cloud) locked(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		h(w, r)
	}
}

func notFound(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, "not_found", "The resource you were accessing could not be found.")
}

func unprocessable(w http.ResponseWriter, message string) {
	refuse(w, http.StatusUnprocessableEntity, "unprocessable_entity", message)
}

// page cuts a list as the query asks, and answers with it.
func page(w http.ResponseWriter, r *http.Request, key string, all []any) {
	n, size := 1, 20
	if v, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil && v > 0 {
		n = v
	}
	if v, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && v > 0 && v <= 200 {
		size = v
	}
	from := min((n-1)*size, len(all))
	to := min(from+size, len(all))
	links := map[string]any{}
	if to < len(all) {
		last := (len(all) + size - 1) / size
		at := func(n int) string {
			q := r.URL.Query()
			q.Set("page", strconv.Itoa(n))
			return "http://" + r.Host + r.URL.Path + "?" + q.Encode()
		}
		links["pages"] = map[string]any{"next": at(n + 1), "last": at(last)}
	}
	answer(w, map[string]any{key: append([]any{}, all[from:to]...), "links": links, "meta": map[string]any{"total": len(all)}})
}

func (c *Cloud) listBalancers(w http.ResponseWriter, r *http.Request) {
	var all []any
	for _, id := range c.order {
		if b := c.balancers[id]; b != nil {
			all = append(all, b.show())
		}
	}
	page(w, r, "load_balancers", all)
}

func (c *Cloud) getBalancer(w http.ResponseWriter, r *http.Request) {
	b := c.balancers[r.PathValue("id")]
	if b == nil {
		notFound(w)
		return
	}
	answer(w, map[string]any{"load_balancer": b.show()})
}

// show is the balancer as the API has it.
func (b *balancer) show() map[string]any {
	b.settle(time.Now())
	s := b.spec
	rules := []any{}
	for _, r := range s.Rules {
		rules = append(rules, map[string]any{
			"entry_protocol": r.Protocol, "entry_port": r.Entry, "target_protocol": r.Protocol, "target_port": r.Target,
			"certificate_id": "", "tls_passthrough": false,
		})
	}
	out := map[string]any{
		"id": b.id, "name": s.Name, "ip": "127.0.0.1", "size": "lb-small", "size_unit": s.Nodes, "type": s.Type,
		"algorithm": "round_robin", "status": s.Status, "created_at": b.created.UTC().Format(time.RFC3339),
		"forwarding_rules": rules,
		"health_check": map[string]any{
			"protocol": s.Check.Protocol, "port": s.Check.Port, "path": s.Check.Path,
			"check_interval_seconds": s.Check.Interval, "response_timeout_seconds": s.Check.Timeout,
			"healthy_threshold": s.Check.Healthy, "unhealthy_threshold": s.Check.Unhealthy,
		},
		"sticky_sessions":        map[string]any{"type": "none"},
		"region":                 region(),
		"droplet_ids":            append([]int{}, b.listed()...),
		"redirect_http_to_https": false, "enable_proxy_protocol": false, "enable_backend_keepalive": s.KeepAlive,
		"vpc_uuid": "c33931f2-a26a-4e61-b85c-4e95a2ec431b", "http_idle_timeout_seconds": 60,
		"project_id": "9cc10173-e9ea-4176-9dbc-a4cee4c4ff30", "network": "EXTERNAL", "network_stack": "IPV4",
	}
	if s.Tag != "" {
		out["tag"] = s.Tag
	}
	return out
}

func region() map[string]any {
	return map[string]any{"name": "New York 3", "slug": "nyc3", "sizes": []any{"s-1vcpu-1gb"}, "features": []any{"private_networking"}, "available": true}
}

// ids is the body of a change of droplets.
type ids struct {
	DropletIDs *[]int `json:"droplet_ids"`
}

func (c *Cloud) editDroplets(w http.ResponseWriter, r *http.Request) {
	b := c.balancers[r.PathValue("id")]
	if b == nil {
		notFound(w)
		return
	}
	now := time.Now()
	b.settle(now)
	var in ids
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.DropletIDs == nil {
		unprocessable(w, "droplet_ids is required")
		return
	}
	if b.spec.Tag != "" {
		unprocessable(w, "Droplets can not be added to or removed from a load balancer that uses a tag")
		return
	}
	if now.Before(b.locked) {
		Busy().write(w)
		return
	}
	for _, id := range *in.DropletIDs {
		if c.droplets[id] == nil {
			unprocessable(w, fmt.Sprintf("Droplet %d does not exist or is not active", id))
			return
		}
	}
	add := r.Method == http.MethodPost
	b.change(now, func(members []int) []int {
		for _, id := range *in.DropletIDs {
			members = without(members, id)
			if add {
				members = append(members, id)
			}
		}
		slices.Sort(members)
		return members
	})
	w.WriteHeader(http.StatusNoContent)
}

// whole is the body of a PUT. What it leaves out is reset.
type whole struct {
	Name            string          `json:"name"`
	DropletIDs      []int           `json:"droplet_ids"`
	Tag             string          `json:"tag"`
	ForwardingRules json.RawMessage `json:"forwarding_rules"`
	HealthCheck     *struct {
		Protocol  string `json:"protocol"`
		Port      int    `json:"port"`
		Path      string `json:"path"`
		Interval  int    `json:"check_interval_seconds"`
		Timeout   int    `json:"response_timeout_seconds"`
		Healthy   int    `json:"healthy_threshold"`
		Unhealthy int    `json:"unhealthy_threshold"`
	} `json:"health_check"`
}

// putBalancer replaces all but the forwarding rules, which stay as they are.
func (c *Cloud) putBalancer(w http.ResponseWriter, r *http.Request) {
	b := c.balancers[r.PathValue("id")]
	if b == nil {
		notFound(w)
		return
	}
	var in whole
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.ForwardingRules) == 0 {
		unprocessable(w, "forwarding_rules is required")
		return
	}
	b.spec.Name, b.spec.Tag = in.Name, in.Tag
	b.spec.Check = Check{"http", 80, "/", 10, 5, 5, 3}
	if h := in.HealthCheck; h != nil {
		b.spec.Check = Check{h.Protocol, h.Port, h.Path, h.Interval, h.Timeout, h.Healthy, h.Unhealthy}
	}
	b.change(time.Now(), func([]int) []int { return slices.Clone(in.DropletIDs) })
	answer(w, map[string]any{"load_balancer": b.show()})
}

func (c *Cloud) listDroplets(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var all []any
	for _, id := range slices.Sorted(maps.Keys(c.droplets)) {
		d := c.droplets[id]
		if q.Has("name") && !strings.EqualFold(q.Get("name"), d.Name) || q.Has("tag_name") && !slices.Contains(d.Tags, q.Get("tag_name")) {
			continue
		}
		all = append(all, d.show())
	}
	page(w, r, "droplets", all)
}

func (c *Cloud) getDroplet(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || c.droplets[id] == nil {
		notFound(w)
		return
	}
	answer(w, map[string]any{"droplet": c.droplets[id].show()})
}

// show is the droplet as the API has it.
func (d *Droplet) show() map[string]any {
	const born = "2020-07-21T18:37:44Z"
	return map[string]any{
		"id": d.ID, "name": d.Name, "memory": 1024, "vcpus": 1, "disk": 25, "locked": false, "status": "active",
		"created_at": born, "features": []any{"private_networking"}, "backup_ids": []any{}, "next_backup_window": map[string]any{"start": born, "end": born},
		"snapshot_ids": []any{}, "volume_ids": []any{}, "size_slug": "s-1vcpu-1gb", "tags": append([]string{}, d.Tags...),
		"image": map[string]any{
			"id": 63663980, "name": "12 x64", "distribution": "Debian", "slug": "debian-12-x64", "public": true, "regions": []any{"nyc3"},
			"created_at": born, "type": "snapshot", "min_disk_size": 15, "size_gigabytes": 2.36, "description": "", "tags": []any{}, "status": "available",
		},
		"size": map[string]any{
			"slug": "s-1vcpu-1gb", "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1, "price_monthly": 5, "price_hourly": 0.00743999984115362,
			"regions": []any{"nyc3"}, "available": true, "description": "Basic",
		},
		"region": region(),
		"networks": map[string]any{
			"v4": []any{map[string]any{"ip_address": d.Address, "netmask": "255.0.0.0", "gateway": "127.0.0.1", "type": "private"}},
			"v6": []any{},
		},
		"vpc_uuid": "c33931f2-a26a-4e61-b85c-4e95a2ec431b",
	}
}

func (c *Cloud) editTag(w http.ResponseWriter, r *http.Request) {
	tag := r.PathValue("tag")
	var in struct {
		Resources []struct {
			ID   string `json:"resource_id"`
			Type string `json:"resource_type"`
		} `json:"resources"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Resources) == 0 {
		unprocessable(w, "resources is required")
		return
	}
	var found []*Droplet
	for _, res := range in.Resources {
		id, err := strconv.Atoi(res.ID)
		if err != nil || res.Type != "droplet" || c.droplets[id] == nil {
			notFound(w)
			return
		}
		found = append(found, c.droplets[id])
	}
	for _, d := range found {
		d.Tags = slices.DeleteFunc(slices.Clone(d.Tags), func(t string) bool { return t == tag })
		if r.Method == http.MethodPost {
			d.Tags = append(d.Tags, tag)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
