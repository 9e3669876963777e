package hetznertest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
)

const second = 10 * time.Millisecond

var check = hetznertest.Check{Path: "/", Interval: 4, Timeout: 60, Retries: 2}

// start starts a cloud whose answers are checked against the description where
// that is at hand.
func start(t *testing.T, o hetznertest.Options) *hetznertest.Cloud {
	t.Helper()
	if o.Second == 0 {
		o.Second = second
	}
	if o.ActionTime == 0 {
		o.ActionTime = 30 * time.Millisecond
	}
	o.Descriptions = os.Getenv("LOCKSTEP_API_SPECS")
	if o.Descriptions == "" {
		t.Log("LOCKSTEP_API_SPECS names no descriptions, so that answers are not checked against them")
	}
	if o.OnViolation == nil {
		o.OnViolation = func(err error) { t.Error(err) }
	}
	c, err := hetznertest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// app answers with its name.
func app(t *testing.T, name string) hetznertest.Backend {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, name)
	}))
	t.Cleanup(s.Close)
	return hetznertest.Backend{Ports: map[int]string{8080: strings.TrimPrefix(s.URL, "http://")}}
}

func balancer(t *testing.T, c *hetznertest.Cloud, targets ...hetznertest.Target) int64 {
	t.Helper()
	id, err := c.AddBalancer(hetznertest.Balancer{Name: "front", Targets: targets,
		Services: []hetznertest.Service{{ListenPort: 80, DestinationPort: 8080, Check: check}}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func client(c *hetznertest.Cloud) *hcloud.Client {
	return hcloud.NewClient(hcloud.WithEndpoint(c.Endpoint()), hcloud.WithToken(c.Token()),
		hcloud.WithRetryOpts(hcloud.RetryOpts{MaxRetries: 0}),
		hcloud.WithPollOpts(hcloud.PollOpts{BackoffFunc: hcloud.ConstantBackoff(5 * time.Millisecond)}))
}

// get sends a request on a connection of its own.
func get(t *testing.T, address, path string) (status int, body string) {
	t.Helper()
	h := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := h.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(b)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestTheVendorsClientIsContent goes through the cloud with hcloud-go as it
// comes, including its own way of waiting for actions.
func TestTheVendorsClientIsContent(t *testing.T) {
	c := start(t, hetznertest.Options{})
	h := client(c)
	var ids []int64
	for _, name := range []string{"w1", "w2", "w3"} {
		ids = append(ids, c.AddServer(hetznertest.Server{Name: name, Labels: map[string]string{"env": "prod"}, Backend: app(t, name), Private: true}))
	}
	c.AddAddress("198.51.100.7", app(t, "robot"))
	lbID := balancer(t, c, hetznertest.Target{Server: ids[0]})

	lb, _, err := h.LoadBalancer.Get(t.Context(), "front")
	if err != nil || lb == nil || lb.ID != lbID || len(lb.Services) != 1 || lb.Services[0].HealthCheck.HTTP.Path != "/" {
		t.Fatalf("balancer %+v, error %v", lb, err)
	}
	private := true
	var actions []*hcloud.Action
	for _, f := range []func() (*hcloud.Action, *hcloud.Response, error){
		func() (*hcloud.Action, *hcloud.Response, error) {
			return h.LoadBalancer.AddServerTarget(t.Context(), lb, hcloud.LoadBalancerAddServerTargetOpts{Server: &hcloud.Server{ID: ids[1]}, UsePrivateIP: &private})
		},
		func() (*hcloud.Action, *hcloud.Response, error) {
			return h.LoadBalancer.AddIPTarget(t.Context(), lb, hcloud.LoadBalancerAddIPTargetOpts{IP: net.ParseIP("198.51.100.7")})
		},
		func() (*hcloud.Action, *hcloud.Response, error) {
			return h.LoadBalancer.AddLabelSelectorTarget(t.Context(), lb, hcloud.LoadBalancerAddLabelSelectorTargetOpts{Selector: "env=prod", UsePrivateIP: &private})
		},
		func() (*hcloud.Action, *hcloud.Response, error) {
			return h.LoadBalancer.RemoveServerTarget(t.Context(), lb, &hcloud.Server{ID: ids[0]})
		},
	} {
		a, _, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Action.WaitFor(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		actions = append(actions, a)
	}
	all, err := h.LoadBalancer.Action.AllFor(t.Context(), lb, hcloud.ActionListOpts{})
	if err != nil || len(all) != len(actions) {
		t.Errorf("%d actions, error %v", len(all), err)
	}
	if lb, _, err = h.LoadBalancer.GetByID(t.Context(), lbID); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, target := range lb.Targets {
		kinds = append(kinds, string(target.Type))
	}
	if slices.Sort(kinds); !slices.Equal(kinds, []string{"ip", "label_selector", "server"}) {
		t.Fatalf("targets of types %v", kinds)
	}
	for _, target := range lb.Targets {
		if target.Type == hcloud.LoadBalancerTargetTypeLabelSelector && (len(target.HealthStatus) != 0 || len(target.Targets) != 3 || len(target.Targets[0].HealthStatus) != 1) {
			t.Errorf("a selector's health is at its picks, one each port: %+v", target)
		}
	}

	// Labels are replaced as a whole, and a selector follows them.
	w3, _, err := h.Server.GetByName(t.Context(), "w3")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Server.Update(t.Context(), w3, hcloud.ServerUpdateOpts{Labels: map[string]string{"env": "test"}}); err != nil {
		t.Fatal(err)
	}
	servers, err := h.Server.AllWithOpts(t.Context(), hcloud.ServerListOpts{ListOpts: hcloud.ListOpts{LabelSelector: "env=prod", PerPage: 1}})
	if err != nil || len(servers) != 2 {
		t.Errorf("%d servers are picked, error %v", len(servers), err)
	}
	for what, want := range map[string]struct {
		err  error
		code hcloud.ErrorCode
	}{
		"a server that is no target": {second2(h.LoadBalancer.RemoveServerTarget(t.Context(), lb, &hcloud.Server{ID: ids[0]})), "load_balancer_target_not_found"},
		"a server that is none":      {second2(h.LoadBalancer.RemoveServerTarget(t.Context(), lb, &hcloud.Server{ID: 7})), hcloud.ErrorCodeInvalidInput},
		"an address of another":      {second2(h.LoadBalancer.AddIPTarget(t.Context(), lb, hcloud.LoadBalancerAddIPTargetOpts{IP: net.ParseIP("192.0.2.1")})), hcloud.ErrorCodeIPNotOwned},
		"a target twice":             {second2(h.LoadBalancer.AddIPTarget(t.Context(), lb, hcloud.LoadBalancerAddIPTargetOpts{IP: net.ParseIP("198.51.100.7")})), hcloud.ErrorCodeTargetAlreadyDefined},
	} {
		if !hcloud.IsError(want.err, want.code) {
			t.Errorf("%s: %v, want %s", what, want.err, want.code)
		}
	}
	c.Lock(lbID, time.Hour)
	if _, _, err := h.LoadBalancer.RemoveServerTarget(t.Context(), lb, &hcloud.Server{ID: ids[1]}); !hcloud.IsError(err, hcloud.ErrorCodeLocked) {
		t.Errorf("while another action runs: %v, want locked", err)
	}
	if a, _, err := h.Action.GetByID(t.Context(), 7); a != nil || err != nil {
		t.Errorf("an action that is none: %v, error %v", a, err)
	}
}

func second2(_ *hcloud.Action, _ *hcloud.Response, err error) error { return err }

// TestTheDescriptionIsHeld breaks an answer and a request, so that a silent
// check is not taken for a passed one.
func TestTheDescriptionIsHeld(t *testing.T) {
	if os.Getenv("LOCKSTEP_API_SPECS") == "" {
		t.Skip("LOCKSTEP_API_SPECS names no descriptions")
	}
	heard := make(chan error, 10)
	c := start(t, hetznertest.Options{OnViolation: func(err error) { heard <- err }})
	id, err := c.AddBalancer(hetznertest.Balancer{Name: "front",
		Services: []hetznertest.Service{{ListenPort: 80, DestinationPort: 8080, Check: hetznertest.Check{Interval: 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client(c).LoadBalancer.GetByID(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-heard:
		if !strings.Contains(err.Error(), "interval") {
			t.Errorf("heard %v", err)
		}
	default:
		t.Error("an interval of one second, which Hetzner does not allow, was not noticed")
	}
}

func TestTrafficFollowsHealth(t *testing.T) {
	c := start(t, hetznertest.Options{HoldUntilChecked: true})
	ids := []int64{
		c.AddServer(hetznertest.Server{Name: "w1", Backend: app(t, "w1")}),
		c.AddServer(hetznertest.Server{Name: "w2", Backend: app(t, "w2")}),
		c.AddServer(hetznertest.Server{Name: "gone", Backend: hetznertest.Backend{Ports: map[int]string{8080: "127.0.0.1:1"}}}),
	}
	lb := balancer(t, c, hetznertest.Target{Server: ids[0]}, hetznertest.Target{Server: ids[1]}, hetznertest.Target{Server: ids[2]})
	address := c.Address(lb, 80)
	await(t, "the first two are healthy", func() bool {
		_, a := get(t, address, "/")
		_, b := get(t, address, "/")
		return a+b == "w1w2" || a+b == "w2w1"
	})
	for range 20 {
		if status, body := get(t, address, "/"); status != 200 {
			t.Errorf("status %d, %s", status, body)
		}
	}
}

func TestTrafficBeforeTheFirstCheck(t *testing.T) {
	for _, hold := range []bool{false, true} {
		c := start(t, hetznertest.Options{HoldUntilChecked: hold, Second: time.Minute})
		lb := balancer(t, c, hetznertest.Target{Server: c.AddServer(hetznertest.Server{Name: "w1", Backend: app(t, "w1")})})
		want := map[bool]int{false: 200, true: 503}[hold]
		if status, body := get(t, c.Address(lb, 80), "/"); status != want {
			t.Errorf("hold %t: status %d (%s), want %d", hold, status, body, want)
		}
	}
}

func TestRemovalAndWhatIsInFlight(t *testing.T) {
	for _, cuts := range []bool{false, true} {
		arrived, finish := make(chan struct{}), make(chan struct{})
		slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(arrived)
				select {
				case <-finish:
				case <-r.Context().Done():
				}
			}
		}))
		t.Cleanup(slow.Close)
		c := start(t, hetznertest.Options{CutOnRemove: cuts})
		id := c.AddServer(hetznertest.Server{Name: "w1", Backend: hetznertest.Backend{Ports: map[int]string{8080: strings.TrimPrefix(slow.URL, "http://")}}})
		lb := balancer(t, c, hetznertest.Target{Server: id})
		address := c.Address(lb, 80)
		type outcome struct {
			status int
			body   string
		}
		ended := make(chan outcome)
		go func() {
			status, body := get(t, address, "/slow")
			ended <- outcome{status, body}
		}()
		<-arrived
		c.SetTargets(lb)
		if !cuts {
			close(finish)
		}
		got := <-ended
		if cuts == (got.status == 200) {
			t.Errorf("cuts %t: the request in flight ended with %d %q", cuts, got.status, got.body)
		}
		if status, _ := get(t, address, "/"); status != 503 {
			t.Errorf("without a target: status %d", status)
		}
	}
}

func TestTheDataPlaneLags(t *testing.T) {
	c := start(t, hetznertest.Options{DataPlaneLag: 150 * time.Millisecond})
	id := c.AddServer(hetznertest.Server{Name: "w1", Backend: app(t, "w1")})
	lb := balancer(t, c, hetznertest.Target{Server: id})
	address := c.Address(lb, 80)
	await(t, "it serves", func() bool { status, _ := get(t, address, "/"); return status == 200 })
	h := client(c)
	a, _, err := h.LoadBalancer.RemoveServerTarget(t.Context(), &hcloud.LoadBalancer{ID: lb}, &hcloud.Server{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Action.WaitFor(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := c.Targets(lb); len(got) != 0 {
		t.Errorf("the API still shows %v", got)
	}
	if status, _ := get(t, address, "/"); status != 200 {
		t.Errorf("the traffic stopped with the action already: status %d", status)
	}
	await(t, "the traffic stops", func() bool { status, _ := get(t, address, "/"); return status == 503 })
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				text, err := io.ReadAll(conn)
				if err == nil {
					fmt.Fprintf(conn, "heard %s", text)
				}
			}()
		}
	}()
	c := start(t, hetznertest.Options{})
	id := c.AddServer(hetznertest.Server{Name: "db1", Backend: hetznertest.Backend{Ports: map[int]string{5432: l.Addr().String()}}})
	lb, err := c.AddBalancer(hetznertest.Balancer{Name: "db", Targets: []hetznertest.Target{{Server: id}}, Services: []hetznertest.Service{
		{Protocol: "tcp", ListenPort: 5432, DestinationPort: 5432, Check: hetznertest.Check{Protocol: "tcp", Interval: 4, Timeout: 60, Retries: 2}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", c.Address(lb, 5432))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := bufio.NewReader(conn).ReadString(0); answer != "heard hello" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, error %v", answer, err)
	}
}

func TestTheRateLimitIsSaidAndKept(t *testing.T) {
	c := start(t, hetznertest.Options{RateLimit: 10, Second: time.Hour})
	lb := balancer(t, c)
	h := client(c)
	for left := 9; left >= 0; left-- {
		_, resp, err := h.LoadBalancer.GetByID(t.Context(), lb)
		if err != nil || resp.Meta.Ratelimit.Limit != 10 || resp.Meta.Ratelimit.Remaining != left || !resp.Meta.Ratelimit.Reset.After(time.Now()) {
			t.Fatalf("rate limit %+v, error %v; want %d left", resp.Meta.Ratelimit, err, left)
		}
	}
	if _, _, err := h.LoadBalancer.GetByID(t.Context(), lb); !hcloud.IsError(err, hcloud.ErrorCodeRateLimitExceeded) {
		t.Errorf("one more: %v", err)
	}
}

func TestItStaysAtHome(t *testing.T) {
	if c, err := hetznertest.New(hetznertest.Options{Listen: "0.0.0.0:0"}); err == nil {
		c.Close()
		t.Error("it listens for the whole network")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	c, err := hetznertest.New(hetznertest.Options{Second: second})
	if err != nil {
		t.Fatal(err)
	}
	lb := balancer(t, c, hetznertest.Target{Server: c.AddServer(hetznertest.Server{Name: "w1", Backend: app(t, "w1")})})
	address := c.Address(lb, 80)
	c.Lock(lb, time.Hour)
	done := make(chan error, 1)
	go func() { done <- c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("Close does not return")
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("a balancer still listens")
	}
}
