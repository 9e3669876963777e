package main

import (
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func member(name, phase string, inFlight int64, detail string, targets ...string) api.BalancerMemberStatus {
	return api.BalancerMemberStatus{
		BalancerMember: api.BalancerMember{Name: name, Phase: phase, InFlight: inFlight, Detail: detail},
		Targets:        append([]string{}, targets...),
	}
}

func TestBalancers(t *testing.T) {
	f := newFake(t)
	well := api.BalancerStatus{
		Name: "edge", Type: "haproxy", Via: "coordinator", Apps: []string{"hello", "shop"}, MinHealthy: 1, Source: "coordinator", Seen: ago(0),
		Members: []api.BalancerMemberStatus{
			member("web1", "serving", 3, "web: UP", "hello@web1", "shop@web1"),
			member("web2", "draining", 1, "web: DRAIN", "hello@web2"),
			member("old", "foreign_out", 0, "web: MAINT"), // not of this fleet
		},
	}
	well.Members[1].Turn = true
	f.lbs = api.Balancers{At: noon, Balancers: []api.BalancerStatus{well}}
	golden(t, "balancers", f, "balancers")
	golden(t, "balancers-json", f, "balancers", "edge", "--json")
	golden(t, "balancers-no-such", f, "balancers", "egde")

	stale := well
	stale.Name, stale.Via, stale.Source, stale.Seen, stale.Apps = "inner", "agent", "web2", ago(3*time.Minute), []string{"api"}
	stale.Problem = "web1: cannot look at backend api: no answer"
	stale.Members = []api.BalancerMemberStatus{
		member("web1", "unhealthy", -1, "api: DOWN\nL7STS/503", "api@web1"), member("web2", "absent", -1, "the balancer has no member of this name", "api@web2"),
	}
	silent := api.BalancerStatus{
		Name: "lost", Type: "haproxy", Via: "agent", Apps: []string{"db"}, Problem: "no agent has told yet how it stands",
		Members: []api.BalancerMemberStatus{member("web1", "unknown", -1, "not seen", "db@web1")},
	}
	f.lbs.Balancers = []api.BalancerStatus{stale, silent}
	golden(t, "balancers-trouble", f, "balancers")

	f.lbs.Balancers = nil
	golden(t, "balancers-none", f, "balancers")
}

func TestDoctor(t *testing.T) {
	f := newFake(t)
	f.doctor = api.Doctor{At: noon, Version: "1.0.0", Checks: []api.DoctorCheck{
		{Area: "configuration", Subject: "fleet.yaml", Result: api.CheckOK, Text: "2 apps, 3 nodes"},
		{Area: "repository", Subject: "hello", Result: api.CheckOK, Text: "branch main is at 3f2a91c"},
	}}
	f.doctor.Checks = append(f.doctor.Checks, api.DoctorCheck{Area: "balancer", Subject: "edge", Result: api.CheckNote, Text: "what a turn costs: a reload"})
	golden(t, "doctor-well", f, "doctor")
	f.doctor.Checks = append(f.doctor.Checks,
		api.DoctorCheck{Area: "node", Subject: "web2", Result: api.CheckWarning, Text: "deploy-agent is 0.9.0, the coordinator 1.0.0; install the same version"},
		api.DoctorCheck{Area: "balancer", Subject: "web3 at edge", Result: api.CheckUnknown, Text: "the agent of web3 has not checked it yet"},
		api.DoctorCheck{Area: "capacity", Subject: "edge", Result: api.CheckProblem, Text: "web1 is the only one\nthat serves"},
	)
	golden(t, "doctor-findings", f, "doctor")
	golden(t, "doctor-json", f, "doctor", "--json")
	f.doctor.Checks = nil
	golden(t, "doctor-nothing", f, "doctor")
}
