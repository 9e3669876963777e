package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// rolling is the script of a rollout that succeeds.
func rolling(f *fake) {
	f.rollouts = []api.Rollout{liveRollout()}
	f.script = []func(*fake){
		happen("", "deploy of 9c1d2e3, asked for by ann", nil),
		happen("web1", "web1 activates 9c1d2e3", func(r *api.Rollout) {
			r.Status = "rolling"
			phase(0, "activating", "drain")(r)
			phase(1, "prepared", "")(r)
			phase(2, "prepared", "")(r)
		}),
		happen("web1", "web1 serves 9c1d2e3, in rotation", phase(0, "active", "")),
		happen("", "every target serves 9c1d2e3", end("succeeded", "", "", "active", "active", "active")),
	}
}

func TestDeployWatchesToTheEnd(t *testing.T) {
	f := newFake(t)
	rolling(f)
	golden(t, "deploy", f, "deploy", "hello", "--ref", "v2")
	if want := `hello deploy {"ref":"v2","by":"ann"}`; len(f.calls) != 1 || f.calls[0] != want {
		t.Errorf("asked for %q, want %q", f.calls, want)
	}
}

func TestOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		end  func(*api.Rollout)
		code int
		says []string
	}{
		{"deployed", []string{"deploy", "hello"}, end("succeeded", "", "", "active", "active", "active"), 0,
			[]string{`hello-3 succeeded after 1m30s: 3 of 3 targets on 9c1d2e3 "Add search"`}},
		{"a target left out", []string{"deploy", "hello"}, end("succeeded", "", "", "active", "quarantined", "unreachable"), 3,
			[]string{"hello-3 succeeded after 1m30s, but 2 of 3 targets were left out: web2 quarantined; web3 unreachable"}},
		{"rolled back", []string{"deploy", "hello"}, end("rolled_back", "unhealthy", "web1 answered 500"), 3,
			[]string{"hello-3 rolled_back after 1m30s: unhealthy: web1 answered 500", "deployctl logs hello-3"}},
		{"failed", []string{"deploy", "hello"}, end("failed", "build_failed", "make: *** [all] Error 2"), 3, []string{"hello-3 failed"}},
		{"aborted by another", []string{"deploy", "hello"}, end("aborted", "requested", ""), 3, []string{"hello-3 aborted"}},
		{"superseded", []string{"deploy", "hello"}, end("superseded", "superseded", "superseded by hello-4"), 3, []string{"superseded by hello-4"}},
		{"rolled back by hand", []string{"rollback", "hello"}, end("succeeded", "", "", "active", "active", "active"), 0, []string{"hello-3 succeeded"}},
		{"resumed", []string{"resume", "hello"}, end("succeeded", "", "", "active", "active", "active"), 0, []string{"hello-3 succeeded"}},
		{"retried in vain", []string{"retry", "hello"}, end("rolled_back", "unhealthy", ""), 3, []string{"hello-3 rolled_back"}},
		{"abort, as asked", []string{"abort", "hello"}, end("aborted", "requested", "aborted by ann"), 0, []string{"hello-3 aborted after 1m30s: requested: aborted by ann"}},
		{"abort, too late", []string{"abort", "hello"}, end("succeeded", "", "", "active", "active", "active"), 3, []string{"hello-3 succeeded"}},
		{"show --follow of a failure", []string{"show", "-f", "hello-3"}, end("failed", "", ""), 3, []string{"hello-3 failed"}},
		{"show of a failure", []string{"show", "hello-3"}, end("failed", "", ""), 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.rollouts = []api.Rollout{liveRollout()}
			f.status.Apps = []api.AppStatus{{App: "hello", Live: &f.rollouts[0]}}
			f.script = []func(*fake){happen("", "it is over", tc.end)}
			r := deployctl(t, f, tc.args...)
			if r.code != tc.code {
				t.Errorf("exit %d, want %d\n%s%s", r.code, tc.code, r.stdout, r.stderr)
			}
			where := r.stdout
			if tc.code != 0 {
				where = r.stderr
			}
			mustSay(t, where, tc.says...)
			if r.code == 0 && r.stderr != "" {
				t.Errorf("standard error: %s", r.stderr)
			}
		})
	}
}

func TestNoWait(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	golden(t, "deploy-no-wait", f, "deploy", "hello", "--no-wait", "--by", "ci")
	if want := `hello deploy {"by":"ci"}`; f.calls[0] != want {
		t.Errorf("asked for %q, want %q", f.calls, want)
	}
}

