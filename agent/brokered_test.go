package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy"
	"github.com/lockstep-deploy/lockstep/lbclient/haproxy/haproxytest"
)

const fleetYAML = `coordinator:
  listen: 127.0.0.1:7400
  database: %[1]s/lockstep.db
  mirrors: %[1]s/mirrors
  admin_tokens: [{file: %[1]s/admin}]
github:
  webhook_secrets: [{file: %[1]s/webhook}]
nodes:
  web1: {token: {file: %[1]s/web1}}
balancers:
  edge: {type: haproxy, via: coordinator, endpoints: ["%[2]s"], backend: web, min_healthy: 1}
apps:
  hello:
    repo: %[3]s
    branch: main
    nodes: [web1]
    build: ["echo built"]
    unit: hello.service
    health: none
    balancer: edge
    soak: 100ms
`

// A whole turn of a real agent, with a real coordinator that alone may speak to
// a real HAProxy.
func TestATurnThroughTheCoordinator(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(app.Close)
	be := haproxytest.Backend{Name: "web"}
	for _, name := range []string{"web1", "web2"} {
		be.Servers = append(be.Servers, haproxytest.Server{Name: name, Address: app.Listener.Addr().String(), Options: "check inter 50ms rise 1 fall 2"})
	}
	lb := haproxytest.Start(t, haproxytest.Options{Backends: []haproxytest.Backend{be}})

	repo := newRepo(t)
	one := repo.release(map[string]string{"version": "one"})
	hq := startHeadquarters(t, func(dir string) string { return fmt.Sprintf(fleetYAML, dir, lb.Endpoint(), repo.dir) }, nil)

	units := &fakeUnits{runs: map[string]string{}}
	n := newNode(t, hq.own, units)
	units.apps = n.cfg.Apps
	n.deps.Broker = hq.own
	n.deps.Balancer = func(b api.Balancer, _, _ string) (lbclient.Provider, error) {
		t.Errorf("the agent speaks to %s itself", b.Name)
		return nil, errors.New("it must not")
	}
	n.start(t)

	seen := watchHAProxy(t, lb.Endpoint())
	hq.deploy(one.SHA, func() {})
	hq.deploy(repo.release(map[string]string{"version": "two"}).SHA, func() {})
	if units.count() != 2 {
		t.Errorf("%d restarts, want one for each deployment", units.count())
	}
	for _, want := range []lbclient.Phase{lbclient.PhaseDraining, lbclient.PhaseServing} {
		if !seen(want) {
			t.Errorf("HAProxy never showed web1 %s", want)
		}
	}
	text := hq.log.String()
	for _, op := range []string{"begin_drain", "begin_rejoin"} {
		if n := strings.Count(text, `msg="Balancer changed" balancer=edge node=web1 app=hello target=hello@web1 op=`+op); n < 2 {
			t.Errorf("%s was written down %d times, want one for each turn:\n%s", op, n, text)
		}
	}
	checkSurvey(t, hq.admin, lb)
}

