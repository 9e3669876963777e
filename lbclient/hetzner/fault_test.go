package hetzner_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

func removing(t *testing.T) (*world, lbclient.Provider, lbclient.Restore) {
	t.Helper()
	w := newWorld(t, options{kind: byPrivateServer, mode: hetzner.ModeRemove})
	p := w.alone("w1")
	return w, p, lbtest.Snapshot(t, p)
}

const remove, add = "remove_target", "add_target"

func TestUsePrivateIPIsPutBack(t *testing.T) {
	w, p, r := removing(t)
	lbtest.Drain(t, p, r)
	w.wantTargets(w.target("w2"), w.target("w3"))
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))

	t.Run("where another hand has added it without", func(t *testing.T) {
		lbtest.Drain(t, p, r)
		public := w.target("w1")
		public.UsePrivateIP = false
		w.cloud.SetTargets(w.lb, append(w.cloud.Targets(w.lb), public)...)
		if st := lbtest.RejoinStatus(t, p, r); st.Stage != lbclient.RejoinNotAsked || !strings.Contains(st.Evidence, "use_private_ip true") {
			t.Errorf("%+v", st)
		}
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
	})
	t.Run("where the cloud says that it is defined already", func(t *testing.T) {
		// The answer to the first add is lost, and the second is refused: only
		// reading back tells that all is well.
		lbtest.Drain(t, p, r)
		w.cloud.Inject(hetznertest.Fault{Path: add, Times: 1, Lose: true})
		err := p.BeginRejoin(t.Context(), r)
		w.Await("the rejoin is accepted", func() bool {
			if err != nil && !lbclient.ClassOf(err).Retryable() {
				t.Fatal(err)
			}
			err = p.BeginRejoin(t.Context(), r)
			return err == nil
		})
		w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
	})
	t.Run("a drain refuses what was changed since", func(t *testing.T) {
		public := w.target("w1")
		public.UsePrivateIP = false
		w.cloud.SetTargets(w.lb, public, w.target("w2"), w.target("w3"))
		before := w.posts()
		w.Await("the others are healthy", func() bool { return w.phase(p, "w2") == lbclient.PhaseServing })
		wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassInvalid, "use_private_ip was true", "record it again")
		if w.posts() != before {
			t.Error("a refused drain changed something")
		}
	})
}

func TestWhatBecomesOfAnAction(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault hetznertest.Fault
		class lbclient.Class // "" when the drain succeeds all the same
		words []string
	}{
		{"it fails", hetznertest.Fault{Action: hetznertest.OutcomeError, ErrorCode: "server_error"}, lbclient.ClassAmbiguous, []string{"server_error", "still lists it"}},
		{"it fails for a reason that nobody knows", hetznertest.Fault{Action: hetznertest.OutcomeError, ErrorCode: "hiccup"}, lbclient.ClassTransient, []string{"hiccup", remove}},
		{"it fails for good", hetznertest.Fault{Action: hetznertest.OutcomeError, ErrorCode: "protected"}, lbclient.ClassDenied, []string{"protected"}},
		{"it does not end", hetznertest.Fault{Action: hetznertest.OutcomeStuck}, lbclient.ClassBusy, []string{"is running at", "500ms"}},
		{"it succeeds and nothing changed", hetznertest.Fault{Action: hetznertest.OutcomeNoEffect}, lbclient.ClassConflict, []string{"still lists it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, p, r := removing(t)
			c.fault.Path, c.fault.Times = remove, 1
			w.cloud.Inject(c.fault)
			wantError(t, p.BeginDrain(t.Context(), r, 1), c.class, c.words...)
			if c.fault.Action == hetznertest.OutcomeStuck {
				wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy, "locked")
				w.cloud.Unstick(w.lb)
			}
			if st := lbtest.DrainStatus(t, p, r); st.Stage != lbclient.DrainNotAsked {
				t.Errorf("after an action that did nothing: %+v", st)
			}
			lbtest.Drain(t, p, r)
			if err := p.BeginRejoin(t.Context(), r); err != nil {
				t.Error(err)
			}
			w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
		})
	}
	t.Run("it vanishes", func(t *testing.T) {
		t.Parallel()
		w, p, r := removing(t)
		w.cloud.Inject(hetznertest.Fault{Path: remove, Times: 1, Action: hetznertest.OutcomeVanish})
		err := p.BeginDrain(t.Context(), r, 1)
		if err != nil {
			wantError(t, err, lbclient.ClassAmbiguous, "is gone")
		}
		w.Await("the drain is asked for again", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
		w.wantTargets(w.target("w2"), w.target("w3"))
	})
}