// With --json, a script must be able to read the whole of standard output.
func TestDeployJSON(t *testing.T) {
	f := newFake(t)
	rolling(f)
	r := deployctl(t, f, "deploy", "hello", "--json")
	var ro api.Rollout
	if err := json.Unmarshal([]byte(r.stdout), &ro); err != nil || ro.Status != "succeeded" || r.code != 0 {
		t.Errorf("exit %d, %v:\n%s", r.code, err, r.stdout)
	}

	f = newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	f.script = []func(*fake){happen("", "it is over", end("failed", "build_failed", "no"))}
	r = deployctl(t, f, "deploy", "hello", "--json")
	var e struct{ Error api.Error }
	if err := json.Unmarshal([]byte(r.stderr), &e); err != nil || e.Error.Kind != "not_converged" || r.code != 3 {
		t.Errorf("exit %d, %v:\n%s", r.code, err, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), &ro); err != nil || ro.Status != "failed" {
		t.Errorf("%v:\n%s", err, r.stdout)
	}
}

func TestShowFollowJSONIsAPageALine(t *testing.T) {
	f := newFake(t)
	rolling(f)
	r := deployctl(t, f, "show", "hello-3", "--follow", "--json")
	var last api.EventPage
	events := 0
	for line := range strings.Lines(r.stdout) {
		last = api.EventPage{}
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		events += len(last.Events)
	}
	if events != 4 || !last.Rollout.Done || r.code != 0 {
		t.Errorf("exit %d with %d events, done %v", r.code, events, last.Rollout.Done)
	}
}

// A coordinator that is restarted must cost no more than a notice.
func TestFollowingSurvivesARestart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(http.ResponseWriter)
	}{
		{"connection lost", func(w http.ResponseWriter) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
		}},
		{"still starting", func(w http.ResponseWriter) {
			reply(w, 503, api.Error{Kind: api.ErrorUnavailable, Text: "the coordinator is starting"})
		}},
		{"proxy before it", func(w http.ResponseWriter) { http.Error(w, "<html>", http.StatusBadGateway) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // it waits for the client's own retries
			f := newFake(t)
			rolling(f)
			steps := f.script
			away := func(f *fake) {
				left := 4 // one more than the client tries by itself
				f.fault = func(w http.ResponseWriter) bool {
					f.mu.Lock()
					left--
					gone := left >= 0
					f.mu.Unlock()
					if gone {
						tc.fault(w)
					}
					return gone
				}
				steps[1](f)
			}
			f.script = append([]func(*fake){steps[0], away}, steps[2:]...)
			r := deployctl(t, f, "deploy", "hello")
			if r.code != 0 {
				t.Errorf("exit %d", r.code)
			}
			mustSay(t, r.stderr, "waiting for the coordinator to answer again", "the coordinator answers again")
			for _, text := range []string{"web1 activates", "web1 serves", "every target serves"} {
				if n := strings.Count(r.stdout, text); n != 1 {
					t.Errorf("%q told %d times:\n%s", text, n, r.stdout)
				}
			}
		})
	}
}

func TestFollowingEndsWhenTheTokenIsRevoked(t *testing.T) {
	f := newFake(t)
	rolling(f)
	f.script[1] = func(f *fake) {
		f.fault = func(w http.ResponseWriter) bool {
			reply(w, 401, api.Error{Kind: api.ErrorUnauthorized, Text: "the token is not known"})
			return true
		}
	}
	if r := deployctl(t, f, "deploy", "hello"); r.code != 1 || !strings.Contains(r.stderr, "did not accept the token in /etc/lockstep/admin-token") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// Whoever has just pushed follows a rollout that does not exist yet.
func TestFollowingWaitsForTheNextRollout(t *testing.T) {
	f := newFake(t)
	rolling(f)
	next, last := f.rollouts[0], f.rollouts[0]
	last.ID, last.Done = "hello-2", true
	f.rollouts = []api.Rollout{last}
	asked := 0
	f.fault = func(http.ResponseWriter) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if asked++; asked == 6 {
			f.rollouts = []api.Rollout{next, last}
		}
		return false
	}
	r := deployctl(t, f, "show", "--follow", "hello-3")
	if r.code != 0 || !strings.Contains(r.stdout, "every target serves 9c1d2e3") || !strings.Contains(r.stderr, "hello-3 has not begun; waiting for it\n") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	// One that is not next will not come about by waiting.
	if r := deployctl(t, f, "show", "--follow", "hello-5"); r.code != 1 || !strings.Contains(r.stderr, "there is no rollout hello-5") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	if r := deployctl(t, f, "show", "--follow", "hello-4", "--timeout", "100ms"); r.code != 3 || !strings.Contains(r.stderr, "hello-4 has not begun after 100ms") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// Ctrl-C must leave the rollout alone and tell how to come back.
func TestDetach(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"deploy", "hello"}, "deployctl show --follow hello-3"},
		{[]string{"show", "--follow", "hello"}, "deployctl show --follow hello-3"},
		{[]string{"logs", "--follow", "hello-3"}, "deployctl logs --follow hello-3"},
	} {
		t.Run(tc.args[0], func(t *testing.T) {
			f := newFake(t)
			f.rollouts = []api.Rollout{liveRollout()}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { <-f.idle; cancel() }()
			r := deployctlContext(t, ctx, f, tc.args...)
			if want := "deployctl: detached; the rollout goes on. Follow it with: " + tc.want + "\n"; r.code != 130 || r.stderr != want {
				t.Errorf("exit %d: %s", r.code, r.stderr)
			}
			for _, call := range f.calls {
				if !strings.HasPrefix(call, "hello deploy ") {
					t.Errorf("did %q", call)
				}
			}
		})
	}
}