// watchHAProxy keeps in mind how web1 stood; ask when all is over.
func watchHAProxy(t *testing.T, endpoint string) (seen func(lbclient.Phase) bool) {
	t.Helper()
	p, err := haproxy.New(haproxy.Config{Name: "watch", Endpoints: []string{endpoint}, Backends: []string{"web"}, Server: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	phases, done := map[lbclient.Phase]bool{}, make(chan struct{})
	go func() {
		defer close(done)
		defer p.Close()
		for ctx.Err() == nil {
			pool, err := p.Observe(ctx)
			for _, m := range pool.Members {
				if m.Name == "web1" && err == nil {
					phases[m.Phase] = true
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return func(phase lbclient.Phase) bool {
		stop()
		return phases[phase]
	}
}

// checkSurvey wants the fleet to be well, as people are told of it, and then
// that HAProxy, once it is gone, is found.
func checkSurvey(t *testing.T, admin *api.Client, lb *haproxytest.Process) {
	t.Helper()
	bs, err := admin.Balancers(t.Context(), "edge")
	if err != nil {
		t.Fatal(err)
	}
	b := bs.Balancers[0]
	if b.Source != "coordinator" || b.Seen == nil || b.Serving() != 2 || len(b.Members) != 2 || b.Members[0].Targets[0] != "hello@web1" {
		t.Errorf("got %+v", b)
	}
	var refused *api.Error
	if _, err := admin.Balancers(t.Context(), "egde"); !errors.As(err, &refused) || refused.Kind != api.ErrorNotFound {
		t.Errorf("a balancer that is not there: %v", err)
	}
	wrong := func() []string {
		d, err := admin.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range d.Checks {
			if c.Result == api.CheckProblem || c.Result == api.CheckUnknown {
				out = append(out, c.Area)
			}
		}
		return out
	}
	if got := wrong(); len(got) > 0 {
		t.Errorf("found wrong: %v", got)
	}
	lb.Stop()
	// A look of a moment ago may still be shown.
	got, deadline := "", time.Now().Add(patience)
	for got != "[balancer capacity]" {
		if got = fmt.Sprint(wrong()); time.Now().After(deadline) {
			t.Fatalf("with HAProxy gone, found wrong: %v", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// teller answers as a coordinator does that passes something on.
type teller func(api.BalancerRequest) (api.BalancerAnswer, error)

func (f teller) Balancer(_ context.Context, rq api.BalancerRequest) (api.BalancerAnswer, error) {
	return f(rq)
}

// What the coordinator passes on keeps its class; what it does not say is never
// taken for good.
func TestBrokeredAnswers(t *testing.T) {
	answer, fail := api.BalancerAnswer{}, error(nil)
	var sent api.BalancerRequest
	p := agent.NewBrokered(teller(func(rq api.BalancerRequest) (api.BalancerAnswer, error) { sent = rq; return answer, fail }),
		"edge", "web1", hello, "hello@web1")
	r := lbclient.Restore{Provider: "haproxy", Target: "web1", Version: 1, Data: []byte(`{"a":1}`)}
	begin := func() error { return p.BeginDrain(t.Context(), r, 2) }
	look := func() error { _, err := p.DrainStatus(t.Context(), r); return err }
	if err := begin(); err != nil || sent.Node != "web1" || sent.Target != "hello@web1" || sent.Op != api.OpBeginDrain || sent.MinHealthy != 2 || string(sent.Restore.Data) != `{"a":1}` {
		t.Errorf("%v; sent %+v", err, sent)
	}
	first := sent
	if err := begin(); err != nil || sent.Session == "" || sent.Session != first.Session || sent.Number <= first.Number {
		t.Errorf("changes are not told apart: %+v, then %+v", first, sent)
	}
	refused := &api.UnreachableError{Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
	for _, tc := range []struct {
		name string
		err  error
		call func() error
		want lbclient.Class
		says string
	}{
		{"the balancer's own", &api.Error{Kind: api.ErrorConflict, Reason: "unsafe", Op: "drain web1", Text: "cannot drain web1: too few"}, begin, lbclient.ClassUnsafe, "cannot drain web1: too few"},
		{"a class of later", &api.Error{Kind: api.ErrorInvalid, Reason: "lunar", Text: "cannot"}, begin, lbclient.ClassInvalid, ""},
		{"a wrong token", &api.Error{Kind: api.ErrorUnauthorized, Text: "no"}, begin, lbclient.ClassDenied, "no"},
		{"a coordinator without a broker", &api.Error{Kind: api.ErrorNotFound, Text: "nothing there"}, begin, lbclient.ClassUnsupported, "nothing there"},
		{"a mistake of the coordinator in a change", &api.Error{Kind: api.ErrorInternal, Text: "oops"}, begin, lbclient.ClassAmbiguous, ""},
		{"and in a look", &api.Error{Kind: api.ErrorInternal, Text: "oops"}, look, lbclient.ClassTransient, ""},
		{"no answer to a change", &api.UnreachableError{Err: io.ErrUnexpectedEOF}, begin, lbclient.ClassAmbiguous, "not known"},
		{"no answer to a look", &api.UnreachableError{Err: io.ErrUnexpectedEOF}, look, lbclient.ClassTransient, ""},
		{"nobody there", refused, begin, lbclient.ClassTransient, ""},
		{"a proxy's page", &api.AnswerError{Status: 502}, begin, lbclient.ClassAmbiguous, ""},
		{"given up", context.DeadlineExceeded, begin, lbclient.ClassAmbiguous, ""},
	} {
		fail = tc.err
		if err := tc.call(); err == nil || lbclient.ClassOf(err) != tc.want || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, class %s, want %s", tc.name, err, lbclient.ClassOf(err), tc.want)
		}
	}
	fail = nil
	for name, a := range map[string]api.BalancerAnswer{
		"nothing": {}, "unknown words": {Drain: &api.BalancerDrain{Stage: "splendid"}, Rejoin: &api.BalancerRejoin{Stage: "splendid"}},
	} {
		answer = a
		_, drain := p.DrainStatus(t.Context(), r)
		_, rejoin := p.RejoinStatus(t.Context(), r)
		_, snapshot := p.Snapshot(t.Context())
		if drain == nil || rejoin == nil || snapshot == nil {
			t.Errorf("an answer of %s is taken: %v, %v, %v", name, drain, rejoin, snapshot)
		}
	}
	answer = api.BalancerAnswer{Pool: &api.BalancerPool{Members: []api.BalancerMember{{Name: "web1", Phase: "splendid"}}}}
	if pool, err := p.Observe(t.Context()); err != nil || pool.Members[0].Phase != lbclient.PhaseUnknown {
		t.Errorf("a phase of later: %+v, %v", pool, err)
	}
}
