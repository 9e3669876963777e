package digitalocean_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
)

// The ways in which balancers are known to fail, and where each is tried here.
//
//	 1  drain, rejoin twice; rejoin without drain    contract: round trip
//	 2  change made, answer lost                     contract: answers lost; TestLostAndLate
//	 3  answered 2xx, never made                     contract: changes ignored
//	 4  change stays under way for long              TestAcceptedAndMadeLater; there are no actions to lose
//	 5  busy, and what only looks like it            TestBusyIsNotDenied, TestLockIsWaitedOut
//	 6  rate limits                                  TestRateLimits; digitaloceantest.TestRations
//	 7  credentials                                  contract: denied; TestReadOnlyToken
//	 8  strange answers                              TestStrangeAnswers
//	 9  no member, no balancer, deleted, twice       contract: not a member; TestNotFound, TestNames
//	10  membership by tag                            TestTag
//	11  attributes restored                          TestOnlyItsOwnMembership; a membership by id has no attributes
//	12  last healthy, too few                        contract: capacity; TestTooFewAfterAll
//	13  out by another hand                          cannot apply: there is no maintenance and no weight
//	14  put in by another hand                       contract: readmitted
//	15  never idle                                   the caller's: the stage stays busy
//	16  old process still serves                     cannot apply: nobody can see the machines that balance
//	17  stale health, unknown health                 TestGateIsBelievedOnlyOnceNoticed, TestEvidence, TestNothingToSee
//	18  traffic before health                        contract: rolling restart
//	19  killed between steps                         contract: a new provider at every step
//	20  cancelled                                    contract: cancelled, cut short
//	21  one of several instances                     cannot apply: there is one API
//	22  hangs                                        contract: hangs
//	23  bad files                                    cannot apply: there are no files
//	24  flaps after the rejoin                       the caller's
//	25  deploy fails, stays out                      the caller's
//	26  slow balancer                                TestTiming, for the caller to compare
//	27  no failed request                            contract: rolling restart

func wantClass(t *testing.T, what string, err error, want lbclient.Class) {
	t.Helper()
	if err == nil || lbclient.ClassOf(err) != want {
		t.Errorf("%s: got error %v, want class %s", what, err, want)
	}
	if err != nil && strings.Contains(err.Error(), "token-of-ours") {
		t.Errorf("%s: the error holds the token: %v", what, err)
	}
}

func snapshot(t *testing.T, p lbclient.Provider) lbclient.Restore {
	t.Helper()
	r, err := p.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// changes are the changes of the balancer that the API was asked for.
func (w *world) changes() []string {
	var out []string
	for _, c := range w.cloud.Calls() {
		if c.Method != http.MethodGet {
			out = append(out, c.Method+" "+strings.TrimPrefix(c.Path, "/v2/load_balancers/"+w.lb)+" "+strings.TrimSpace(c.Body))
		}
	}
	return out
}

func TestBusyIsNotDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	for _, c := range []struct {
		answer *digitaloceantest.Answer
		want   lbclient.Class
	}{
		{digitaloceantest.Busy(), lbclient.ClassBusy},
		{digitaloceantest.Refuse(403, "forbidden", "You are not authorized to perform this operation"), lbclient.ClassDenied},
		{digitaloceantest.Refuse(409, "conflict", "try again"), lbclient.ClassConflict},
		{digitaloceantest.Refuse(422, "unprocessable_entity", "Droplet is not active"), lbclient.ClassConflict},
		{digitaloceantest.Refuse(423, "locked", "locked"), lbclient.ClassBusy},
		{digitaloceantest.Refuse(500, "server_error", "Unexpected server-side error"), lbclient.ClassAmbiguous},
		{&digitaloceantest.Answer{Status: 503, Body: "<html>down</html>"}, lbclient.ClassAmbiguous},
		{digitaloceantest.Refuse(400, "bad_request", "what?"), lbclient.ClassInvalid},
	} {
		before := len(w.changes())
		w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodDelete, Times: 1, Answer: c.answer})
		wantClass(t, fmt.Sprintf("drain answered %d %s", c.answer.Status, c.answer.Body), p.BeginDrain(t.Context(), r, 1), c.want)
		if n := len(w.changes()) - before; n != 1 {
			t.Errorf("a removal answered %d was sent %d times", c.answer.Status, n)
		}
	}
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	// What is refused although it was done is done.
	for _, status := range []int{404, 409, 422, 500} {
		for _, step := range []struct {
			method string
			do     func() error
		}{
			{http.MethodPost, func() error { return p.BeginRejoin(t.Context(), r) }},
			{http.MethodDelete, func() error { return p.BeginDrain(t.Context(), r, 1) }},
		} {
			before := len(w.changes())
			w.cloud.Inject(digitaloceantest.Fault{Method: step.method, Times: 1, Lose: true, Answer: digitaloceantest.Refuse(status, "x", "x")})
			if err := step.do(); err != nil || len(w.changes()) != before+1 {
				t.Errorf("%s refused with %d although done: error %v after %q", step.method, status, err, w.changes()[before:])
			}
		}
	}
}

