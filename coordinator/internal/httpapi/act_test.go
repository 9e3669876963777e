package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/agenttest"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

func TestDeployFromStartToEnd(t *testing.T) {
	s := newStage(t)
	r := s.deploy("hello", "")
	if r.ID != "hello-1" || r.Kind != "deploy" || r.By != "ann" || r.Release.SHA != sha("a") || r.Release.Subject != "change a" || len(r.Targets) != 2 || r.Done {
		t.Errorf("accepted: %+v", r)
	}
	s.work()
	r = s.rollout("hello-1")
	if r.Status != "succeeded" || !r.Done || r.Finished == nil || r.Targets[0].Phase != "active" || r.Targets[0].Node != "web2" {
		t.Errorf("finished: %+v", r)
	}
	st := s.status("hello")
	if !st.Converged || st.Skew != "2 of 2 targets on "+sha("a")[:7] || st.Release.SHA != sha("a") || !st.Release.Stable || st.Live != nil || st.Since == nil {
		t.Errorf("status: %+v", st)
	}
}

func TestDeployRefused(t *testing.T) {
	s := newStage(t)
	deploy := func(ref, by string) error {
		_, err := s.admin.Deploy(t.Context(), "hello", api.DeployRequest{Ref: ref, By: by})
		return err
	}
	expectError(t, deploy("", ""), api.ErrorInvalid, `"by" is missing`)
	expectError(t, deploy("", "  "), api.ErrorInvalid, `"by" is missing`)
	expectError(t, deploy("", "lockstep"), api.ErrorInvalid, "a person's name")
	expectError(t, deploy("", strings.Repeat("x", 101)), api.ErrorInvalid, "a person's name")
	expectError(t, deploy("nowhere", "ann"), api.ErrorNotFound, "nowhere")
	expectError(t, deploy("twice", "ann"), api.ErrorInvalid, "twice")
	gone, err := mirror.Open(filepath.Join(t.TempDir(), "mirror"), "/nowhere/hello.git", gitremote.Login{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = gone.RemoteHead(t.Context(), "main")
	s.repo.cut(err)
	expectError(t, deploy("", "ann"), api.ErrorUnavailable, "/nowhere/hello.git")
	s.repo.cut(errors.New("the disk is full"))
	expectError(t, deploy("", "ann"), api.ErrorInternal, "the disk is full")
	s.repo.cut(nil)
	if n := len(s.list("hello")); n != 0 {
		t.Errorf("%d rollouts of what was refused", n)
	}
	if err := deploy("", "ann"); err != nil {
		t.Fatal(err)
	}
	err = deploy("", "ann")
	expectError(t, err, api.ErrorConflict, "is being deployed by hello-1")
	var e *api.Error
	if errors.As(err, &e); e.Reason != "already_deployed" {
		t.Errorf("reason %q", e.Reason)
	}
}

func (s *stage) list(app string) []api.Rollout {
	s.t.Helper()
	rs, err := s.admin.Rollouts(s.t.Context(), app)
	if err != nil {
		s.t.Fatal(err)
	}
	return rs
}

func TestActionsNameTheRolloutTheyAreAbout(t *testing.T) {
	s := newStage(t, "hello", "bye")
	ann := api.ActionRequest{By: "ann", Reason: "lunch"}
	_, err := s.admin.Pause(t.Context(), "hello", ann)
	expectError(t, err, api.ErrorConflict, "no rollout under way")
	_, err = s.admin.Pause(t.Context(), "hello", api.ActionRequest{})
	expectError(t, err, api.ErrorInvalid, `"by" is missing`)

	s.deploy("bye", "")
	s.deploy("hello", "")
	expect := func(r api.Rollout, err error, id string, status string, paused bool) {
		t.Helper()
		if err != nil || r.ID != id || r.Status != status || (r.Paused != nil) != paused {
			t.Errorf("%+v, %v; expected %s, %s", r, err, id, status)
		}
	}
	r, err := s.admin.Pause(t.Context(), "hello", ann)
	expect(r, err, "hello-1", "preparing", true)
	if r.Paused != nil && (r.Paused.By != "ann" || r.Paused.Text != "lunch") {
		t.Errorf("paused: %+v", r.Paused)
	}
	r, err = s.admin.Resume(t.Context(), "hello", ann)
	expect(r, err, "hello-1", "preparing", false)
	r, err = s.admin.Retry(t.Context(), "hello", ann)
	expect(r, err, "hello-1", "preparing", false)
	r, err = s.admin.Abort(t.Context(), "hello", ann)
	expect(r, err, "hello-1", "aborted", false)
	r, err = s.admin.Retry(t.Context(), "hello", ann)
	expect(r, err, "hello-2", "preparing", false)
	s.work()
	s.repo.push("b")
	s.deploy("hello", "")
	s.work()
	r, err = s.admin.Rollback(t.Context(), "hello", api.RollbackRequest{By: "ann"})
	expect(r, err, "hello-4", "preparing", false)
	if r.Kind != "rollback" || r.Release.SHA != sha("a") {
		t.Errorf("rollback: %+v", r)
	}
	s.work()
	if st := s.status("hello"); !st.Converged || st.Release.SHA != sha("a") {
		t.Errorf("after the rollback: %+v", st)
	}
	if rs := s.list("hello"); len(rs) != 4 || rs[0].ID != "hello-4" || rs[3].ID != "hello-1" || rs[1].Release.Bad == "" {
		t.Errorf("rollouts: %+v", rs)
	}
}

func TestRollbackNamesItsRelease(t *testing.T) {
	s := newStage(t)
	for _, c := range []string{"a", "b", "c"} {
		if c != "a" {
			s.repo.push(c)
		}
		s.deploy("hello", "")
		s.work()
	}
	rollback := func(to string) (api.Rollout, error) {
		return s.admin.Rollback(t.Context(), "hello", api.RollbackRequest{To: to, By: "ann"})
	}
	_, err := rollback("ddddddd")
	expectError(t, err, api.ErrorNotFound, `has no release "ddddddd"`)
	_, err = rollback("aaaaaa") // six digits may be anything
	expectError(t, err, api.ErrorNotFound, `has no release "aaaaaa"`)
	r, err := rollback("AAAAAAA")
	if err != nil || r.Release.SHA != sha("a") {
		t.Errorf("%+v, %v", r, err)
	}
	s.work()
	r, err = rollback(sha("b")[:12] + "-111111")
	if err != nil || r.Release.SHA != sha("b") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestHolds(t *testing.T) {
	s := newStage(t)
	hold := func(rq api.HoldRequest) (api.AppStatus, error) { return s.admin.Hold(t.Context(), "hello", rq) }
	_, err := hold(api.HoldRequest{By: "ann"})
	expectError(t, err, api.ErrorInvalid, "needs a reason")
	_, err = hold(api.HoldRequest{By: "ann", Reason: "x", For: -1})
	expectError(t, err, api.ErrorInvalid, "less than nothing")
	_, err = hold(api.HoldRequest{Reason: "x"})
	expectError(t, err, api.ErrorInvalid, `"by" is missing`)
	st, err := hold(api.HoldRequest{By: "ann", Reason: "fair", For: api.Duration(time.Hour)})
	if err != nil || st.Hold == nil || st.Hold.By != "ann" || st.Hold.Reason != "fair" || st.Hold.Until == nil || st.Hold.Until.Sub(st.Hold.At) != time.Hour {
		t.Errorf("%+v, %v", st.Hold, err)
	}
	st, err = s.admin.Unhold(t.Context(), "hello", api.ActionRequest{By: "ann"})
	if err != nil || st.Hold != nil {
		t.Errorf("%+v, %v", st.Hold, err)
	}
	_, err = s.admin.Unhold(t.Context(), "hello", api.ActionRequest{By: "ann"})
	expectError(t, err, api.ErrorConflict, "not on hold")
	st, err = hold(api.HoldRequest{By: "ann", Reason: "fair"})
	if err != nil || st.Hold == nil || st.Hold.Until != nil {
		t.Errorf("%+v, %v", st.Hold, err)
	}
}

func TestHealth(t *testing.T) {
	s := newStage(t)
	if status, _ := s.ask(http.MethodGet, "/healthz", "", ""); status != http.StatusOK {
		t.Errorf("answered %d", status)
	}
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	status, e := s.ask(http.MethodGet, "/healthz", "", "")
	if status != http.StatusServiceUnavailable || e.Kind != api.ErrorUnavailable || !strings.Contains(e.Text, "closed") {
		t.Errorf("answered %d %+v without a store", status, e)
	}
}

func TestPanicIsOneRequestsOnly(t *testing.T) {
	s := newStage(t)
	s.restart(func(c *httpapi.Config) {
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no such thing") })
	})
	status, e := s.ask(http.MethodGet, "/metrics", "", "")
	if status != http.StatusInternalServerError || e.Kind != api.ErrorInternal || strings.Contains(e.Text, "no such thing") {
		t.Errorf("answered %d %+v", status, e)
	}
	if status, _ := s.ask(http.MethodGet, "/healthz", "", ""); status != http.StatusOK {
		t.Errorf("answered %d after a panic", status)
	}
}

func TestStopEndsLongPolls(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	req := agenttest.New("web3").Report(true)
	events, err := s.admin.Events(t.Context(), "hello-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	last := events.Events[len(events.Events)-1].Number
	results := make(chan error, 3)
	poll := func(call func() error) {
		go func() { results <- call() }()
	}
	poll(func() error { _, err := s.agent("web3").Sync(context.Background(), req); return err })
	poll(func() error {
		_, err := s.admin.Events(context.Background(), "hello-1", last, api.LongPoll)
		return err
	})
	poll(func() error {
		_, err := s.admin.Logs(context.Background(), "hello-1", api.LogQuery{Wait: api.LongPoll})
		return err
	})
	// They may not have arrived yet; whether they have, stopping must end them.
	select {
	case err := <-results:
		t.Fatalf("not held: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	begun := time.Now()
	s.stop()
	s.stop = func() {}
	for range 3 {
		select {
		case err := <-results:
			expectError(t, err, api.ErrorUnavailable, "stopping")
		case <-time.After(5 * time.Second):
			t.Fatal("a long poll outlives the stop")
		}
	}
	if d := time.Since(begun); d > 3*time.Second {
		t.Errorf("took %s", d)
	}
}