func TestTimeoutDetaches(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	r := deployctl(t, f, "deploy", "hello", "--timeout", "100ms")
	if r.code != 3 || !strings.Contains(r.stderr, "hello-3 is not over after 100ms; it goes on. Follow it with: deployctl show --follow hello-3") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

func TestFollowingGivesUpAfterLongSilence(t *testing.T) {
	now := noon
	c := &cli{now: func() time.Time { now = now.Add(time.Minute); return now }, retryPause: time.Microsecond}
	told := 0
	err := c.persist(t.Context(), func(error) { told++ }, func() error { return &api.UnreachableError{Err: context.DeadlineExceeded} })
	if err == nil || !strings.Contains(err.Error(), "gave up after 10m0s without an answer") || told != 1 {
		t.Errorf("told %d times, err = %v", told, err)
	}
}

func TestLogs(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	line := func(n int64, node string, step api.Step, data string) api.LogLine {
		return api.LogLine{Position: n, At: noon, Node: node, App: "hello", Rollout: "hello-3", Step: step, Data: data}
	}
	f.logs = []api.LogLine{
		line(1, "web1", "fetch", "fetching\n"),
		line(2, "web1", "build", "npm "), // cut in the middle, as chunks are
		line(3, "web2", "build", "npm ci\n\n"),
		line(4, "web1", "build", "ci\n10%\r50%\rdone\n"),
		line(5, "web2", "build", "no end"),
	}
	golden(t, "logs", f, "logs", "hello-3")
	golden(t, "logs-one", f, "logs", "hello", "--node", "web2", "--step", "build")
	golden(t, "logs-none", f, "logs", "hello-3", "--node", "web9")

	f.script = []func(*fake){
		func(f *fake) { f.logs = append(f.logs, line(6, "web2", "build", ", or is it\n")) },
		func(f *fake) { end("succeeded", "", "")(&f.rollouts[0]) },
	}
	golden(t, "logs-follow", f, "logs", "hello-3", "--follow", "--node", "web2")

	of := func(n int64, instance, data string) api.LogLine {
		l := line(n, "web1", api.StepAfterDrain, data)
		l.Instance = instance
		return l
	}
	before := f.logs
	f.logs = append(f.logs, of(7, "8000", "hand "), of(8, "8001", "hand over\n"), of(9, "8000", "over\n"))
	golden(t, "logs-instances", f, "logs", "hello", "--node", "web1", "--step", "after_drain")
	f.logs = before

	r := deployctl(t, f, "logs", "hello-3", "--json")
	if n := strings.Count(r.stdout, "\n"); n != 6 || r.code != 0 {
		t.Errorf("exit %d, %d lines:\n%s", r.code, n, r.stdout)
	}
}

// What others wrote must not steer the terminal that shows it.
func TestHarmless(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	f.rollouts[0].Release.Subject = "red \x1b[31malert\x1b[0m\x1b]0;owned\x07 \u202egnp.exe \x9b2J\nsecond line"
	r := deployctl(t, f, "show", "hello-3")
	mustSay(t, r.stdout, `"red alert gnp.exe`, `second line"`)
	if strings.ContainsAny(r.stdout, "\x1b\x07\u202e\u009b") {
		t.Errorf("escapes in %q", r.stdout)
	}
}

func TestLogsOnATerminalAreHarmless(t *testing.T) {
	f := newFake(t)
	f.rollouts = []api.Rollout{liveRollout()}
	f.logs = []api.LogLine{{Position: 1, Node: "web1", Step: "build", Data: "\x1b[32mok\x1b[0m \x1b]52;c;aGk=\x07\n"}}
	var stdout, stderr bytes.Buffer
	c := setup(t, f, &stdout, &stderr)
	c.term = &screen{columns: 80, height: 24}
	if code := c.run(t.Context(), []string{"logs", "hello-3"}); code != 0 || stdout.String() != "web1 build | ok \n" {
		t.Errorf("exit %d: %q", code, stdout.String())
	}
	if r := deployctl(t, f, "logs", "hello-3"); !strings.Contains(r.stdout, "\x1b[32mok") {
		t.Errorf("a file gets %q", r.stdout)
	}
}