// TestLockIsWaitedOut has two agents whose changes come at the same time.
func TestLockIsWaitedOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	one, two := w.alone("w1"), w.alone("w2")
	r1, r2 := snapshot(t, one), snapshot(t, two)
	w.cloud.SetPace(20*second, 0)
	wantClass(t, "a removal that is not made yet", one.BeginDrain(t.Context(), r1, 1), lbclient.ClassBusy)
	err := two.BeginDrain(t.Context(), r2, 1)
	wantClass(t, "a change while another is under way", err, lbclient.ClassBusy)
	if err == nil || !strings.Contains(err.Error(), "processes previous actions") {
		t.Errorf("DigitalOcean's own words are missing: %v", err)
	}
	w.Await("the removal is made", func() bool { return one.BeginDrain(t.Context(), r1, 1) == nil })
	w.cloud.SetPace(0, 0)
	w.Await("the other is let in", func() bool { return two.BeginDrain(t.Context(), r2, 1) == nil })
}

func TestAcceptedAndMadeLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	w.cloud.SetPace(12*second, second)
	for range 3 {
		wantClass(t, "a removal that is not made yet", p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy)
	}
	st, err := p.DrainStatus(t.Context(), r)
	if err != nil || st.Stage != lbclient.DrainAccepted || st.InFlight != -1 {
		t.Errorf("got %+v, error %v, want accepted", st, err)
	}
	w.Await("the removal is made", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	if got := w.changes(); len(got) != 1 {
		t.Errorf("asked %q, want one removal", got)
	}
	w.Await("new work has ended", func() bool {
		st, err := p.DrainStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.DrainBusy && st.InFlight == -1
	})
	if w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("the balancer still sends work to a droplet called busy")
	}
	for range 3 {
		wantClass(t, "an addition that is not made yet", p.BeginRejoin(t.Context(), r), lbclient.ClassBusy)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinPending {
		t.Errorf("got %+v, error %v, want pending", st, err)
	}
	w.Await("the addition is made", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
}

// TestAbandonedDrain gives up a drain whose removal was accepted and not made.
func TestAbandonedDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	w.cloud.SetPace(8*second, 0)
	wantClass(t, "a removal that is not made yet", p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy)
	w.Await("it is put back", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

func TestLostAndLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	w.cloud.SetPace(8*second, 0)
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodDelete, Times: 1, Lose: true})
	wantClass(t, "a removal whose answer was lost", p.BeginDrain(t.Context(), r, 1), lbclient.ClassAmbiguous)
	w.Await("it converges", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodPost, Times: 1, Drop: true})
	wantClass(t, "an addition that was lost", p.BeginRejoin(t.Context(), r), lbclient.ClassAmbiguous)
	w.Await("it converges", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Token = "token-of-ours" }, Options: digitaloceantest.Options{Token: "token-of-ours"}})
	p := w.alone("w1")
	limited := func(header map[string]string) *digitaloceantest.Answer {
		a := digitaloceantest.Refuse(429, "too_many_requests", "API Rate limit exceeded.")
		for k, v := range header {
			a.Header[k] = v
		}
		return a
	}
	for what, header := range map[string]map[string]string{
		"the hourly limit":       {"ratelimit-remaining": "0", "ratelimit-reset": "4102444800"},
		"a reset in the past":    {"ratelimit-remaining": "0", "ratelimit-reset": "1"},
		"a Retry-After too long": {"retry-after": "3600"},
		"a Retry-After of noise": {"retry-after": "soon", "ratelimit-reset": "noon"},
	} {
		w.cloud.Inject(digitaloceantest.Fault{Answer: limited(header)})
		wantClass(t, what, p.Preflight(t.Context()), lbclient.ClassRateLimited)
		w.cloud.Heal()
	}
	w.cloud.Inject(digitaloceantest.Fault{Times: 1, Answer: limited(map[string]string{"retry-after": "1"})})
	start := time.Now()
	if err := p.Preflight(t.Context()); err != nil || time.Since(start) < time.Second {
		t.Errorf("error %v after %s, want none after the second that was asked for", err, time.Since(start))
	}
	var left, limit atomic.Int32
	w.edit = func(c *digitalocean.Config) {
		c.Token = "token-of-ours"
		c.OnBudget = func(remaining, of int) { left.Store(int32(remaining)); limit.Store(int32(of)) }
	}
	p = w.alone("w1")
	r := snapshot(t, p)
	if limit.Load() != 5000 || left.Load() <= 0 || left.Load() >= 5000 {
		t.Errorf("heard that %d of %d calls are left", left.Load(), limit.Load())
	}
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodDelete, Times: 1, Answer: limited(nil)})
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Errorf("a removal that was surely not carried out is not tried again: %v", err)
	}
}

func TestReadOnlyToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove, Options: digitaloceantest.Options{ReadOnly: "token-of-ours"}})
	full := w.alone("w1")
	r := snapshot(t, full)
	w.edit = func(c *digitalocean.Config) { c.Token = "token-of-ours" }
	p := w.alone("w1")
	err := p.Preflight(t.Context())
	wantClass(t, "Preflight", err, lbclient.ClassDenied)
	if err == nil || !strings.Contains(err.Error(), "load_balancer:update") {
		t.Errorf("the scope that is missing is not named: %v", err)
	}
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassDenied)
	if err := full.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	wantClass(t, "BeginRejoin", p.BeginRejoin(t.Context(), r), lbclient.ClassDenied)
	if err := full.Preflight(t.Context()); lbclient.ClassOf(err) != lbclient.ClassNotFound {
		t.Errorf("Preflight of a removed droplet: %v", err)
	}
	w.mode = digitalocean.ModeGate
	w.edit = func(c *digitalocean.Config) {
		c.Token, c.GatePort, c.GatePath = "token-of-ours", 0, ""
		c.Target = "w2"
	}
	if err := w.alone("w2").Preflight(t.Context()); err != nil {
		t.Errorf("the gate mode changes nothing and needs only to read: %v", err)
	}
}

