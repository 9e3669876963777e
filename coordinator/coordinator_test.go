package coordinator

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/agenttest"
	"github.com/lockstep-deploy/lockstep/webhook"
)

// configOfChild names, in the environment of this test program, the fleet file
// that it is to run a coordinator of instead of its tests.
const configOfChild = "LOCKSTEP_TEST_COORDINATOR"

func TestMain(m *testing.M) {
	if path := os.Getenv(configOfChild); path != "" {
		err := Run(context.Background(), Options{
			Config: path, Version: "test", Log: slog.New(slog.DiscardHandler),
			Ready: func(addr net.Addr) { fmt.Println(addr) },
		})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const fleetFile = `
coordinator:
  listen: 127.0.0.1:0
  database: lockstep.db
  mirrors: mirrors
  poll_interval: 1s
  admin_tokens: [{env: TEST_ADMIN}]
github:
  webhook_secrets: [{env: TEST_WEBHOOK}]
nodes:
  web1: {token: {env: TEST_WEB1}}
  web2: {token: {env: TEST_WEB2}}
apps:
  hello:
    repo: REPO
    branch: main
    nodes: [web1, web2]
    unit: hello.service
    health: none
    balancer: none
    soak: 0s
`

var secretsOfTest = map[string]string{
	"TEST_ADMIN": "admin-token-of-the-test", "TEST_WEBHOOK": "webhook-secret-of-the-test",
	"TEST_WEB1": "token-of-web1-in-the-test", "TEST_WEB2": "token-of-web2-in-the-test",
}

// site is a repository and the files of a coordinator that deploys it.
type site struct {
	t      *testing.T
	repo   string
	config string
	agents []*agenttest.Agent
}

func newSite(t *testing.T) *site {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	for name, value := range secretsOfTest {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	s := &site{t: t, repo: filepath.Join(dir, "hello"), config: filepath.Join(dir, "fleet.yaml")}
	s.agents = []*agenttest.Agent{agenttest.New("web1"), agenttest.New("web2")}
	if err := os.WriteFile(s.config, []byte(strings.Replace(fleetFile, "REPO", "file://"+s.repo, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.git(dir, "init", "-q", "-b", "main", s.repo)
	return s
}

func (s *site) git(dir string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit adds a commit to main and returns its SHA.
func (s *site) commit(subject string) string {
	s.t.Helper()
	s.git(s.repo, "commit", "-q", "--allow-empty", "-m", subject)
	return s.git(s.repo, "rev-parse", "HEAD")
}

// running is a coordinator that serves.
type running struct {
	*site
	url   string
	admin *api.Client
	stop  func() error
}

// start runs a coordinator in this process, until stop or the test's end.
func (s *site) start() *running {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Config: s.config, Version: "test", Log: slog.New(slog.DiscardHandler),
			Ready: func(addr net.Addr) { ready <- addr },
		})
	}()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("the coordinator does not stop")
		}
	}
	s.t.Cleanup(func() {
		if err := stop(); err != nil {
			s.t.Error(err)
		}
	})
	select {
	case addr := <-ready:
		return s.at(addr.String(), stop)
	case err := <-done:
		stopped = true
		s.t.Fatalf("the coordinator does not start: %v", err)
	}
	return nil
}

func (s *site) at(address string, stop func() error) *running {
	s.t.Helper()
	r := &running{site: s, url: "http://" + address, stop: stop}
	r.admin = r.client(secretsOfTest["TEST_ADMIN"])
	return r
}

func (r *running) client(token string) *api.Client {
	r.t.Helper()
	c, err := api.NewClient(r.url, token, api.WithRetries(0))
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// deliver sends the signed delivery of a push and returns the answer.
func (r *running) deliver(id, after string) webhook.Response {
	r.t.Helper()
	body := fmt.Sprintf(`{"ref":"refs/heads/main","before":"%040d","after":%q,"repository":{"full_name":"me/hello","clone_url":%q},"sender":{"login":"ann"}}`,
		0, after, "file://"+r.repo)
	mac := hmac.New(sha256.New, []byte(secretsOfTest["TEST_WEBHOOK"]))
	mac.Write([]byte(body))
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+"/webhook/github", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", id)
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a webhook.Response
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusAccepted {
		r.t.Fatalf("delivery %s answered %d %+v", id, resp.StatusCode, a)
	}
	return a
}

// resolved waits until it is recorded what became of a delivery.
func (r *running) resolved(id string) api.Delivery {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ds, err := r.admin.Deliveries(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, d := range ds {
			if d.ID == id && d.Decision != "accepted" {
				return d
			}
		}
	}
	r.t.Fatalf("delivery %s stays open", id)
	return api.Delivery{}
}

// converge lets the agents work until every target serves the commit.
func (r *running) converge(sha string) {
	r.t.Helper()
	var st api.Status
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, a := range r.agents {
			resp, err := r.client(secretsOfTest["TEST_"+strings.ToUpper(a.Node)]).Sync(r.t.Context(), a.Report(false))
			if err != nil {
				r.t.Fatal(err)
			}
			a.Take(resp.Assignments)
		}
		var err error
		if st, err = r.admin.Status(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		if st.Converged() && st.Apps[0].Release.SHA == sha {
			return
		}
	}
	r.t.Fatalf("not converged on %s: %+v", sha, st)
}

func TestPushIsDeployedAcrossRestarts(t *testing.T) {
	s := newSite(t)
	first := s.commit("First")
	r := s.start()
	r.converge(first) // found at start

	second := s.commit("Second")
	if a := r.deliver("d1", second); a.Decision != "accepted" || len(a.Apps) != 1 {
		t.Errorf("answered %+v", a)
	}
	d := r.resolved("d1")
	// Polling may have been faster.
	if d.Decision != "deployed" || len(d.Rollouts) != 1 || d.Rollouts[0] != "hello-2" {
		t.Errorf("became %+v", d)
	}
	ro, err := r.admin.Rollout(t.Context(), "hello-2")
	if err != nil || ro.Release.SHA != second || ro.Release.Subject != "Second" {
		t.Errorf("rollout %+v, %v", ro, err)
	}

	// Stopped in mid-rollout, with a node and a person waiting.
	web1 := r.client(secretsOfTest["TEST_WEB1"])
	for range 2 {
		resp, err := web1.Sync(t.Context(), s.agents[0].Report(false))
		if err != nil {
			t.Fatal(err)
		}
		s.agents[0].Take(resp.Assignments)
	}
	held, req := make(chan error, 1), s.agents[0].Report(true)
	go func() {
		for { // until it is held, and then ended
			if _, err := web1.Sync(context.Background(), req); err != nil {
				held <- err
				return
			}
		}
	}()
	begun := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(begun); d > 3*time.Second {
		t.Errorf("stopping took %s", d)
	}
	select {
	case <-held:
	case <-time.After(5 * time.Second):
		t.Error("a long poll outlives the coordinator")
	}

	third := s.commit("Third") // nobody tells of it
	r = s.start()
	ro, err = r.admin.Rollout(t.Context(), "hello-2")
	if err != nil || ro.Release.SHA != second {
		t.Errorf("after the restart: %+v, %v", ro, err)
	}
	r.converge(third)
}

// TestAnsweredDeliveriesSurviveAKill: what was answered 202 is deployed even if
// the coordinator is killed right after.
func TestAnsweredDeliveriesSurviveAKill(t *testing.T) {
	s := newSite(t)
	first := s.commit("First")
	for i := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), configOfChild+"="+s.config)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		address, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		r := s.at(strings.TrimSpace(address), nil)
		for j := range 5 {
			r.deliver(fmt.Sprintf("d%d-%d", i, j), first)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the coordinator ended well, expected it to be killed")
		}
	}
	r := s.start()
	for i := range 3 {
		for j := range 5 {
			if d := r.resolved(fmt.Sprintf("d%d-%d", i, j)); d.Decision != "deployed" {
				t.Errorf("%s became %s: %s", d.ID, d.Decision, d.Reason)
			}
		}
	}
	r.converge(first)
}

func TestRunRefuses(t *testing.T) {
	s := newSite(t)
	s.commit("First")
	s.start()
	log := slog.New(slog.DiscardHandler)
	if err := Run(t.Context(), Options{Config: s.config, Log: log}); err == nil || !strings.Contains(err.Error(), "lockstep.db") {
		t.Errorf("a second coordinator on one store: %v", err)
	}
	if err := Run(t.Context(), Options{Config: s.config + ".not", Log: log}); err == nil {
		t.Error("no error without a fleet file")
	}
}
