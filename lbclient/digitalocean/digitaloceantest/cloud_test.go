package digitaloceantest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const second = 20 * time.Millisecond

func start(t *testing.T, o Options) *Cloud {
	t.Helper()
	if dir := os.Getenv("LOCKSTEP_API_SPECS"); dir != "" && o.Spec == "" {
		o.Spec = filepath.Join(dir, "digitalocean-load-balancers.openapi.json")
	}
	if o.Second == 0 {
		o.Second = second
	}
	c, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// app is a droplet's service that says its name and can be sick.
type app struct {
	*httptest.Server
	sick atomic.Bool
}

func (c *Cloud) add(t *testing.T, id int, handler http.HandlerFunc) *app {
	a := &app{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz" && a.sick.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path != "/healthz" && handler != nil:
			handler(w, r)
		default:
			fmt.Fprint(w, id)
		}
	}))
	t.Cleanup(a.Server.Close)
	c.AddDroplet(Droplet{ID: id, Name: fmt.Sprintf("web%d", id), Address: fmt.Sprintf("127.10.1.%d", id),
		Ports: map[int]string{80: strings.TrimPrefix(a.URL, "http://")}, Tags: []string{"web"}})
	return a
}

func balancerOf(droplets ...int) Balancer {
	return Balancer{
		Name: "front", Droplets: droplets,
		Check: Check{Protocol: "http", Port: 80, Path: "/healthz", Interval: 1, Timeout: 15, Healthy: 3, Unhealthy: 2},
		Rules: []Rule{{Protocol: "http", Entry: 80, Target: 80}, {Protocol: "tcp", Entry: 81, Target: 80}},
	}
}

func (c *Cloud) balancer(t *testing.T, b Balancer) string {
	t.Helper()
	id, err := c.AddBalancer(b)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *Cloud) call(t *testing.T, token, method, path, body string) (int, http.Header, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 {
		if err := json.NewDecoder(bytes.NewReader(b)).Decode(&out); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
	}
	return resp.StatusCode, resp.Header, out
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestBalancesWhoIsHealthy(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	one, two := c.add(t, 1, nil), c.add(t, 2, nil)
	two.sick.Store(true)
	lb := c.balancer(t, balancerOf(1, 2))
	url := "http://" + c.Entry(lb, 80) + "/"
	if status, _ := get(t, url); status != http.StatusServiceUnavailable {
		t.Errorf("before any check has passed: status %d", status)
	}
	await(t, "the first is healthy", func() bool { return c.Healthy(lb, 1) })
	for range 5 {
		if status, who := get(t, url); status != 200 || who != "1" {
			t.Errorf("status %d from %s", status, who)
		}
	}
	two.sick.Store(false)
	await(t, "the second is healthy", func() bool { return c.Healthy(lb, 2) })
	seen := map[string]int{}
	for range 6 {
		_, who := get(t, url)
		seen[who]++
	}
	if seen["1"] != 3 || seen["2"] != 3 {
		t.Errorf("not in turn: %v", seen)
	}
	one.sick.Store(true)
	await(t, "the first is down", func() bool { return !c.Healthy(lb, 1) })
	conn, err := net.Dial("tcp", c.Entry(lb, 81))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "2" {
		t.Errorf("through TCP: %q", b)
	}
}

func TestThresholds(t *testing.T) {
	h := &health{}
	check := Check{Healthy: 3, Unhealthy: 2}
	for i, step := range []struct{ ok, up bool }{
		{true, false}, {true, false}, {false, false}, {true, false}, {true, false}, {true, true},
		{false, true}, {true, true}, {false, true}, {false, false}, {true, false},
	} {
		if h.note(step.ok, check); h.up != step.up {
			t.Errorf("after look %d: up %t, want %t", i+1, h.up, step.up)
		}
	}
}

func TestAcceptedIsNotMade(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Apply: 10 * second, Lag: 10 * second})
	c.add(t, 1, nil)
	c.add(t, 2, nil)
	lb := c.balancer(t, balancerOf(1, 2))
	await(t, "both are healthy", func() bool { return c.Healthy(lb, 1) && c.Healthy(lb, 2) })
	path := "/v2/load_balancers/" + lb + "/droplets"
	if status, _, _ := c.call(t, "token", "DELETE", path, `{"droplet_ids":[1]}`); status != 204 {
		t.Errorf("status %d", status)
	}
	if m := c.Members(lb); !slices.Equal(m, []int{1, 2}) {
		t.Errorf("made at once: %v", m)
	}
	status, _, out := c.call(t, "token", "POST", path, `{"droplet_ids":[1]}`)
	if status != 403 || out["id"] != "forbidden" || !strings.Contains(fmt.Sprint(out["message"]), "processes previous actions") {
		t.Errorf("while it changes: status %d, %v", status, out)
	}
	await(t, "the list shows it", func() bool { return slices.Equal(c.Members(lb), []int{2}) })
	if !c.Healthy(lb, 1) {
		t.Error("the machines did not lag behind")
	}
	await(t, "the machines follow", func() bool { return !c.Healthy(lb, 1) })
	for body, want := range map[string]int{`{}`: 422, `{"droplet_ids":[99]}`: 422, `{"droplet_ids":[2]}`: 204} {
		if status, _, _ := c.call(t, "token", "POST", path, body); status != want {
			t.Errorf("%s: status %d, want %d", body, status, want)
		}
		await(t, "it takes changes again", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return time.Now().After(c.balancers[lb].locked)
		})
	}
	if v := c.Violations(); len(v) > 0 {
		t.Errorf("not as the API is described: %q", v)
	}
}