func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	whole := func(edit string) string {
		return `{"load_balancer":{"id":"` + w.lb + `","status":"active","droplet_ids":[3164444,3164445],"forwarding_rules":[],` + edit +
			`"health_check":{"protocol":"http","port":8080,"path":"/healthz","check_interval_seconds":1,"response_timeout_seconds":1,"healthy_threshold":2,"unhealthy_threshold":2}}}`
	}
	for what, c := range map[string]struct {
		status int
		body   string
		want   lbclient.Class // "" is success
	}{
		"as it should be":     {200, whole(""), ""},
		"more than we know":   {200, whole(`"quantum":{"a":[1]},"size_unit":1,`), ""},
		"an unknown type":     {200, whole(`"type":"ORBITAL",`), ""},
		"an unknown status":   {200, whole(`"status":"melting",`), lbclient.ClassUnsafe},
		"still being built":   {200, whole(`"status":"new",`), lbclient.ClassBusy},
		"a global balancer":   {200, whole(`"type":"GLOBAL",`), lbclient.ClassUnsupported},
		"another balancer":    {200, strings.Replace(whole(""), w.lb, strings.Repeat("0", 36), 1), lbclient.ClassTransient},
		"no balancer":         {200, `{}`, lbclient.ClassTransient},
		"null":                {200, `null`, lbclient.ClassTransient},
		"a null balancer":     {200, `{"load_balancer":null}`, lbclient.ClassTransient},
		"a list":              {200, `[]`, lbclient.ClassTransient},
		"a word for an id":    {200, whole(`"droplet_ids":["web1"],`), lbclient.ClassTransient},
		"cut off":             {200, `{"load_balancer":{"id":"4de7`, lbclient.ClassTransient},
		"nothing":             {200, ``, lbclient.ClassTransient},
		"a page of HTML":      {200, `<html>maintenance</html>`, lbclient.ClassTransient},
		"an error as a page":  {502, `<html>bad gateway</html>`, lbclient.ClassTransient},
		"an error of nothing": {500, ``, lbclient.ClassTransient},
		"not implemented":     {501, ``, lbclient.ClassUnsupported},
		"a redirect":          {302, ``, lbclient.ClassInvalid},
		"unauthorized":        {401, `{"id":"unauthorized","message":"Unable to authenticate you"}`, lbclient.ClassDenied},
		"forbidden to read":   {403, `{"id":"forbidden","message":"processes previous actions"}`, lbclient.ClassDenied},
		"a long message":      {400, `{"id":"x","message":"` + strings.Repeat("very ", 1000) + `"}`, lbclient.ClassInvalid},
	} {
		w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodGet, Path: w.lb, Answer: &digitaloceantest.Answer{
			Status: c.status, Body: c.body, Header: map[string]string{"Location": "http://127.0.0.1:1/"},
		}})
		err := p.Preflight(t.Context())
		if c.want != "" {
			wantClass(t, what, err, c.want)
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && len(err.Error()) > 700 {
			t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
		}
		// Nothing is believed of a balancer that cannot be read, and nothing changed.
		if c.want == lbclient.ClassTransient {
			wantClass(t, what+", drain", p.BeginDrain(t.Context(), r, 0), c.want)
			if _, err := p.DrainStatus(t.Context(), r); err == nil {
				t.Errorf("%s: DrainStatus has an answer", what)
			}
		}
		w.cloud.Heal()
	}
	for _, c := range w.changes() {
		if !strings.HasSuffix(c, "{}") { // the question of Preflight
			t.Errorf("changed %s", c)
		}
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	w.cloud.RemoveDroplet(w.ids["w1"])
	err := p.BeginRejoin(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("rejoin of a destroyed droplet: %v", err)
	}
	w.edit = func(c *digitalocean.Config) { c.LoadBalancer = "00000000-0000-0000-0000-000000000000" }
	err = w.alone("w2").Preflight(t.Context())
	wantClass(t, "an unknown balancer", err, lbclient.ClassNotFound)
	w.edit = func(c *digitalocean.Config) { c.Droplets = map[string]int{"w2": 7} }
	err = w.alone("w2").Preflight(t.Context())
	wantClass(t, "a droplet that is no member", err, lbclient.ClassNotFound)
	if err == nil || !strings.Contains(err.Error(), "droplet 3164445") {
		t.Errorf("the members are not named: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Droplets = nil }})
	p := w.alone("w1")
	r := snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	if m := w.cloud.Members(w.lb); slices.Contains(m, w.ids["w1"]) || len(m) != 2 {
		t.Errorf("the members are %v", m)
	}
	w.cloud.AddDroplet(digitaloceantest.Droplet{ID: 9, Name: "W2", Address: "127.0.0.9"})
	err := w.alone("w2").Preflight(t.Context())
	wantClass(t, "a name that two droplets have", err, lbclient.ClassInvalid)
	if err == nil || !strings.Contains(err.Error(), "9 3164445") {
		t.Errorf("the two are not named: %v", err)
	}
}

func TestTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := snapshot(t, p)
	for _, name := range w.Targets() {
		w.cloud.AddDroplet(digitaloceantest.Droplet{ID: w.ids[name], Name: name, Address: "127.10.0.1", Tags: []string{"web"}})
	}
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Tag = "web" })
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsupported)
	if got := w.changes(); len(got) > 0 {
		t.Errorf("changed %q", got)
	}
	if m := w.cloud.Members(w.lb); len(m) != 3 {
		t.Errorf("the members are %v", m)
	}
}

// TestOnlyItsOwnMembership goes through a whole turn and looks at every change.
func TestOnlyItsOwnMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	before := w.cloud.Members(w.lb)
	p := w.Provider("w2")
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := []string{`POST /droplets {}`, `DELETE /droplets {"droplet_ids":[3164445]}`, `POST /droplets {"droplet_ids":[3164445]}`}
	if got := w.changes(); !slices.Equal(got, want) {
		t.Errorf("changed %q, want %q", got, want)
	}
	if after := w.cloud.Members(w.lb); !slices.Equal(after, before) {
		t.Errorf("the members were %v and are %v", before, after)
	}
}

// fickle is a health source that changes its mind.
type fickle struct {
	asked atomic.Int32
	fails int // droplet that fails from the given question on
	from  int32
}