// TestWhatIsListedMayBeHalfDone has a cloud that lists a change while its action
// is running, for a provider that did not begin it.
func TestWhatIsListedMayBeHalfDone(t *testing.T) {
	o := options{kind: byServer, mode: hetzner.ModeRemove}
	o.ListAtOnce = true
	w := newWorld(t, o)
	p := w.alone("w1")
	r := lbtest.Snapshot(t, p)
	for _, step := range []struct {
		path  string
		begin func(lbclient.Provider) error
	}{
		{remove, func(p lbclient.Provider) error { return p.BeginDrain(t.Context(), r, 1) }},
		{add, func(p lbclient.Provider) error { return p.BeginRejoin(t.Context(), r) }},
	} {
		w.cloud.Inject(hetznertest.Fault{Path: step.path, Times: 1, Action: hetznertest.OutcomeStuck})
		wantError(t, step.begin(p), lbclient.ClassBusy, "is running at")
		before := w.posts()
		wantError(t, step.begin(w.alone("w1")), lbclient.ClassBusy, step.path, "still running")
		w.cloud.Unstick(w.lb)
		if err := step.begin(w.alone("w1")); err != nil {
			t.Errorf("once %s has ended: %v", step.path, err)
		}
		if w.posts() != before {
			t.Errorf("%s was asked for again", step.path)
		}
	}
}

