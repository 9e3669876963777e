package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestUsageErrors(t *testing.T) {
	f := newFake(t)
	for _, args := range []string{
		"nonsense", "status a b", "status --nonsense", "deploy", "deploy a b", "deploy hello --timeout soon", "show", "logs", "plan", "plan hello --to 3f2a91c", "plan hello --rollback --ref main", "pause",
		"hold hello", "hold hello --reason x --for=-1h", "config", "config nonsense", "config check",
	} {
		if r := deployctl(t, f, strings.Fields(args)...); r.code != 2 || !strings.Contains(r.stderr, "See deployctl --help") {
			t.Errorf("deployctl %s: exit %d, %s", args, r.code, r.stderr)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("did %q", f.calls)
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	f := newFake(t)
	for _, args := range []string{"--help", "help deploy", "help exit-codes", "completion bash", "version"} {
		if r := deployctl(t, f, strings.Fields(args)...); r.code != 0 || r.stdout == "" || r.stderr != "" {
			t.Errorf("deployctl %s: exit %d, %s", args, r.code, r.stderr)
		}
	}
	mustSay(t, deployctl(t, f, "help", "exit-codes").stdout, "130", "superseded")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("wrong-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	for _, tc := range []struct {
		name string
		args []string
		says []string
	}{
		{"nobody there", []string{"status", "--coordinator", nobody}, []string{"cannot reach the coordinator at " + nobody, "connection refused", "--coordinator", "LOCKSTEP_COORDINATOR"}},
		{"nobody there to deploy", []string{"deploy", "hello", "--coordinator", nobody}, []string{"cannot reach the coordinator at " + nobody, "LOCKSTEP_COORDINATOR"}},
		{"wrong token", []string{"status", "--token-file", wrong}, []string{"did not accept the token in " + wrong, "--token-file", "LOCKSTEP_TOKEN_FILE"}},
		{"no token file", []string{"status", "--token-file", wrong + "x"}, []string{wrong + "x: no such file", "--token-file", "LOCKSTEP_TOKEN_FILE"}},
		{"empty token file", []string{"status", "--token-file", empty}, []string{"it is empty", empty}},
		{"odd address", []string{"status", "--coordinator", "coordinator:7400"}, []string{"expected a URL such as", "--coordinator"}},
		{"no authority file", []string{"status", "--ca-file", empty + "x"}, []string{"authority's certificate", empty + "x"}},
		{"no authority in it", []string{"status", "--ca-file", empty}, []string{"expected a PEM certificate", empty}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := deployctl(t, f, tc.args...)
			if r.code != 1 {
				t.Errorf("exit %d", r.code)
			}
			mustSay(t, r.stderr, tc.says...)
			if strings.Contains(r.stderr+r.stdout, "wrong-secret") {
				t.Errorf("the token leaks: %s", r.stderr)
			}
			if strings.Contains(r.stderr, "Whether the coordinator received") {
				t.Errorf("a refused connection received nothing: %s", r.stderr)
			}
		})
	}
}

// A deploy whose answer was lost must not look like one that did not happen.
func TestLostAnswerToADeploy(t *testing.T) {
	f := newFake(t)
	f.fault = func(w http.ResponseWriter) bool {
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
		return true
	}
	r := deployctl(t, f, "deploy", "hello")
	if r.code != 1 {
		t.Errorf("exit %d", r.code)
	}
	mustSay(t, r.stderr, "Whether the coordinator received the request is unknown", "deployctl rollouts hello")
}

func TestRefusalIsTold(t *testing.T) {
	f := newFake(t)
	f.refusal = &api.Error{Kind: api.ErrorConflict, Reason: "rollout_live", Text: "hello-3 is rolling; `deployctl abort hello` takes it back"}
	golden(t, "rollback-refused", f, "rollback", "hello", "--to", "3f2a91c")
	r := deployctl(t, f, "rollback", "hello", "--json")
	var e struct{ Error api.Error }
	if err := json.Unmarshal([]byte(r.stderr), &e); err != nil || e.Error.Kind != api.ErrorConflict || e.Error.Reason != "rollout_live" {
		t.Errorf("%v: %s", err, r.stderr)
	}
}

// A rollout's id stands for its app only while it is the one concerned.
func TestActionsOnARollout(t *testing.T) {
	f := newFake(t)
	over := liveRollout()
	over.ID, over.App = "api-2-7", "api-2"
	end("failed", "build_failed", "")(&over)
	f.rollouts = []api.Rollout{liveRollout(), over}
	f.status.Apps = []api.AppStatus{
		{App: "hello", Live: &f.rollouts[0]}, {App: "api-2"}, {App: "new"},
		{App: "held", Waiting: &api.Rollout{ID: "held-1", App: "held"}},
	}
	for _, tc := range []struct {
		args string
		code int
		want string // the action, or what standard error says
	}{
		{"pause hello --reason lunch", 0, `hello pause {"by":"ann","reason":"lunch"}`},
		{"pause hello-3", 0, `hello pause {"by":"ann"}`},
		{"resume hello-3 --no-wait", 0, `hello resume {"by":"ann"}`},
		{"abort hello-3 --no-wait", 0, `hello abort {"by":"ann"}`},
		{"abort held-1 --no-wait", 0, `held abort {"by":"ann"}`},
		{"retry api-2 --no-wait", 0, `api-2 retry {"by":"ann"}`},
		{"retry api-2-7 --no-wait", 0, `api-2 retry {"by":"ann"}`},
		{"abort hello-2", 1, "hello-2 is not the live rollout of hello: that is hello-3 deploy"},
		{"abort api-2-7", 1, "api-2 has no live rollout; the newest one is over: api-2-7 deploy"},
		{"retry api-2-6", 1, "api-2 has no live rollout; the newest one is over: api-2-7"},
		{"pause new-1", 1, "new has no live rollout, and never had one"},
		{"pause nope", 1, `there is no app "nope" on this coordinator: there is hello, api-2, new, held`},
		{"pause nope-1", 1, `there is no app "nope"`},
	} {
		f.calls = nil
		r := deployctl(t, f, strings.Fields(tc.args)...)
		if r.code != tc.code {
			t.Errorf("deployctl %s: exit %d, want %d: %s", tc.args, r.code, tc.code, r.stderr)
		}
		if tc.code == 0 && !slices.Equal(f.calls, []string{tc.want}) {
			t.Errorf("deployctl %s: did %q, want %q", tc.args, f.calls, tc.want)
		}
		if tc.code != 0 && (!strings.Contains(r.stderr, tc.want) || len(f.calls) > 0) {
			t.Errorf("deployctl %s: did %q and said %s", tc.args, f.calls, r.stderr)
		}
	}
}

func TestHold(t *testing.T) {
	f := newFake(t)
	f.status.Apps = []api.AppStatus{{App: "hello"}}
	golden(t, "hold", f, "hold", "hello", "--reason", "freeze", "--for", "2h")
	golden(t, "unhold", f, "unhold", "hello")
	if want := []string{`hello hold {"by":"ann","reason":"freeze","for":"2h0m0s"}`, `hello unhold {"by":"ann"}`}; !slices.Equal(f.calls, want) {
		t.Errorf("did %q, want %q", f.calls, want)
	}
}

func TestConfigCheck(t *testing.T) {
	for _, name := range []string{"ADMIN", "WEBHOOK", "WEB1", "WEB2"} {
		t.Setenv("FLEET_TEST_"+name, "0123456789abcdef0123456789abcdef-"+name)
	}
	f := newFake(t)
	golden(t, "config-valid", f, "config", "check", "testdata/fleet.yaml")
	golden(t, "config-json", f, "config", "check", "testdata/fleet.yaml", "--json")
	golden(t, "config-wrong", f, "config", "check", "testdata/fleet-wrong.yaml")
	golden(t, "config-absent", f, "config", "check", "testdata/absent.yaml")
	r := deployctl(t, f, "config", "check", "testdata/fleet.yaml", "--defaults")
	if r.code != 0 {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	mustSay(t, r.stdout, "drain_timeout:", "FLEET_TEST_ADMIN")
	if strings.Contains(r.stdout+r.stderr, "0123456789abcdef") {
		t.Errorf("a secret leaks: %s%s", r.stdout, r.stderr)
	}
}

func TestCompletionOffersApps(t *testing.T) {
	f := newFake(t)
	r := liveRollout()
	f.status.Apps = []api.AppStatus{{App: "hello", Skew: "3 of 3 targets on 3f2a91c", Live: &r}}
	mustSay(t, deployctl(t, f, "__complete", "deploy", "").stdout, "hello\t3 of 3")
	mustSay(t, deployctl(t, f, "__complete", "abort", "").stdout, "hello\t3 of 3", "hello-3\tpreparing")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// Output that was lost must not look like success.
func TestOutputThatCannotBeWritten(t *testing.T) {
	f := newFake(t)
	f.status.Apps = []api.AppStatus{convergedApp()}
	for _, args := range [][]string{{"status"}, {"status", "--json"}} {
		var stdout, stderr bytes.Buffer
		c := setup(t, f, &stdout, &stderr)
		c.stdout = fullDisk{}
		if code := c.run(t.Context(), args); code != 1 || !strings.Contains(stderr.String(), "cannot write the output: no space left") {
			t.Errorf("%v: exit %d: %s", args, code, stderr.String())
		}
	}
}
