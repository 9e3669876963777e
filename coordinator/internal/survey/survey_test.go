package survey

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/runner"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

const fleetYAML = `coordinator:
  listen: 127.0.0.1:7400
  database: /var/lib/lockstep/lockstep.db
  admin_tokens: [{file: admin}]
github:
  webhook_secrets: [{file: webhook}]
nodes:
  web1: {token: {file: web1}}
  web2: {token: {file: web2}}
  web3: {token: {file: web3}}
balancers:
  edge: {type: haproxy, endpoints: ["unix:///run/haproxy/admin.sock"], backend: web, servers: {web1: srv1}, drain_timeout: 10s, rejoin_timeout: 20s}
apps:
  hello:
    repo: https://github.com/me/hello.git
    branch: main
    nodes: [web1, web2, web3]
    unit: hello.service
    health: none
    balancer: edge
`

// stage is a fleet whose every part a test can break.
type stage struct {
	t        *testing.T
	path     string
	contacts map[string]runner.Contact
	turns    map[rollout.TargetID]uint64
	head     error
	pool     lbclient.Pool
	broken   error
	timing   *lbclient.Timing
	caps     lbclient.Caps
	modules  []Module
	current  rollout.ReleaseID // of hello
	run      *api.Run          // of that release
	*Survey
}

func (s *stage) View(app string) (rollout.State, bool) {
	st := rollout.State{}
	for _, n := range []string{"web1", "web2", "web3"} {
		id := rollout.TargetName(app, n, "")
		st.Targets = append(st.Targets, rollout.Target{ID: id, Turn: s.turns[id], Seen: rollout.Sighting{Known: true, Release: s.current}})
	}
	st.Apps = []rollout.App{{Name: app, Current: s.current}}
	return st, true
}

func (s *stage) Contact(node string) runner.Contact { return s.contacts[node] }

func (s *stage) Observe(_ context.Context, balancer, server string) (lbclient.Pool, error) {
	if balancer != "edge" || server != "srv1" {
		s.t.Errorf("asked for %s at %s", server, balancer)
	}
	return s.pool, s.broken
}

func (s *stage) Preflight(context.Context, string, string) (broker.Checked, error) {
	return broker.Checked{Timing: s.timing, Caps: s.caps}, s.broken
}

func (s *stage) Caps(string, string) lbclient.Caps { return s.caps }

// newStage is a fleet in which all is well.
func newStage(t *testing.T, change ...string) *stage {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"admin", "webhook", "web1", "web2", "web3"} {
		write(t, filepath.Join(dir, name), strings.Repeat(name, 12))
	}
	s := &stage{t: t, path: filepath.Join(dir, "fleet.yaml"), turns: map[rollout.TargetID]uint64{}, contacts: map[string]runner.Contact{}}
	write(t, s.path, strings.NewReplacer(change...).Replace(fleetYAML))
	fleet, err := config.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range fleet.Nodes {
		s.contacts[n.Name] = runner.Contact{Seen: time.Now(), Version: "1.0", Apps: []api.AppReport{{
			App: "hello", Balancer: &api.BalancerReport{At: time.Now(), Checked: time.Now(), Members: serving("srv1", "web2", "web3")},
		}}}
	}
	s.pool = lbclient.Pool{At: time.Now(), Members: []lbclient.Member{
		{Name: "srv1", Phase: lbclient.PhaseServing}, {Name: "web2", Phase: lbclient.PhaseServing}, {Name: "web3", Phase: lbclient.PhaseServing},
	}}
	s.Survey = New(Config{
		Fleet: fleet, Engine: s, Broker: s, Version: "1.0",
		Head: func(context.Context, string) (string, error) {
			return "3f2a91c0d4e5f60718293a4b5c6d7e8f90123456", s.head
		},
		Modules: func(context.Context, string, string) ([]Module, error) { return s.modules, nil },
		Recipe: func(context.Context, string, rollout.ReleaseID) (api.Recipe, error) {
			return api.Recipe{Run: s.run}, nil
		},
		Reload: func() (*config.Fleet, error) { return config.Load(s.path) },
	})
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var generated = []string{"unit: hello.service", "run: bin/hello"}

