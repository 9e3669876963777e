package httpapi_test

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// What another hand changed is shown with since when, and the app is not
// converged, though everything serves.
func TestStatusShowsADrift(t *testing.T) {
	s := newStage(t)
	s.deploy("hello", "")
	s.work()
	if st := s.status("hello"); !st.Converged {
		t.Fatalf("before: %+v", st)
	}
	req := s.agents[0].Report(false)
	for i := range req.Apps {
		if req.Apps[i].App == "hello" {
			req.Apps[i].Targets[0].Current = "none"
		}
	}
	if _, err := s.agent("web1").Sync(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	st := s.status("hello")
	var drift *api.Drift
	for _, ts := range st.Targets {
		if ts.Node == "web1" {
			drift = ts.Drift
		} else if ts.Drift != nil {
			t.Errorf("%s drifted: %+v", ts.Node, ts.Drift)
		}
	}
	if st.Converged || drift == nil || drift.Since.IsZero() || drift.Release.SHA != sha("a") || drift.Current.ID != "none" ||
		!strings.Contains(drift.Text, "deployctl retry hello") {
		t.Errorf("%+v, drift %+v", st, drift)
	}
}
