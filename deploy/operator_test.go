package deploy_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// deployctl runs the program and returns what it said.
func (s *several) deployctl(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	c := exec.CommandContext(s.t.Context(), filepath.Join(bin, "deployctl"),
		append([]string{"--coordinator", "http://" + s.addr, "--token-file", s.path("admin")}, args...)...)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); c.ProcessState == nil || c.ProcessState.ExitCode() != code {
		s.t.Fatalf("deployctl %s: %v, expected exit code %d\n%s%s", strings.Join(args, " "), err, code, &out, &errs)
	}
	return out.String(), errs.String()
}

// mainPIDs are the main processes of the instances' units.
func (s *several) mainPIDs() string {
	s.t.Helper()
	args := []string{"--user", "show", "--value", "--property=MainPID"}
	for _, p := range s.ports {
		args = append(args, "hello@"+p+".service")
	}
	c := exec.Command("systemctl", args...)
	c.Env = append(os.Environ(), s.manager.Env()...)
	return strings.Join(strings.Fields(run(s.t, c)), " ")
}

func (s *several) serve(version string) {
	s.t.Helper()
	for _, p := range s.ports {
		resp, err := http.Get("http://127.0.0.1:" + p + "/")
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := strings.TrimSpace(string(b)); got != version || err != nil {
			s.t.Errorf("the instance at %s serves %q, %v; expected %s", p, got, err, version)
		}
	}
}

func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}

// awaitLog waits until the log of the newest rollout has these lines: agents hand
// them in a moment after.
func (s *several) awaitLog(want ...string) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		log, _ := s.deployctl(0, "logs", "hello")
		if !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(log, w) }) {
			return
		}
		if time.Now().After(end) {
			contains(s.t, "the log", log, want...)
			s.t.FailNow()
		}
	}
}

// forker is a server of the kind that is reloaded: the main process stays, and its
// worker is replaced by one of what is current.
const forker = `#!/bin/sh
worker() {
	(cd "$1" && exec bin/hello) &
	w=$!
}
trap 'kill $w; wait $w; worker "$1"' HUP
trap 'kill $w; wait $w; exit' TERM
worker "$1"
while :; do wait $w; sleep 0.1; done
`

// TestWhatAnOperatorSees is of an app that is reloaded rather than restarted, with
// everything that a release can run, under load and by deployctl alone: what plan
// says happens, logs tell whose they are, the main processes stay, a bad release is
// undone, and a rollback says beforehand who has to build again.
func TestWhatAnOperatorSees(t *testing.T) {
	script := filepath.Join(t.TempDir(), "forker")
	if err := os.WriteFile(script, []byte(forker), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSeveral(t, 2, `    restart: reload
    shared: [data/]
    release_command: "echo migrated to $LOCKSTEP_SHA | tee -a data/migrations"
    hooks:
      before_drain: "echo leaving"
      after_drain: "echo handed over from $LOCKSTEP_INSTANCE"
      before_rejoin: "echo warmed"
      after_rejoin: "echo back"
`, "WorkingDirectory=DIR/apps/hello\nExecStart="+script+" DIR/apps/hello/current-%i\nExecReload=/bin/kill -HUP $MAINPID\n")
	first := s.await("the first version serves", func(st api.AppStatus) bool { return st.Converged }).Release
	s.serve("v1")
	pids := s.mainPIDs()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	load := visit(ctx, s.lb.URL("web"))

	s.commit("v2", true)
	plan, _ := s.deployctl(0, "plan", "hello")
	contains(t, "the plan", plan, "run go build -o bin/hello .", "what all releases on a node share: data/", "Then, once, on one node",
		"run echo migrated to", "web1:"+s.ports[0], "web1:"+s.ports[1], "after_drain    echo handed over from $LOCKSTEP_INSTANCE", "if it fails, every target returns to "+first.SHA[:7])
	out, _ := s.deployctl(0, "deploy", "hello", "--by", "ann")
	contains(t, "deploy", out, "hello-2 succeeded", "2 of 2 targets")
	s.serve("v2")
	if now := s.mainPIDs(); now != pids {
		t.Errorf("the main processes were %s and are %s after a reload", pids, now)
	}
	s.awaitLog("web1 release_command | migrated to ")
	for _, p := range s.ports {
		s.awaitLog("web1:"+p+" after_drain | handed over from "+p, "web1:"+p+" before_drain | leaving",
			"web1:"+p+" before_rejoin | warmed", "web1:"+p+" after_rejoin | back")
	}
	b, err := os.ReadFile(s.path("apps/hello/shared/data/migrations"))
	if lines := strings.Count(string(b), "\n"); err != nil || lines != 2 {
		t.Errorf("two rollouts migrated %d times: %q, %v", lines, b, err)
	}

	// Somebody clears up by hand what a rollback would need.
	if err := os.RemoveAll(s.path("apps/hello/releases/" + first.ID)); err != nil {
		t.Fatal(err)
	}
	s.commit("v3", false)
	_, said := s.deployctl(3, "deploy", "hello", "--by", "ann")
	contains(t, "the deploy of a sick version", said, "hello-3 rolled_back", "unhealthy")
	s.serve("v2")
	if now := s.mainPIDs(); now != pids {
		t.Errorf("the main processes were %s and are %s after a reload that was undone", pids, now)
	}

	missing := "web1 no longer has " + first.SHA[:7] + ": it will be built again"
	plan, _ = s.deployctl(0, "plan", "hello", "--rollback")
	contains(t, "the plan of a rollback", plan, "rollback of hello to "+first.SHA[:7], missing)
	out, said = s.deployctl(0, "rollback", "hello", "--by", "ann")
	contains(t, "rollback", said, "warning: "+missing)
	contains(t, "rollback", out, "hello-4 succeeded")
	s.serve("v1")
	s.awaitLog("web1 build | $ go build")
	stop()
	sent, failed := load()
	if t.Logf("%d requests, %d failed", sent, len(failed)); len(failed) > 0 || sent < 100 {
		t.Errorf("%d of %d requests failed: %v", len(failed), sent, failed)
	}
}