func TestRemovalCutsIfTold(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		c := start(t, Options{CutOnRemove: cut})
		arrived, finish := make(chan struct{}), make(chan struct{})
		c.add(t, 1, func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			select {
			case <-finish:
				fmt.Fprint(w, "done")
			case <-r.Context().Done():
			}
		})
		lb := c.balancer(t, balancerOf(1))
		await(t, "it is healthy", func() bool { return c.Healthy(lb, 1) })
		ended := make(chan string, 1)
		go func() {
			resp, err := http.Get("http://" + c.Entry(lb, 80) + "/slow")
			if err != nil {
				ended <- "cut"
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			ended <- string(b)
		}()
		<-arrived
		c.call(t, "token", "DELETE", "/v2/load_balancers/"+lb+"/droplets", `{"droplet_ids":[1]}`)
		if !cut {
			close(finish)
		}
		if got := <-ended; (got == "done") == cut {
			t.Errorf("cut on removal %t: the request ended with %q", cut, got)
		}
	}
}

// TestPutResets has the trap of which a provider must keep clear.
func TestPutResets(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	c.add(t, 1, nil)
	lb := c.balancer(t, balancerOf(1))
	status, _, out := c.call(t, "token", "PUT", "/v2/load_balancers/"+lb,
		`{"name":"front","region":"nyc3","forwarding_rules":[{"entry_protocol":"http","entry_port":80,"target_protocol":"http","target_port":80}]}`)
	if status != 200 {
		t.Fatalf("status %d: %v", status, out)
	}
	shown := out["load_balancer"].(map[string]any)
	if ids := shown["droplet_ids"].([]any); len(ids) != 0 || shown["health_check"].(map[string]any)["path"] != "/" {
		t.Errorf("what was not named is still there: %v", shown)
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	c.add(t, 1, nil)
	c.add(t, 2, nil)
	b := balancerOf()
	b.Tag = "web"
	lb := c.balancer(t, b)
	if m := c.Members(lb); !slices.Equal(m, []int{1, 2}) {
		t.Errorf("the members are %v", m)
	}
	if status, _, _ := c.call(t, "token", "DELETE", "/v2/load_balancers/"+lb+"/droplets", `{"droplet_ids":[1]}`); status != 422 {
		t.Errorf("status %d", status)
	}
	body := `{"resources":[{"resource_id":"1","resource_type":"droplet"}]}`
	if status, _, _ := c.call(t, "token", "DELETE", "/v2/tags/web/resources", body); status != 204 || !slices.Equal(c.Members(lb), []int{2}) {
		t.Errorf("status %d, members %v", status, c.Members(lb))
	}
	if status, _, _ := c.call(t, "token", "POST", "/v2/tags/web/resources", body); status != 204 || len(c.Members(lb)) != 2 {
		t.Errorf("status %d, members %v", status, c.Members(lb))
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	for id := range 25 {
		c.AddDroplet(Droplet{ID: 1 + id, Name: fmt.Sprintf("web%d", 1+id), Address: "127.0.0.1"})
	}
	c.balancer(t, balancerOf(1))
	_, _, out := c.call(t, "token", "GET", "/v2/droplets", "")
	if n := len(out["droplets"].([]any)); n != 20 || out["links"].(map[string]any)["pages"] == nil {
		t.Errorf("%d droplets and %v", n, out["links"])
	}
	_, _, out = c.call(t, "token", "GET", "/v2/droplets?page=2&per_page=20", "")
	if n := len(out["droplets"].([]any)); n != 5 {
		t.Errorf("%d droplets on the second page", n)
	}
	_, _, out = c.call(t, "token", "GET", "/v2/droplets?name=WEB7", "")
	if n := len(out["droplets"].([]any)); n != 1 {
		t.Errorf("%d droplets of one name", n)
	}
	_, _, out = c.call(t, "token", "GET", "/v2/load_balancers", "")
	if n := len(out["load_balancers"].([]any)); n != 1 {
		t.Errorf("%d load balancers", n)
	}
	for _, path := range []string{"/v2/droplets/99", "/v2/load_balancers/none", "/v2/nothing"} {
		if status, _, out := c.call(t, "token", "GET", path, ""); status != 404 || out["id"] != "not_found" {
			t.Errorf("%s: status %d, %v", path, status, out)
		}
	}
	if v := c.Violations(); len(v) > 0 {
		t.Errorf("not as the API is described: %q", v)
	}
}

func TestRations(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Burst: 3, Hourly: 4, ReadOnly: "reader", Second: 5 * time.Millisecond})
	statuses := func(n int) (out []int, last http.Header) {
		for range n {
			status, h, _ := c.call(t, "token", "GET", "/v2/load_balancers", "")
			out, last = append(out, status), h
		}
		return out, last
	}
	got, h := statuses(4)
	if !slices.Equal(got, []int{200, 200, 200, 429}) || h.Get("Retry-After") != "1" || h.Get("Ratelimit-Remaining") != "1" {
		t.Errorf("%v, then %v", got, h)
	}
	if status, _, _ := c.call(t, "reader", "GET", "/v2/load_balancers", ""); status != 200 {
		t.Errorf("another token: status %d", status)
	}
	await(t, "the burst is over", func() bool { got, _ := statuses(1); return got[0] == 200 })
	time.Sleep(60 * c.Second()) // a minute, after which no burst limit can be the reason
	if got, h := statuses(1); got[0] != 429 || h.Get("Retry-After") != "" || h.Get("Ratelimit-Reset") == "" {
		t.Errorf("after the hour's calls: %v, %v", got, h)
	}
	if status, _, _ := c.call(t, "reader", "DELETE", "/v2/load_balancers/x/droplets", `{"droplet_ids":[1]}`); status != 403 {
		t.Errorf("a write with a token to read: status %d", status)
	}
	if status, _, out := c.call(t, "stranger", "GET", "/v2/load_balancers", ""); status != 401 || out["id"] != "unauthorized" {
		t.Errorf("a stranger: status %d, %v", status, out)
	}
}

