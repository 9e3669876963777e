package rollout_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// allowed is all that the engine may import: nothing of it does I/O, reads a
// clock, or draws random numbers.
var allowed = []string{"cmp", "fmt", "maps", "math", "reflect", "slices", "strconv", "strings", "time"}

// forbidden are the functions of allowed packages that are not pure.
var forbidden = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "LoadLocation", "Local"},
	"fmt":  {"Print", "Printf", "Println", "Fprint", "Fprintf", "Fprintln", "Scan", "Scanf", "Scanln"},
}

// TestPure keeps the outside world out of the engine.
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		seen++
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if path, _ := strconv.Unquote(imp.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s, which the engine must not", file, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && slices.Contains(forbidden[x.Name], n.Sel.Name) {
					t.Errorf("%s uses %s.%s, which is not pure", file, x.Name, n.Sel.Name)
				}
			case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType:
				t.Errorf("%s uses goroutines or channels", file)
			case *ast.GenDecl:
				if n.Tok == token.VAR && f.Scope != nil {
					for _, spec := range n.Specs {
						for _, name := range spec.(*ast.ValueSpec).Names {
							if f.Scope.Lookup(name.Name) != nil && f.Scope.Lookup(name.Name).Decl == spec {
								t.Errorf("%s has the package variable %s: state that is not in State", file, name.Name)
							}
						}
					}
				}
			}
			return true
		})
	}
	if seen == 0 {
		t.Fatal("no file of the engine was found")
	}
}

// TestStepProperties draws any events, also such as no agent would send, and
// looks at what holds of every step whatever happens.
func TestStepProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _, err := rollout.Step(rollout.State{}, drawConfig(t, began))
		if err != nil {
			t.Fatal(err)
		}
		now := began
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(-2, 200).Draw(t, "seconds")) * time.Second)
			ev := drawEvent(t, &s, now)
			before := copyState(t, s)
			next, effects, err := rollout.Step(s, ev)
			if !reflect.DeepEqual(before, s) {
				t.Fatalf("%T changed the state that it was given", ev)
			}
			if err != nil {
				if _, ok := err.(*rollout.Refused); !ok {
					t.Fatalf("%T: %v is no refusal", ev, err)
				}
				if !reflect.DeepEqual(next, s) || effects != nil {
					t.Fatalf("%T was refused and still did something", ev)
				}
				continue
			}
			if next.Now.Before(s.Now) {
				t.Fatalf("time went back from %s to %s", s.Now, next.Now)
			}
			again, same, _ := rollout.Step(s, ev)
			if !reflect.DeepEqual(again, next) || !reflect.DeepEqual(same, effects) {
				t.Fatalf("%T does not do the same thing twice", ev)
			}
			if back := copyState(t, next); !reflect.DeepEqual(back, next) {
				t.Fatalf("the state differs after it was stored:\n%+v\n%+v", next, back)
			}
			s = next
		}
	})
}

func copyState(t *rapid.T, s rollout.State) rollout.State {
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back rollout.State
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

func drawConfig(t *rapid.T, now time.Time) rollout.Configured {
	ev := rollout.Configured{At: now, Pool: "web", MaxUnavailable: rapid.IntRange(1, 2).Draw(t, "max")}
	for _, app := range []string{"shop", "mail"}[:rapid.IntRange(1, 2).Draw(t, "apps")] {
		nodes := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"web1", "web2", "web3"}), 1, 3, rapid.ID[string]).Draw(t, "nodes")
		ev.Apps = append(ev.Apps, rollout.AppConfig{Name: app, Nodes: nodes, Revision: "1", Policy: rollout.Policy{
			Soak: time.Second, TargetTimeout: time.Minute, ProgressTimeout: 2 * time.Minute, PrepareTimeout: time.Minute,
			Retries: 1, RetryBackoff: time.Second, AutoRollback: rapid.Bool().Draw(t, "auto"), KeepReleases: 1,
		}})
	}
	return ev
}

func drawEvent(t *rapid.T, s *rollout.State, now time.Time) rollout.Event {
	app := rapid.SampledFrom([]string{"shop", "shop", "mail", "none"}).Draw(t, "app")
	id := rapid.SampledFrom([]rollout.ReleaseID{"r1", "r2", "r3"})
	node := rapid.SampledFrom([]string{"web1", "web2", "web3"}).Draw(t, "node")
	switch rapid.IntRange(0, 14).Draw(t, "kind") {
	case 0:
		return drawConfig(t, now)
	case 1:
		return rollout.Started{At: now}
	case 2:
		return rollout.Tick{At: now}
	case 3:
		return rollout.NodeLost{At: now, Node: node}
	case 4:
		return rollout.RollbackRequested{At: now, App: app, By: "ann"}
	case 5:
		return rollout.PauseRequested{At: now, App: app, By: "ann"}
	case 6:
		return rollout.ResumeRequested{At: now, App: app, By: "ann"}
	case 7:
		return rollout.AbortRequested{At: now, App: app, By: "ann"}
	case 8:
		return rollout.RetryRequested{At: now, App: app, By: "ann"}
	case 9:
		return rollout.HoldRequested{At: now, App: app, By: "ann", Until: now.Add(time.Minute)}
	case 10:
		r := id.Draw(t, "release")
		return rollout.DeployRequested{At: now, App: app, Release: rollout.Release{ID: r, SHA: string(r)}, By: "x", Automatic: rapid.Bool().Draw(t, "automatic")}
	}
	ev := rollout.Reported{At: now, Node: node}
	for i := range s.Targets {
		st := &s.Targets[i]
		if st.Node != node {
			continue
		}
		tr := rollout.TargetReport{
			Target: st.ID, Release: id.Draw(t, "runs"),
			Rotation: rapid.SampledFrom([]rollout.Rotation{rollout.RotationIn, rollout.RotationIn, rollout.RotationOut, rollout.RotationUnknown}).Draw(t, "rotation"),
			Health:   rapid.SampledFrom([]rollout.Health{rollout.Healthy, rollout.Healthy, rollout.Unhealthy, rollout.HealthUnknown}).Draw(t, "health"),
		}
		if st.Turn != 0 && rapid.Bool().Draw(t, "ends") {
			tr.Outcome = &rollout.Outcome{Turn: st.Turn, OK: rapid.Bool().Draw(t, "ok"), Reason: "unhealthy",
				Reverted: rapid.Bool().Draw(t, "reverted"), Fault: rapid.SampledFrom([]rollout.Fault{rollout.NodeFault, rollout.ReleaseFault}).Draw(t, "fault")}
			if tr.Outcome.OK {
				tr.Release, tr.Rotation = st.Release, rollout.RotationIn
			}
		}
		pr := rollout.PlacementReport{App: st.App, Present: rapid.SliceOfN(id, 0, 3).Draw(t, "present"), Targets: []rollout.TargetReport{tr}}
		if p := s.Placement(st.App, st.Node); p.Prepare != "" {
			pr.Present = append(pr.Present, p.Prepare)
			if rapid.IntRange(0, 3).Draw(t, "build") == 0 {
				pr.Present, pr.Prepare = nil, &rollout.PrepareReport{Release: p.Prepare, Attempt: p.Attempt, Fault: rollout.NodeFault, Reason: "disk_full"}
			}
		}
		ev.Placements = append(ev.Placements, pr)
	}
	return ev
}