func (f *fickle) Health(_ context.Context, droplet int, _ digitalocean.Check) (digitalocean.Verdict, string) {
	if droplet == f.fails && f.asked.Add(1) >= f.from {
		return digitalocean.VerdictFails, "it has changed its mind"
	}
	return digitalocean.VerdictPasses, "well"
}

func TestTooFewAfterAll(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 6 * second} {
		f := &fickle{fails: 3164445, from: 2}
		w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Health = f }})
		p := w.alone("w1")
		r := snapshot(t, p)
		w.cloud.SetPace(slow, 0)
		var err error
		w.Await("an answer", func() bool {
			err = p.BeginDrain(t.Context(), r, 2)
			return lbclient.ClassOf(err) != lbclient.ClassBusy
		})
		wantClass(t, "a drain after which too few are left", err, lbclient.ClassUnsafe)
		if slow == 0 {
			if m := w.cloud.Members(w.lb); len(m) != 3 {
				t.Errorf("the members are %v: %v", m, err)
			}
		}
		w.Await("it is put back", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	}
}

func TestGateIsBelievedOnlyOnceNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate, tag: "web", nodes: 2})
	p := w.alone("w1")
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := snapshot(t, p)
	if err := p.BeginDrain(t.Context(), r, 2); err != nil {
		t.Fatal(err)
	}
	stage := func() lbclient.DrainStage {
		st, err := p.DrainStatus(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return st.Stage
	}
	time.Sleep(5 * second) // a gate that stays open is not believed however long
	if got := stage(); got != lbclient.DrainAccepted {
		t.Errorf("with an open gate the drain is %s", got)
	}
	w.gates["w1"].closed.Store(true)
	if got := stage(); got != lbclient.DrainAccepted {
		t.Errorf("right after the gate was closed the drain is %s", got)
	}
	w.Await("the balancer must have noticed", func() bool { return stage() == lbclient.DrainBusy })
	if w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("the balancer has not noticed")
	}
	w.gates["w1"].closed.Store(false)
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Await("it serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
	if got := w.changes(); len(got) > 0 {
		t.Errorf("changed %q", got)
	}
}

// TestGateClosedFirst has the gate take the target out before the balancer was
// asked whether enough others serve.
func TestGateClosedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate})
	p := w.alone("w1")
	r := snapshot(t, p)
	w.gates["w1"].closed.Store(true)
	w.Front.SetHealthy("w2", false)
	wantClass(t, "BeginDrain with too few others", p.BeginDrain(t.Context(), r, 2), lbclient.ClassUnsafe)
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Error(err)
	}
}

// TestEvidence goes by the gate's own count of the balancer's probes alone:
// nothing can be looked at.
func TestEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate, tag: "web", nodes: 3})
	w.edit = func(c *digitalocean.Config) {
		c.Probes = w.gates[c.Target]
		c.Health = blind{}
	}
	p := w.alone("w1")
	r := snapshot(t, p)
	if err := p.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	w.gates["w1"].closed.Store(true)
	var evidence string
	w.Await("every checker was told", func() bool {
		st, err := p.DrainStatus(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		evidence = st.Evidence
		return st.Stage == lbclient.DrainBusy
	})
	if w.cloud.Healthy(w.lb, w.ids["w1"]) || !strings.Contains(evidence, "3 checkers") {
		t.Errorf("the balancer has not noticed though it is said that %s", evidence)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinUnhealthy {
		t.Errorf("with a closed gate: %+v, error %v", st, err)
	}
	w.gates["w1"].closed.Store(false)
	w.Await("every checker was told", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})
	if !w.cloud.Healthy(w.lb, w.ids["w1"]) {
		t.Error("a droplet is called serving that gets no work")
	}
	// A balancer that looks elsewhere notices nothing, however long the wait.
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Port, b.Check.Path = appPort, "/healthz" })
	w.gates["w1"].closed.Store(true)
	w.Await("the last probes are old", func() bool {
		st, err := p.DrainStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.DrainAccepted && strings.Contains(st.Evidence, "not seen")
	})
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassInvalid)
}

type blind struct{}

func (blind) Health(context.Context, int, digitalocean.Check) (digitalocean.Verdict, string) {
	return digitalocean.VerdictUnknown, "nothing to be seen"
}

