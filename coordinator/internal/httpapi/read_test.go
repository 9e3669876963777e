package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
)

func TestStatusOfWhatIsNotKnown(t *testing.T) {
	s := newStage(t)
	st := s.status("hello")
	if st.Converged || st.Skew != "2 unknown" || st.Release != nil || st.Pool != "edge" || len(st.Targets) != 2 {
		t.Errorf("before anyone called: %+v", st)
	}
	for _, ts := range st.Targets {
		if ts.Reachable || ts.Rotation != api.RotationUnknown || ts.Health != api.HealthUnknown || ts.LastSeen != nil || ts.Release != nil || ts.Text == "" {
			t.Errorf("before anyone called: %+v", ts)
		}
	}
	s.deploy("hello", "")
	s.work()
	// A coordinator that starts knows nothing of its nodes, whatever it stored.
	s.restart(nil)
	st = s.status("hello")
	if st.Converged || st.Skew != "2 unknown" || st.Release == nil || st.Targets[0].Release != nil || st.Targets[0].Rotation != api.RotationUnknown {
		t.Errorf("after a restart: %+v", st)
	}
	s.sync(s.agents[0])
	st = s.status("hello")
	if want := "1 of 2 targets on " + sha("a")[:7] + ", 1 unknown"; st.Converged || st.Skew != want {
		t.Errorf("after web1 called: %q, expected %q", st.Skew, want)
	}
	if ts := st.Targets[0]; !ts.Reachable || ts.Agent != "1.0" || ts.LastSeen == nil || ts.Release.SHA != sha("a") || ts.Rotation != api.RotationIn {
		t.Errorf("web1: %+v", ts)
	}
}