// TestViolationsAreSeen sends what the description does not allow.
func TestViolationsAreSeen(t *testing.T) {
	t.Parallel()
	if os.Getenv("LOCKSTEP_API_SPECS") == "" {
		t.Skip("LOCKSTEP_API_SPECS does not name the published descriptions of the APIs")
	}
	c := start(t, Options{})
	c.add(t, 1, nil)
	b := balancerOf(1)
	lb := c.balancer(t, b)
	c.call(t, "token", "GET", "/v2/load_balancers/"+lb, "")
	if v := c.Violations(); len(v) > 0 {
		t.Fatalf("a right call: %q", v)
	}
	c.Change(lb, func(b *Balancer) { b.Status = "melting" })
	c.call(t, "token", "GET", "/v2/load_balancers/"+lb, "")
	c.call(t, "token", "POST", "/v2/tags/web/resources", `{"resources":[{"resource_id":"1","resource_type":"droplet"}],"x":1}`)
	if v := c.Violations(); len(v) != 1 || !strings.Contains(v[0], "status") {
		t.Errorf("got %q", v)
	}
}

// An answer to a POST is never cut, however soon it comes after the request.
func TestPostsAreAnsweredWhole(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	c.add(t, 1, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // what was lost is missed by the visitor
		_, _ = w.Write(b)
	})
	b := balancerOf(1)
	b.KeepAlive, b.Check.Timeout = true, 3000
	lb := c.balancer(t, b)
	await(t, "the droplet is healthy", func() bool { return c.Healthy(lb, 1) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 250 {
				sent := strings.Repeat("x", 1+i*997%20000)
				resp, err := http.Post("http://"+c.Entry(lb, 80)+"/echo", "text/plain", strings.NewReader(sent))
				if err != nil {
					t.Error(err)
					continue
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != sent {
					t.Errorf("of %d bytes %d came back: %v", len(sent), len(got), err)
				}
			}
		})
	}
	wg.Wait()
}
