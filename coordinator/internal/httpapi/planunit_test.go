package httpapi_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// What a plan shows of a generated unit is what the agents would write, to the
// letter, and what they would not is a problem before it is tried.
func TestPlanOfAGeneratedUnit(t *testing.T) {
	s := newStage(t)
	run := api.Run{Command: "bin/server", Memory: 1 << 30}
	s.stop()
	s.start(func(c *httpapi.Config) {
		for i := range c.Apps {
			c.Apps[i].Recipe.Run = &run
		}
	})
	host := api.Host{Apps: "/srv/apps", Scope: "system", User: "web"}
	text := unitfile.Text("hello", false, run, host)
	plan := func(web1, web2 *api.UnitReport) api.Plan {
		t.Helper()
		for i, u := range []*api.UnitReport{web1, web2} {
			req := s.agents[i].Report(false)
			if len(req.Apps) == 0 { // before the first assignment
				s.sync(s.agents[i])
				req = s.agents[i].Report(false)
			}
			for j := range req.Apps {
				if req.Apps[j].App == "hello" {
					req.Apps[j].Unit = u
				}
			}
			if _, err := s.agent(s.agents[i].Node).Sync(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		p, err := s.admin.Plan(t.Context(), "hello", "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Units {
			slices.Sort(p.Units[i].Nodes)
		}
		return p
	}
	s.deploy("hello", "")
	s.work()
	s.repo.push("b")
	name := "lockstep-hello.service"
	if got, want := plan(&api.UnitReport{Host: host}, &api.UnitReport{Host: host}).Units,
		[]api.PlanUnit{{Name: name, Nodes: []string{"web1", "web2"}, Change: api.UnitInstall, Text: text}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got := plan(&api.UnitReport{Host: host, Installed: unitfile.Digest(text)}, &api.UnitReport{Host: host, Installed: "another"}).Units
	changes := map[string]string{}
	for _, u := range got {
		changes[strings.Join(u.Nodes, ",")] = u.Change
	}
	if want := map[string]string{"web1": api.UnitStays, "web2": api.UnitReplace}; !reflect.DeepEqual(changes, want) {
		t.Errorf("got %v, want %v", changes, want)
	}
	p := plan(&api.UnitReport{Host: host, Refused: "agent.yaml does not allow it"}, nil)
	if len(p.Units) > 0 || !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "unit web2 would get is not known") }) {
		t.Errorf("%+v", p)
	}
	for _, st := range p.Steps {
		if (st.Node == "web1") != (st.Problem == "agent.yaml does not allow it") {
			t.Errorf("%+v", st)
		}
	}
}