func TestStatusShowsSkewAndSteps(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	s.work()
	s.repo.push("b")
	r := s.deploy("hello", "")
	r = s.workUntil(r.ID, func(r api.Rollout) bool { return r.Targets[0].Phase == "active" })
	st := s.status("hello")
	if want := "skew: 1 of 2 targets on " + sha("a")[:7] + ", 1 of 2 targets on " + sha("b")[:7]; st.Skew != want {
		t.Errorf("%q, expected %q", st.Skew, want)
	}
	if st.Converged || st.Live == nil || st.Live.ID != r.ID || st.Live.From.SHA != sha("a") || st.Release.SHA != sha("a") {
		t.Errorf("in mid-rollout: %+v", st)
	}
	// The agent of the next target tells what it does, and why it is out.
	req := s.agents[0].Report(false)
	since := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	ts := &req.Apps[0].Targets[0]
	ts.Turn, ts.Step, ts.Since, ts.Rotation, ts.Detail = 99, api.StepDrain, &since, api.RotationDraining, "3 requests in flight"
	if _, err := s.agent("web1").Sync(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	st = s.status("hello")
	if got := st.Targets[0]; got.Step != "drain" || got.Rotation != api.RotationDraining || got.Text != "3 requests in flight" {
		t.Errorf("web1: %+v", got)
	}
	if want := "1 of 2 targets on " + sha("b")[:7] + ", 1 out of rotation"; st.Skew != want {
		t.Errorf("%q, expected %q", st.Skew, want)
	}
	if rt := s.rollout(r.ID).Targets[1]; rt.Step != "drain" || rt.Since == nil || !rt.Since.Equal(since) {
		t.Errorf("web1 in the rollout: %+v", rt)
	}
}

// costly is a survey of balancers whose changes are felt by others.
type costly struct{ httpapi.Survey }

func (costly) Notes(app string) []string {
	return []string{"what a turn of " + app + " costs: a reload"}
}

func TestPlan(t *testing.T) {
	s := newStage(t)
	s.stop()
	s.start(func(c *httpapi.Config) { c.Survey = costly{} })
	plan := func(ref string) api.Plan {
		t.Helper()
		p, err := s.admin.Plan(t.Context(), "hello", ref)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := plan("")
	if p.Refused != "" || p.Release.SHA != sha("a") || p.From != nil || len(p.Steps) != 2 || p.Build[0] != "make" || !slices.Contains(p.Notes, "there is no stable release to return to if it fails") ||
		!slices.Contains(p.Notes, "what a turn of hello costs: a reload") {
		t.Errorf("first plan: %+v", p)
	}
	if st := p.Steps[0]; st.Node != "web2" || st.Soak.D() != time.Minute || st.Rotation != api.RotationUnknown || st.Problem == "" || st.Prepared {
		t.Errorf("the canary's step: %+v", st)
	}
	if st := p.Steps[1]; st.Node != "web1" || st.Soak.D() != time.Second {
		t.Errorf("the second step: %+v", st)
	}
	if n := len(s.list("hello")); n != 0 {
		t.Errorf("planning made %d rollouts", n)
	}
	s.deploy("hello", "")
	if p := plan(""); !strings.Contains(p.Refused, "is being deployed by hello-1") {
		t.Errorf("while it is deployed: %+v", p)
	}
	s.work()
	if p := plan(""); !strings.Contains(p.Refused, "is the current release") {
		t.Errorf("once it is deployed: %+v", p)
	}
	s.repo.push("b")
	p = plan("")
	if p.From == nil || p.From.SHA != sha("a") || !slices.Contains(p.Notes, "if it fails, every target returns to "+sha("a")[:7]) {
		t.Errorf("next plan: %+v", p)
	}
	if st := p.Steps[0]; st.Problem != "" || st.Release != sha("a")[:7] || st.Rotation != api.RotationIn || st.Health != api.Healthy {
		t.Errorf("the canary's step: %+v", st)
	}
	s.deploy("hello", "")
	s.workUntil("hello-2", func(r api.Rollout) bool { return r.Status == "rolling" })
	s.repo.push("c")
	if p := plan(""); len(p.Notes) == 0 || p.Notes[0] != "it would wait for hello-2, which is rolling" {
		t.Errorf("notes: %q", p.Notes)
	}
	_, err := s.admin.Plan(t.Context(), "hello", "nowhere")
	expectError(t, err, api.ErrorNotFound, "nowhere")
}

// TestPlanOfWhatWouldEndAtOnce: nobody is there to be brought to the current release.
func TestPlanOfWhatWouldEndAtOnce(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	s.work()
	s.restart(nil)
	p, err := s.admin.Plan(t.Context(), "hello", "")
	if err != nil || p.Refused != "" || len(p.Steps) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestEventsAreTheWholeStory(t *testing.T) {
	s := newStage(t)
	r := s.deploy("hello", "")
	story := make(chan []api.Event, 1)
	go func() {
		var all []api.Event
		var after int64
		for {
			page, err := s.admin.Events(t.Context(), r.ID, after, api.LongPoll)
			if err != nil {
				t.Error(err)
				break
			}
			all = append(all, page.Events...)
			if len(page.Events) > 0 {
				after = page.Events[len(page.Events)-1].Number
			} else if page.Rollout.Done {
				break
			}
		}
		story <- all
	}()
	s.work()
	var all []api.Event
	select {
	case all = <-story:
	case <-time.After(20 * time.Second):
		t.Fatal("the follower was not told of the end")
	}
	var kinds []string
	for i, e := range all {
		if e.Rollout != r.ID || e.App != "hello" || e.Text == "" || e.At.IsZero() || (i > 0 && e.Number <= all[i-1].Number) {
			t.Errorf("event %d: %+v", i, e)
		}
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); !strings.HasPrefix(got, "requested status prepared prepared status turn active turn active status") {
		t.Errorf("story: %s", got)
	}
}

func TestEventsWakeWhenAStepChanges(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	s.workUntil("hello-1", func(r api.Rollout) bool { return r.Status == "rolling" })
	page, err := s.admin.Events(t.Context(), "hello-1", 0, 0)
	if err != nil || len(page.Events) == 0 {
		t.Fatalf("%+v, %v", page, err)
	}
	last := page.Events[len(page.Events)-1].Number
	if page, err = s.admin.Events(t.Context(), "hello-1", last, 0); err != nil || len(page.Events) != 0 {
		t.Errorf("after the last: %+v, %v", page, err)
	}
	// What is held may begin after the step changed: then it waits for the next.
	got := make(chan api.EventPage, 1)
	go func() {
		page, err := s.admin.Events(t.Context(), "hello-1", last, api.LongPoll)
		if err != nil {
			t.Error(err)
		}
		got <- page
	}()
	steps := []api.Step{api.StepDrain, api.StepSwitch, api.StepRestart}
	for i := 0; ; i++ {
		req := s.agents[0].Report(false)
		req.Apps[0].Targets[0].Turn, req.Apps[0].Targets[0].Step = 99, steps[i%3]
		if _, err := s.agent("web1").Sync(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		select {
		case page := <-got:
			if len(page.Events) != 0 || page.Rollout.Targets[1].Step == "" {
				t.Errorf("woken with %+v", page)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
		if i == 200 {
			t.Fatal("not woken by 200 steps")
		}
	}
}

// A step that is taken between two calls of a follower is not missed.
func TestNewsSinceWhatWasSeen(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	s.workUntil("hello-1", func(r api.Rollout) bool { return r.Status == "rolling" })
	page, err := s.admin.Events(t.Context(), "hello-1", 0, 0)
	if err != nil || page.State == "" {
		t.Fatalf("%+v, %v", page, err)
	}
	last := page.Events[len(page.Events)-1].Number
	req := s.agents[0].Report(false)
	req.Apps[0].Targets[0].Turn, req.Apps[0].Targets[0].Step = 99, api.StepSoak
	if _, err := s.agent("web1").Sync(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	news, err := s.admin.News(ctx, "hello-1", last, page.State, api.LongPoll)
	if err != nil || news.State == page.State || len(news.Events) != 0 {
		t.Errorf("after %q came %+v, %v", page.State, news, err)
	}
}

func TestEventsWithoutNewsWait(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	page, err := s.admin.Events(t.Context(), "hello-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	last := page.Events[len(page.Events)-1].Number
	begun := time.Now()
	page, err = s.admin.Events(t.Context(), "hello-1", last, 200*time.Millisecond)
	if err != nil || len(page.Events) != 0 || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("%+v, %v after %s", page, err, time.Since(begun))
	}
	for _, query := range []string{"after=x", "after=-1", "wait=long", "wait=-1s"} {
		if status, e := s.ask(http.MethodGet, "/v1/rollouts/hello-1/events?"+query, "Bearer "+adminToken, ""); status != http.StatusBadRequest || e.Kind != api.ErrorInvalid {
			t.Errorf("?%s answered %d %+v", query, status, e)
		}
	}
}

func TestLogs(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	post := func(node string, step api.Step, number uint64, data string) {
		t.Helper()
		err := s.agent(node).PostLogs(t.Context(), api.LogRequest{Node: node, Chunks: []api.LogChunk{
			{App: "hello", Rollout: "hello-1", Step: step, Number: number, At: time.Now(), Data: data},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan api.LogPage, 1)
	go func() {
		page, err := s.admin.Logs(t.Context(), "hello-1", api.LogQuery{Wait: api.LongPoll})
		if err != nil {
			t.Error(err)
		}
		got <- page
	}()
	time.Sleep(50 * time.Millisecond) // most likely it is held by now; right it is either way
	post("web1", api.StepBuild, 0, "compiling\n")
	select {
	case page := <-got:
		if len(page.Lines) != 1 || page.Lines[0].Data != "compiling\n" || page.Lines[0].Node != "web1" || page.Done {
			t.Errorf("%+v", page)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not woken by a log")
	}
	post("web1", api.StepBuild, 0, "compiling\n") // again
	post("web1", api.StepBuild, 1, "done\n")
	post("web2", api.StepBuild, 0, "compiling\n")
	post("web2", api.StepVerify, 0, "200 OK\n")
	count := func(q api.LogQuery) int {
		t.Helper()
		page, err := s.admin.Logs(t.Context(), "hello-1", q)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Lines)
	}
	for q, want := range map[api.LogQuery]int{
		{}: 4, {Node: "web1"}: 2, {Step: api.StepVerify}: 1, {Node: "web1", Step: api.StepVerify}: 0,
	} {
		if n := count(q); n != want {
			t.Errorf("%+v: %d chunks, expected %d", q, n, want)
		}
	}
	s.work()
	page, err := s.admin.Logs(t.Context(), "hello-1", api.LogQuery{})
	if err != nil || page.Done || len(page.Lines) != 4 {
		t.Errorf("%+v, %v", page, err)
	}
	page, err = s.admin.Logs(t.Context(), "hello-1", api.LogQuery{After: page.Lines[3].Position, Wait: api.LongPoll})
	if err != nil || !page.Done || page.Lines == nil || len(page.Lines) != 0 {
		t.Errorf("after the last of a finished rollout: %+v, %v", page, err)
	}
}

// TestHistoryOutlivesTheApp: what is taken out of fleet.yaml can be looked up.
func TestHistoryOutlivesTheApp(t *testing.T) {
	s := newStage(t, "hello", "bye")
	s.deploy("bye", "")
	s.apps = []string{"hello"}
	s.restart(nil)
	r := s.rollout("bye-1")
	if r.Status != "aborted" || r.Release.SHA != sha("a") || r.Release.Subject != "change a" {
		t.Errorf("rollout: %+v", r)
	}
	page, err := s.admin.Events(t.Context(), "bye-1", 0, 0)
	if err != nil || len(page.Events) == 0 || !page.Rollout.Done {
		t.Errorf("events: %+v, %v", page, err)
	}
	if _, err := s.admin.Logs(t.Context(), "bye-1", api.LogQuery{}); err != nil {
		t.Errorf("logs: %v", err)
	}
	if rs := s.list("bye"); len(rs) != 1 || rs[0].ID != "bye-1" {
		t.Errorf("rollouts: %+v", rs)
	}
	if st, err := s.admin.Status(t.Context()); err != nil || len(st.Apps) != 1 {
		t.Errorf("status: %+v, %v", st, err)
	}
}

func TestAssignmentsJoinConfigurationAndReleases(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	a := s.agents[0]
	resp, err := s.agent("web1").Sync(t.Context(), a.Report(false))
	if err != nil || len(resp.Assignments) != 1 {
		t.Fatalf("%+v, %v", resp, err)
	}
	as := resp.Assignments[0]
	id := sha("a")[:12] + "-111111"
	if as.App != "hello" || as.Spec.Unit != "hello.service" || as.KeepReleases != 5 || as.Rollout != "hello-1" || as.Prepare == nil || as.Prepare.Release != id || as.Targets[0].Server != "web1-server" {
		t.Errorf("assigned %+v", as)
	}
	if len(as.Releases) != 1 || as.Releases[0].ID != id || as.Releases[0].SHA != sha("a") || as.Releases[0].Recipe.Build[0] != "make" {
		t.Errorf("releases %+v", as.Releases)
	}
}