func TestNothingToSee(t *testing.T) {
	t.Parallel()
	walled := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w := newWorld(t, options{mode: digitalocean.ModeRemove, edit: func(c *digitalocean.Config) { c.Dial = walled }})
	p := w.alone("w1")
	wantClass(t, "Preflight", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	pool, err := p.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range pool.Members {
		if m.Phase != lbclient.PhaseUnknown {
			t.Errorf("%s is %s though nothing can be seen of it", m.Name, m.Phase)
		}
	}
	r := snapshot(t, p)
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Errorf("a drain for which nobody needs to serve: %v", err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(25 * second)
	for time.Now().Before(deadline) {
		if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinPending {
			t.Fatalf("got %+v, error %v, want pending", st, err)
		}
	}
}

func TestTiming(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) {
		b.Check.Interval, b.Check.Timeout, b.Check.Healthy, b.Check.Unhealthy = 10, 5, 5, 3
	})
	p := w.alone("w1").(lbclient.Timed)
	got, err := p.Timing(t.Context())
	if err != nil || got.DownWithin() != 35*second || got.UpWithin() != 55*second {
		t.Errorf("got %+v, error %v", got, err)
	}
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Healthy = 0 })
	_, err = p.Timing(t.Context())
	wantClass(t, "a check without a threshold", err, lbclient.ClassUnsupported)
}

func TestChecksThatNoGateCanFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeGate})
	p := w.alone("w1")
	r := snapshot(t, p)
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Protocol = "tcp" })
	wantClass(t, "Preflight of a tcp check", p.Preflight(t.Context()), lbclient.ClassUnsupported)
	wantClass(t, "BeginDrain with a tcp check", p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsupported)
	w.cloud.Change(w.lb, func(b *digitaloceantest.Balancer) { b.Check.Protocol, b.Check.Path = "http", "/" })
	wantClass(t, "Preflight of a check that misses the gate", p.Preflight(t.Context()), lbclient.ClassInvalid)
}

func TestConfig(t *testing.T) {
	good := digitalocean.Config{
		Name: "front", Token: "token-of-ours", LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6", Target: "web1", Mode: digitalocean.ModeRemove,
	}
	if _, err := digitalocean.New(good); err != nil {
		t.Fatal(err)
	}
	for what, edit := range map[string]func(*digitalocean.Config){
		"no name":           func(c *digitalocean.Config) { c.Name = "" },
		"no target":         func(c *digitalocean.Config) { c.Target = "" },
		"no token":          func(c *digitalocean.Config) { c.Token = "" },
		"no balancer":       func(c *digitalocean.Config) { c.LoadBalancer = "" },
		"a name for an id":  func(c *digitalocean.Config) { c.LoadBalancer = "front" },
		"a path for an id":  func(c *digitalocean.Config) { c.LoadBalancer = "../droplets/4de7ac8b-495b-4884-9a69-1050c6793cd6" },
		"no mode":           func(c *digitalocean.Config) { c.Mode = "" },
		"another mode":      func(c *digitalocean.Config) { c.Mode = "drain" },
		"a negative id":     func(c *digitalocean.Config) { c.Droplets = map[string]int{"web1": -1} },
		"one id twice":      func(c *digitalocean.Config) { c.Droplets = map[string]int{"web1": 1, "web2": 1} },
		"plain http":        func(c *digitalocean.Config) { c.Endpoint = "http://api.example.com" },
		"a path that drops": func(c *digitalocean.Config) { c.Endpoint = "https://api.example.com/do" },
		"a password":        func(c *digitalocean.Config) { c.Endpoint = "https://a:token-of-ours@api.example.com" },
		"no scheme":         func(c *digitalocean.Config) { c.Endpoint = "api.example.com" },
		"a long settle":     func(c *digitalocean.Config) { c.Settle = time.Hour },
		"a negative settle": func(c *digitalocean.Config) { c.Settle = -1 },
		"a strange port":    func(c *digitalocean.Config) { c.GatePort = 70000 },
		"a relative path":   func(c *digitalocean.Config) { c.GatePath = "gate" },
	} {
		c := good
		edit(&c)
		_, err := digitalocean.New(c)
		wantClass(t, what, err, lbclient.ClassInvalid)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, good); strings.Contains(text, "token-of-ours") {
			t.Errorf("%s prints the token: %s", verb, text)
		}
	}
	var e *lbclient.Error
	if _, err := digitalocean.New(digitalocean.Config{Name: "x"}); !errors.As(err, &e) {
		t.Errorf("got %T", err)
	}
}