// generate has the agents tell of units that they wrote, and web2 of what became of
// its own.
func (s *stage) generate(change func(*api.UnitReport)) {
	s.current, s.run = "3f2a91c0d4e5-111111", &api.Run{Command: "bin/hello"}
	for node, c := range s.contacts {
		host := api.Host{Apps: "/srv/" + node, Scope: "system"}
		c.Apps[0].Unit = &api.UnitReport{Host: host, Installed: unitfile.Digest(unitfile.Text("hello", false, *s.run, host))}
	}
	change(s.contacts["web2"].Apps[0].Unit)
}

func serving(names ...string) []api.BalancerMember {
	var out []api.BalancerMember
	for _, n := range names {
		out = append(out, api.BalancerMember{Name: n, Phase: "serving"})
	}
	return out
}

// report changes what a node's agent tells of the balancer.
func (s *stage) report(node string, change func(*api.BalancerReport)) {
	change(s.contacts[node].Apps[0].Balancer)
}

func (s *stage) contact(node string, change func(*runner.Contact)) {
	c := s.contacts[node]
	change(&c)
	s.contacts[node] = c
}

const brokered = "type: haproxy, "

// cloud makes the balancer one of Hetzner's.
var cloud = []string{
	`type: haproxy, endpoints: ["unix:///run/haproxy/admin.sock"], backend: web`, `type: hetzner, load_balancer: front, token: {file: admin}`,
	"health: none", `health: {tcp: "127.0.0.1:80"}`,
}

