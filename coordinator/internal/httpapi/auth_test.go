package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
)

func errorOf(t testing.TB, resp *http.Response) api.Error {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e api.Error
	if resp.StatusCode >= 300 {
		if err := json.Unmarshal(b, &e); err != nil {
			t.Errorf("%s answered %d with %q, which is no error", resp.Request.URL, resp.StatusCode, b)
		}
	}
	return e
}

// TestEveryRouteAsksForItsToken walks the router, so that none is forgotten.
func TestEveryRouteAsksForItsToken(t *testing.T) {
	s := newStage(t)
	open := map[string]bool{"/healthz": true, "/metrics": true, "/webhook/github": true}
	routes := 0
	err := chi.Walk(httpapi.New(s.config).(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if open[route] {
			return nil
		}
		routes++
		allowed := map[string]bool{}
		tokens := []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + adminToken, adminToken, "Bearer " + adminToken + "x", "Bearer token-of-web1", "Bearer " + adminToken}
		switch {
		case strings.HasPrefix(route, "/v1/"):
			allowed["Bearer "+adminToken] = true
		case strings.HasPrefix(route, "/agent/v1/"):
			allowed["Bearer token-of-web1"] = true
		default:
			t.Errorf("%s %s is neither for agents nor for administrators", method, route)
		}
		for _, token := range tokens {
			path := strings.NewReplacer("{app}", "nosuch", "{rollout}", "nosuch-1").Replace(route)
			status, e := s.ask(method, path, token, "")
			if got := status != http.StatusUnauthorized; got != allowed[token] {
				t.Errorf("%s %s with %q answered %d", method, route, token, status)
			}
			if !allowed[token] && (e.Kind != api.ErrorUnauthorized || e.Text == "") {
				t.Errorf("%s %s with %q answered %+v", method, route, token, e)
			}
		}
		return nil
	})
	if err != nil || routes < 15 {
		t.Errorf("walked %d routes, %v", routes, err)
	}
}

func TestNodesSpeakOnlyForThemselves(t *testing.T) {
	s := newStage(t)
	web1 := s.agent("web1")
	_, err := web1.Sync(t.Context(), api.SyncRequest{Node: "web2", Instance: "x", Epoch: 1, Seq: 1})
	expectError(t, err, api.ErrorForbidden, "the token belongs to node web1")
	err = web1.PostLogs(t.Context(), api.LogRequest{Node: "web2", Chunks: []api.LogChunk{{App: "hello", Rollout: "hello-1", Step: api.StepBuild}}})
	expectError(t, err, api.ErrorForbidden, "the token belongs to node web1")
	if st := s.status("hello"); st.Targets[1].Reachable {
		t.Error("web2 counts as heard of")
	}
}

func TestRequestsThatAreTooLargeOrNoJSON(t *testing.T) {
	s := newStage(t)
	const web1, ann = "Bearer token-of-web1", "Bearer " + adminToken
	padded := func(n int) string { return `{"node":"` + strings.Repeat("x", n) + `"}` }
	for name, c := range map[string]struct {
		path, token, body string
		want              api.ErrorKind
	}{
		"a sync":        {"/agent/v1/sync", web1, padded(api.MaxSyncBytes), api.ErrorTooLarge},
		"logs":          {"/agent/v1/logs", web1, padded(api.MaxSyncBytes), api.ErrorTooLarge},
		"a log chunk":   {"/agent/v1/logs", web1, `{"node":"web1","chunks":[{"app":"hello","rollout":"hello-1","step":"build","data":"` + strings.Repeat("x", api.MaxLogChunk+1) + `"}]}`, api.ErrorTooLarge},
		"a deploy":      {"/v1/apps/hello/deploy", ann, padded(1 << 20), api.ErrorTooLarge},
		"no JSON":       {"/v1/apps/hello/deploy", ann, "ref=main", api.ErrorInvalid},
		"nothing":       {"/v1/apps/hello/pause", ann, "", api.ErrorInvalid},
		"another shape": {"/agent/v1/sync", web1, `{"apps":{}}`, api.ErrorInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if status, e := s.ask(http.MethodPost, c.path, c.token, c.body); e.Kind != c.want || e.Text == "" {
				t.Errorf("answered %d %+v, expected %s", status, e, c.want)
			}
		})
	}
	// What is just small enough is read.
	if status, e := s.ask(http.MethodPost, "/agent/v1/sync", web1, padded(api.MaxSyncBytes-20)); e.Kind != api.ErrorForbidden {
		t.Errorf("answered %d %+v", status, e)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := newStage(t)
	const ann = "Bearer " + adminToken
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/apps/bye/rollouts", ""},
		{"GET", "/v1/apps/bye/plan", ""},
		{"POST", "/v1/apps/bye/deploy", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/rollback", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/retry", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/pause", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/resume", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/abort", `{"by":"ann"}`},
		{"POST", "/v1/apps/bye/hold", `{"by":"ann","reason":"x"}`},
		{"POST", "/v1/apps/bye/unhold", `{"by":"ann"}`},
		{"GET", "/v1/rollouts/bye-1", ""},
		{"GET", "/v1/rollouts/bye-1/events", ""},
		{"GET", "/v1/rollouts/bye-1/logs", ""},
		{"GET", "/v1/nothing", ""},
		{"GET", "/", ""},
	} {
		if status, e := s.ask(c.method, c.path, ann, c.body); status != http.StatusNotFound || e.Kind != api.ErrorNotFound || e.Text == "" {
			t.Errorf("%s %s answered %d %+v", c.method, c.path, status, e)
		}
	}
}