// TestRefusals has each answer once for a change and once for a look.
func TestRefusals(t *testing.T) {
	w, p, r := removing(t)
	for _, c := range []struct {
		status      int
		code        string
		message     string
		write, read lbclient.Class
		once        bool // not tried again by the transport
	}{
		{401, "unauthorized", "unable to authenticate", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{403, "forbidden", "insufficient permissions", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{401, "token_readonly", "token is only allowed to perform GET requests", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{403, "maintenance", "under maintenance", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{423, "protected", "resource is protected", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{423, "locked", "another action is running", lbclient.ClassBusy, lbclient.ClassBusy, true},
		{423, "resource_locked", "contact support", lbclient.ClassDenied, lbclient.ClassDenied, true},
		{409, "conflict", "has changed during the request", lbclient.ClassConflict, lbclient.ClassConflict, true},
		{412, "resource_unavailable", "not now", lbclient.ClassBusy, lbclient.ClassBusy, true},
		{429, "rate_limit_exceeded", "limit reached", lbclient.ClassRateLimited, lbclient.ClassRateLimited, false},
		{422, "service_error", "within a service", lbclient.ClassAmbiguous, lbclient.ClassTransient, true},
		{422, "invalid_input", "invalid input", lbclient.ClassInvalid, lbclient.ClassInvalid, true},
		{422, "invalid_input", "server with ID 7 not found", lbclient.ClassNotFound, lbclient.ClassNotFound, true},
		{422, "load_balancer_target_not_found", "not found", lbclient.ClassNotFound, lbclient.ClassNotFound, true},
		{422, "a_code_of_tomorrow", "?", lbclient.ClassInvalid, lbclient.ClassInvalid, true},
		{500, "server_error", "internal", lbclient.ClassAmbiguous, lbclient.ClassTransient, false},
		{502, "bad_gateway", "bad gateway", lbclient.ClassAmbiguous, lbclient.ClassTransient, false},
		{503, "unavailable", "unavailable", lbclient.ClassAmbiguous, lbclient.ClassTransient, false},
		{504, "timeout", "timeout", lbclient.ClassAmbiguous, lbclient.ClassTransient, false},
	} {
		t.Run(c.code+" "+c.message, func(t *testing.T) {
			defer w.cloud.Recover()
			f := hetznertest.Fault{Method: http.MethodPost, Status: c.status, Code: c.code, Message: c.message}
			w.cloud.Inject(f)
			before := w.posts()
			wantError(t, p.BeginDrain(t.Context(), r, 1), c.write, c.message)
			// A write is sent again only when it was surely not carried out.
			if n := w.posts() - before; n != 1 && c.status != 429 {
				t.Errorf("the change was sent %d times", n)
			}
			w.cloud.Recover()
			w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
			f.Method = http.MethodGet
			w.cloud.Inject(f)
			calls := len(w.cloud.Calls())
			_, err := p.DrainStatus(t.Context(), r)
			wantError(t, err, c.read, c.message)
			if n := len(w.cloud.Calls()) - calls; c.once != (n == 1) {
				t.Errorf("the look was tried %d times", n)
			}
		})
	}
}

func TestALockOrARateLimitPasses(t *testing.T) {
	w, p, r := removing(t)
	w.cloud.Lock(w.lb, 100*time.Millisecond)
	wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassBusy, "another action is running")
	w.Await("the lock passes", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })

	// Others of the project have used up all calls; they come back one by one.
	w.cloud.SetRemaining(0)
	w.Await("the limit passes", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
	w.Await("the target serves", func() bool {
		st, err := p.RejoinStatus(t.Context(), r)
		return err == nil && st.Stage == lbclient.RejoinServing
	})

	t.Run("a long pause that is asked for is not slept away", func(t *testing.T) {
		w.cloud.SetRemaining(1000)
		w.cloud.Inject(hetznertest.Fault{Method: http.MethodGet, Status: 429, Code: "rate_limit_exceeded", RetryAfter: "3600"})
		begun := time.Now()
		_, err := p.DrainStatus(t.Context(), r)
		wantError(t, err, lbclient.ClassRateLimited, "used up")
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestAnswersThatAreNone(t *testing.T) {
	w, p, r := removing(t)
	html := func(int, http.Header, []byte) (int, []byte) { return 200, []byte("<html>We will be back soon</html>") }
	for _, c := range []struct {
		name  string
		fault hetznertest.Fault
		class lbclient.Class
	}{
		{"a page in place of the API", hetznertest.Fault{Edit: html}, lbclient.ClassTransient},
		{"an error page", hetznertest.Fault{Edit: func(_ int, h http.Header, _ []byte) (int, []byte) {
			h.Set("Content-Type", "text/html")
			return 502, []byte("<html>Bad Gateway</html>")
		}}, lbclient.ClassTransient},
		{"half an object", hetznertest.Fault{Edit: func(s int, _ http.Header, b []byte) (int, []byte) { return s, b[:len(b)/2] }}, lbclient.ClassTransient},
		{"nothing", hetznertest.Fault{Edit: func(s int, _ http.Header, _ []byte) (int, []byte) { return s, nil }}, lbclient.ClassTransient},
		{"an empty object", hetznertest.Fault{Edit: func(s int, _ http.Header, _ []byte) (int, []byte) { return s, []byte("{}") }}, lbclient.ClassTransient},
		{"an answer that is cut off", hetznertest.Fault{Half: true}, lbclient.ClassTransient},
		{"a redirect", hetznertest.Fault{Edit: func(_ int, h http.Header, _ []byte) (int, []byte) {
			h.Set("Location", "https://login.example.com/")
			return 302, nil
		}}, lbclient.ClassInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer w.cloud.Recover()
			c.fault.Method = http.MethodGet
			w.cloud.Inject(c.fault)
			_, err := p.DrainStatus(t.Context(), r)
			wantError(t, err, c.class)
			_, err = p.Observe(t.Context())
			wantError(t, err, c.class)
			w.cloud.Recover()

			// As the answer to a change it leaves open what became of that.
			c.fault.Method, c.fault.Times = http.MethodPost, 1
			w.cloud.Inject(c.fault)
			if err := p.BeginDrain(t.Context(), r, 1); err != nil && c.class != lbclient.ClassInvalid && !lbclient.ClassOf(err).Retryable() {
				t.Errorf("BeginDrain: %v", err)
			}
			w.Await("the drain is asked for again", func() bool { return p.BeginDrain(t.Context(), r, 1) == nil })
			w.Await("the rejoin is accepted", func() bool { return p.BeginRejoin(t.Context(), r) == nil })
			w.Await("the target serves", func() bool { return lbtest.RejoinStatus(t, p, r).Stage == lbclient.RejoinServing })
		})
	}
	t.Run("words of tomorrow", func(t *testing.T) {
		defer w.cloud.Recover()
		w.cloud.Inject(hetznertest.Fault{Method: http.MethodGet, Edit: func(s int, _ http.Header, b []byte) (int, []byte) {
			text := strings.ReplaceAll(string(b), `"status":"healthy"`, `"status":"splendid","since":"yesterday"`)
			text = strings.Replace(text, `"targets":[`, `"weather":"fine","targets":[{"type":"teapot","teapot":{"id":7}},`, 1)
			return s, []byte(text)
		}})
		if got := w.phase(p, "w2"); got != lbclient.PhasePending {
			t.Errorf("a member with a verdict that nobody knows stands as %s, want pending", got)
		}
		if st := lbtest.RejoinStatus(t, p, r); st.Stage != lbclient.RejoinPending {
			t.Errorf("%+v", st)
		}
		wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassUnsafe, "0 other members are healthy")
	})
}

func TestTokenThatMayOnlyRead(t *testing.T) {
	o := options{kind: byServer, mode: hetzner.ModeRemove}
	o.ReadOnlyToken = "read-only"
	w := newWorld(t, o)
	c := w.config("w1")
	c.Token = "read-only"
	p := w.made(c)
	wantError(t, p.Preflight(t.Context()), lbclient.ClassDenied, "read and write permission")
	r := lbtest.Snapshot(t, p)
	wantError(t, p.BeginDrain(t.Context(), r, 1), lbclient.ClassDenied)
	w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
	if err := w.alone("w1").Preflight(t.Context()); err != nil {
		t.Errorf("with a token that may write: %v", err)
	}
	c.Token = "no-such-token"
	wantError(t, w.made(c).Preflight(t.Context()), lbclient.ClassDenied, "unable to authenticate")
}

// TestAnotherTurnsUnhealthyMeanwhile has the balancer lose another member
// between the count and the removal.
func TestAnotherTurnsUnhealthyMeanwhile(t *testing.T) {
	w, p, r := removing(t)
	w.cloud.Inject(hetznertest.Fault{Path: remove, Times: 1, Edit: func(s int, _ http.Header, b []byte) (int, []byte) {
		w.cloud.ReportHealth(w.ids["w2"], 80, "unhealthy")
		return s, b
	}})
	wantError(t, p.BeginDrain(t.Context(), r, 2), lbclient.ClassUnsafe, "1 other members are healthy on listen port 80 and 2 must be", "it was put back")
	w.wantTargets(w.target("w1"), w.target("w2"), w.target("w3"))
}