// Each thing that can be wrong is found, in its area, and nothing else is.
func TestDoctor(t *testing.T) {
	viaCoordinator := []string{brokered, brokered + "via: coordinator, "}
	for _, tc := range []struct {
		name   string
		change []string // of the fleet file
		wreck  func(*stage)
		want   []string // "result area subject", without those that are ok
		says   string
	}{
		{name: "all is well"},
		{name: "all is well, through the coordinator", change: viaCoordinator},
		{
			name:  "the fleet file was broken",
			wreck: func(s *stage) { write(s.t, s.path, strings.Replace(fleetYAML, "balancer: edge", "balancer: egde", 1)) },
			want:  []string{"problem configuration fleet.yaml:20 apps.hello.balancer"}, says: `there is no balancer "egde"`,
		},
		{
			name:  "a secret is gone",
			wreck: func(s *stage) { _ = os.Remove(filepath.Join(filepath.Dir(s.path), "web2")) },
			want:  []string{"problem configuration fleet.yaml:9 nodes.web2.token.file"}, says: "web2",
		},
		{
			name: "a secret was changed",
			wreck: func(s *stage) {
				write(s.t, filepath.Join(filepath.Dir(s.path), "webhook"), strings.Repeat("other", 12))
			},
			want: []string{"warning secrets github.webhook_secrets"}, says: "restart deploy-coordinator",
		},
		{
			name:  "the fleet file was changed",
			wreck: func(s *stage) { write(s.t, s.path, fleetYAML+"    soak: 3s\n") },
			want:  []string{"warning configuration fleet.yaml"}, says: "restart deploy-coordinator",
		},
		{
			name:  "the fleet file is gone",
			wreck: func(s *stage) { _ = os.Remove(s.path) },
			want:  []string{"problem configuration fleet.yaml"}, says: "no such file",
		},
		{
			name:  "the repository does not answer",
			wreck: func(s *stage) { s.head = errors.New("cannot reach github.com") },
			want:  []string{"problem repository hello"}, says: "cannot reach github.com",
		},
		{
			name: "a submodule cannot be read", change: []string{"    branch: main", "    branch: main\n    source: {via: coordinator}"},
			wreck: func(s *stage) {
				s.modules = []Module{{Path: "fine", URL: "https://x/fine"}, {Path: "vendor/lib", URL: "https://x/lib", Err: errors.New("access denied")}}
			},
			want: []string{"problem repository hello submodule vendor/lib"}, says: "https://x/lib: access denied",
		},
		{
			name: "the nodes read the submodules themselves", change: []string{"    branch: main", "    branch: main\n    source: {via: agent}"},
			wreck: func(s *stage) { s.modules = []Module{{Path: "vendor/lib", Err: errors.New("access denied")}} },
		},
		{
			name: "units are as they were generated", change: generated,
			wreck: func(s *stage) { s.generate(func(*api.UnitReport) {}) }, says: "lockstep-hello.service is as Lockstep writes it on 3 nodes",
		},
		{
			name: "a unit was edited by hand", change: generated,
			wreck: func(s *stage) { s.generate(func(r *api.UnitReport) { r.Installed = unitfile.Digest("edited") }) },
			want:  []string{"warning unit hello on web2"}, says: "edited by hand",
		},
		{
			name: "a unit is gone", change: generated,
			wreck: func(s *stage) { s.generate(func(r *api.UnitReport) { r.Installed = "" }) },
			want:  []string{"problem unit hello on web2"}, says: "lockstep-hello.service is missing",
		},
		{
			name: "a unit may not be written", change: generated,
			wreck: func(s *stage) { s.generate(func(r *api.UnitReport) { r.Refused = "write generate_units: true" }) },
			want:  []string{"problem unit hello on web2"}, says: "generate_units: true",
		},
		{
			name: "a unit that its turn is writing", change: generated,
			wreck: func(s *stage) {
				s.generate(func(r *api.UnitReport) { r.Installed = "" })
				s.turns["hello@web2"] = 7
			},
		},
		{
			name: "a balancer that is gone from the file in mid-turn",
			wreck: func(s *stage) {
				s.turns["hello@web2"] = 9
				without := strings.NewReplacer("  edge:", "  edge2:", "balancer: edge", "balancer: edge2").Replace(fleetYAML)
				write(s.t, s.path, without)
			},
			want: []string{"warning configuration fleet.yaml", "problem configuration fleet.yaml"},
			says: "balancer edge is gone from it, and hello@web2 has its turn",
		},
		{
			name: "what a turn costs, as an agent tells",
			wreck: func(s *stage) {
				s.report("web2", func(r *api.BalancerReport) {
					r.Caps = &api.BalancerCaps{Disturbs: "a reload", Undocumented: "the weather"}
				})
			},
			want: []string{"note balancer edge", "note balancer edge"}, says: "what a turn costs: a reload\nwhat nobody documents: the weather",
		},
		{
			name: "what nobody documents, as the coordinator knows", change: viaCoordinator,
			wreck: func(s *stage) { s.caps = lbclient.Caps{Undocumented: "the weather"} },
			want:  []string{"note balancer edge"}, says: "what nobody documents: the weather",
		},
		{
			name: "a token that may only read, for all that is known", change: cloud,
			want: []string{"note balancer edge"}, says: "it must be a Read & Write token",
		},
		{
			name: "a token without the scope", change: cloud,
			wreck: func(s *stage) {
				s.broken = &lbclient.Error{Class: lbclient.ClassDenied, Op: "read balancer front", Text: "Hetzner answered 403 (forbidden); is the token of the balancer's project?"}
			},
			want: []string{"problem balancer srv1 at edge", "problem balancer web2 at edge", "problem balancer web3 at edge", "unknown capacity edge"},
			says: "Hetzner answered 403 (forbidden)",
		},
		{
			name: "a name that is two servers", change: viaCoordinator,
			wreck: func(s *stage) {
				s.broken = &lbclient.Error{Class: lbclient.ClassInvalid, Op: "find web1", Text: "2 droplets have this name; write its id under droplets"}
			},
			want: []string{"problem balancer srv1 at edge", "problem balancer web2 at edge", "problem balancer web3 at edge", "unknown capacity edge"},
			says: "2 droplets have this name; write its id under droplets",
		},
		{
			name: "a membership of a kind that cannot be drained", change: viaCoordinator,
			wreck: func(s *stage) {
				s.broken = &lbclient.Error{Class: lbclient.ClassUnsupported, Op: "drain web1", Text: "it is a target by a label selector; use mode: gate"}
			},
			want: []string{"problem balancer srv1 at edge", "problem balancer web2 at edge", "problem balancer web3 at edge", "unknown capacity edge"},
			says: "it is a target by a label selector; use mode: gate",
		},
		{
			name: "a check that is slower than the drain waits", change: viaCoordinator,
			wreck: func(s *stage) {
				s.timing = &lbclient.Timing{Interval: 5 * time.Second, Timeout: time.Second, Fall: 3, Rise: 1}
			},
			want: []string{"warning timeouts edge"}, says: "write drain_timeout: 32s (",
		},
		{
			name: "agents", wreck: func(s *stage) {
				delete(s.contacts, "web1")
				s.contact("web2", func(c *runner.Contact) { c.Seen = time.Now().Add(-5 * time.Minute) })
				s.contact("web3", func(c *runner.Contact) { c.Version = "0.9" })
			},
			want: []string{"problem node web1", "problem node web2", "warning node web3", "unknown balancer srv1 at edge"}, says: "deploy-agent is 0.9, the coordinator 1.0",
		},
		{
			name: "how builds are held in", wreck: func(s *stage) {
				s.contact("web1", func(c *runner.Contact) { c.Sandbox = &api.Sandbox{With: "systemd", Problem: "no user lockstep-build"} })
				s.contact("web2", func(c *runner.Contact) {
					c.Sandbox = &api.Sandbox{With: "process group", Why: "there is no systemd", User: "deploy", Unenforced: []string{"memory", "tasks"}}
				})
				s.contact("web3", func(c *runner.Contact) {
					c.Sandbox = &api.Sandbox{With: "systemd", User: "lockstep-job", Unenforced: []string{"IO weight"}}
				})
			},
			want: []string{"problem build web1", "warning build web2", "warning build web3"},
			says: "builds run as deploy in a process group only; what does not hold there: memory, tasks; there is no systemd",
		},
		{
			name: "builds that are held in", wreck: func(s *stage) {
				s.contact("web1", func(c *runner.Contact) { c.Sandbox = &api.Sandbox{With: "systemd", User: "lockstep-job"} })
			},
			says: "builds run as lockstep-job in units of systemd, and every limit holds",
		},
		{
			name:   "a node without apps",
			change: []string{"nodes: [web1, web2, web3]", "nodes: [web1, web2]"},
			wreck: func(s *stage) {
				s.report("web1", func(r *api.BalancerReport) { r.Members = serving("srv1", "web2") })
				s.report("web2", func(r *api.BalancerReport) { r.Members = serving("srv1", "web2") })
			},
			want: []string{"warning node web3"}, says: "no app runs on it",
		},
		{
			name: "a target cannot be drained", wreck: func(s *stage) {
				s.report("web1", func(r *api.BalancerReport) {
					r.Refused = &api.BalancerFailure{Class: "denied", Text: `it has level "operator"`}
				})
				s.report("web2", func(r *api.BalancerReport) { r.Refused = &api.BalancerFailure{Class: "busy", Text: "later"} })
				s.report("web3", func(r *api.BalancerReport) { r.Checked = time.Time{} })
			},
			want: []string{"problem balancer srv1 at edge", "unknown balancer web2 at edge", "unknown balancer web3 at edge"}, says: `level "operator" (as web1 found`,
		},
		{
			name: "a balancer that the coordinator cannot reach", change: viaCoordinator,
			wreck: func(s *stage) { s.broken = &lbclient.Error{Class: lbclient.ClassTransient, Op: "look at edge"} },
			want:  []string{"problem balancer srv1 at edge", "problem balancer web2 at edge", "problem balancer web3 at edge", "unknown capacity edge"}, says: "cannot look at edge",
		},
		{
			name: "one that serves is left", wreck: func(s *stage) {
				for n := range s.contacts {
					s.report(n, func(r *api.BalancerReport) { r.Members[0].Phase, r.Members[1].Phase = "unhealthy", "unhealthy" })
				}
			},
			want: []string{"problem capacity edge"}, says: "web3 is the only one that serves, so it is not drained",
		},
		{
			name: "one is left, and nothing keeps it", change: []string{brokered, brokered + "min_healthy: 0, "},
			wreck: func(s *stage) {
				for n := range s.contacts {
					s.report(n, func(r *api.BalancerReport) { r.Members[0].Phase, r.Members[1].Phase = "unhealthy", "unhealthy" })
				}
			},
			want: []string{"warning capacity edge"}, says: "whenever it is drained, nothing does",
		},
		{
			name: "one is left, since another has its turn", change: []string{"nodes: [web1, web2, web3]", "nodes: [web1, web2]", "  web3: {token: {file: web3}}\n", ""},
			wreck: func(s *stage) {
				s.turns["hello@web1"] = 4
				for n := range s.contacts {
					s.report(n, func(r *api.BalancerReport) { r.Members = serving("srv1", "web2"); r.Members[0].Phase = "draining" })
				}
			},
		},
		{
			name: "nothing serves", change: viaCoordinator, wreck: func(s *stage) {
				for i := range s.pool.Members {
					s.pool.Members[i].Phase = lbclient.PhaseUnhealthy
				}
			},
			want: []string{"problem capacity edge"}, says: "nothing serves",
		},
		{
			name: "more must serve than do", change: []string{brokered, brokered + "min_healthy: 2, "}, wreck: func(s *stage) {
				for n := range s.contacts {
					s.report(n, func(r *api.BalancerReport) { r.Members[2].Phase = "unhealthy" })
				}
			},
			want: []string{"problem capacity edge"}, says: "2 serve and min_healthy is 2",
		},
		{
			name: "a check that is slower than the timeouts", change: viaCoordinator,
			wreck: func(s *stage) {
				s.timing = &lbclient.Timing{Interval: 15 * time.Second, Timeout: 10 * time.Second, Fall: 3, Rise: 3}
			},
			want: []string{"problem timeouts edge", "warning timeouts edge"}, says: "55s to call a healthy target healthy, and rejoin_timeout is 20s",
		},
		{
			name: "the same as an agent tells it",
			wreck: func(s *stage) {
				s.report("web3", func(r *api.BalancerReport) {
					r.Timing = &api.BalancerTiming{UpWithin: api.Duration(time.Minute), DownWithin: api.Duration(time.Second)}
				})
			},
			want: []string{"problem timeouts edge"}, says: "write rejoin_timeout: 2m",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t, tc.change...)
			if tc.wreck != nil {
				tc.wreck(s)
			}
			d := s.Doctor(t.Context())
			var found []string
			text := ""
			for _, c := range d.Checks {
				if c.Result != api.CheckOK {
					found = append(found, fmt.Sprintf("%s %s %s", c.Result, c.Area, strings.TrimPrefix(c.Subject, filepath.Dir(s.path)+"/")))
				}
				text += c.Text + "\n"
			}
			if !slices.Equal(found, tc.want) {
				t.Errorf("found %q\nwant  %q\n%s", found, tc.want, text)
			}
			if !strings.Contains(text, tc.says) {
				t.Errorf("it does not say %q:\n%s", tc.says, text)
			}
			if strings.Contains(text, strings.Repeat("webhook", 12)) {
				t.Errorf("a secret leaks: %s", text)
			}
		})
	}
}

