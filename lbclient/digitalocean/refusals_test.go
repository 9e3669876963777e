package digitalocean_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean/digitaloceantest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func TestBusyIsNotDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove})
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
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
	w.edit = func(c *digitalocean.Config) { c.Token = "token-of-ours" }
	p = w.alone("w1")
	r := lbtest.Snapshot(t, p)
	w.cloud.Inject(digitaloceantest.Fault{Method: http.MethodDelete, Times: 1, Answer: limited(nil)})
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Errorf("a removal that was surely not carried out is not tried again: %v", err)
	}
}

func TestReadOnlyToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mode: digitalocean.ModeRemove, Options: digitaloceantest.Options{ReadOnly: "token-of-ours"}})
	full := w.alone("w1")
	r := lbtest.Snapshot(t, full)
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
	r := lbtest.Snapshot(t, p)
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