func TestBalancers(t *testing.T) {
	s := newStage(t)
	s.report("web1", func(r *api.BalancerReport) { r.At = time.Now().Add(-time.Minute); r.Members = nil })
	s.report("web3", func(r *api.BalancerReport) {
		r.At = time.Now().Add(-time.Hour)
		r.Failed = &api.BalancerFailure{Class: "transient", Text: "no answer"}
	})
	s.report("web2", func(r *api.BalancerReport) { r.Members = serving("srv1", "web2", "foreign"); r.Omitted = 3 })
	s.turns["hello@web2"] = 9
	bs, err := s.Balancers(t.Context(), "")
	if err != nil || len(bs.Balancers) != 1 {
		t.Fatalf("%+v, %v", bs, err)
	}
	b := bs.Balancers[0]
	if b.Source != "web2" || b.Seen == nil || b.Problem != "web3: no answer; 3 more members are not shown" || b.Serving() != 3 {
		t.Errorf("got %+v", b)
	}
	got := map[string]string{}
	for _, m := range b.Members {
		got[m.Name] = fmt.Sprintf("%s %v %t", m.Phase, m.Targets, m.Turn)
	}
	want := map[string]string{
		"srv1": "serving [hello@web1] false", "web2": "serving [hello@web2] true", "foreign": "serving [] false", "web3": "absent [hello@web3] false",
	}
	if !maps.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}

	s.contacts = nil
	bs, err = s.Balancers(t.Context(), "edge")
	if err != nil {
		t.Fatal(err)
	}
	if b := bs.Balancers[0]; b.Seen != nil || len(b.Members) != 3 || b.Members[0].Phase != "unknown" || b.Problem == "" {
		t.Errorf("before any report: %+v", b)
	}
	var refused *api.Error
	if _, err := s.Balancers(t.Context(), "egde"); !errors.As(err, &refused) || refused.Kind != api.ErrorNotFound || !strings.Contains(refused.Text, "there is edge") {
		t.Errorf("one that is not there: %v", err)
	}
}
