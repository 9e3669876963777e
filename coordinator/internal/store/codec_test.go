package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// samples has each event with every field set that matters to its meaning.
var samples = []rollout.Event{
	rollout.Configured{At: noon, Pool: "web", MaxUnavailable: 2, Apps: []rollout.AppConfig{{
		Name: "blog", Nodes: []string{"web2", "web1"}, Revision: "r1",
		Policy: rollout.Policy{Soak: time.Second, Canary: "web2", Retries: 3, AutoRollback: true},
	}}},
	rollout.Started{At: noon},
	rollout.Tick{At: noon},
	rollout.NodeLost{At: noon, Node: "web1"},
	rollout.Reported{At: noon, Node: "web1", Placements: []rollout.PlacementReport{{
		App: "blog", Generation: 1 << 60, Present: []rollout.ReleaseID{"a"},
		Prepare: &rollout.PrepareReport{Release: "a", Attempt: 2, Fault: rollout.NodeFault, Reason: "disk_full", Text: "\x00 <\"> é"},
		Targets: []rollout.TargetReport{{
			Target: "blog@web1", Release: "a", Rotation: rollout.RotationIn, Health: rollout.Healthy,
			Outcome: &rollout.Outcome{Turn: 7, Reverted: true, Fault: rollout.ReleaseFault, Reason: "unhealthy", Text: "503"},
		}},
	}}},
	rollout.Archived{At: noon, App: "blog", Digests: []string{"sha256:a"}},
	rollout.DeployRequested{
		At: noon, App: "blog", Release: rollout.Release{ID: "a", SHA: "b", Subject: "c"}, By: "ann", Cause: "push",
		Automatic: true, ContainedIn: []rollout.ReleaseID{"d"}, Diverged: true,
	},
	rollout.RollbackRequested{At: noon, App: "blog", To: "a", By: "ann"},
	rollout.PauseRequested{At: noon, App: "blog", By: "ann", Reason: "lunch"},
	rollout.ResumeRequested{At: noon, App: "blog", By: "ann"},
	rollout.AbortRequested{At: noon, App: "blog", By: "ann", Reason: "wrong branch"},
	rollout.RetryRequested{At: noon, App: "blog", By: "ann"},
	rollout.HoldRequested{At: noon, App: "blog", By: "ann", Reason: "holiday", Until: noon.Add(time.Hour)},
	rollout.UnholdRequested{At: noon, App: "blog", By: "ann"},
	rollout.BalancerAsked{At: noon, App: "blog", Target: "blog@web1", Class: "unsafe", Text: "web1 asked"},
}

var sampleEffects = []rollout.Effect{
	rollout.Assign{App: "blog", Node: "web1", Generation: 9},
	rollout.Changed{
		Rollout: rollout.Rollout{ID: "blog-1", App: "blog", Status: rollout.Rolling, Created: noon, Order: []rollout.TargetID{"blog@web1"}},
		Targets: []rollout.Progress{{Target: "blog@web1", Node: "web1", Phase: rollout.TargetActive}},
	},
	rollout.Noted{At: noon, Rollout: "blog-1", App: "blog", Target: "blog@web1", Kind: rollout.NoteTurn, Reason: "r", Text: "t"},
}

func TestWhatIsStoredIsReadAgain(t *testing.T) {
	for _, ev := range samples {
		data, err := EncodeEvent(ev)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeEvent(data)
		if err != nil || !reflect.DeepEqual(got, ev) {
			t.Errorf("%s was read as %+v, %v", data, got, err)
		}
	}
	for _, e := range sampleEffects {
		data, err := EncodeEffect(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeEffect(data)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s was read as %+v, %v", data, got, err)
		}
	}
}

// What earlier versions stored must be read by this one.
func TestStoredFormStays(t *testing.T) {
	data, err := EncodeEvent(rollout.RollbackRequested{At: noon, App: "blog", To: "a", By: "ann"})
	if want := `{"type":"rollback_requested","data":{"at":"2026-03-01T12:00:00.123456789Z","app":"blog","to":"a","by":"ann"}}`; err != nil || string(data) != want {
		t.Errorf("stored %s, %v; expected %s", data, err, want)
	}
	var names []string
	for _, k := range events {
		names = append(names, k.name)
	}
	for _, k := range effects {
		names = append(names, k.name)
	}
	want := "configured started tick node_lost reported archived deploy_requested rollback_requested pause_requested resume_requested " +
		"abort_requested retry_requested hold_requested unhold_requested balancer_asked assign changed noted"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("names\n%s, expected\n%s", got, want)
	}
}

// An event without a name would stop the pool that it happens to.
func TestEveryEventAndEffectHasAName(t *testing.T) {
	methods := map[string][]string{"apply": nil, "effect": nil}
	files, err := filepath.Glob("../../rollout/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source of the engine: %v", err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			if _, ok := methods[fn.Name.Name]; !ok {
				continue
			}
			if id, ok := fn.Recv.List[0].Type.(*ast.Ident); ok && id.IsExported() {
				methods[fn.Name.Name] = append(methods[fn.Name.Name], id.Name)
			}
		}
	}
	check := func(method string, registered []string) {
		found := methods[method]
		slices.Sort(found)
		slices.Sort(registered)
		if len(found) == 0 || !slices.Equal(found, registered) {
			t.Errorf("types with method %s: %v; registered: %v", method, found, registered)
		}
	}
	check("apply", typeNames(events))
	check("effect", typeNames(effects))
}

func typeNames[I any](kinds []kind[I]) (names []string) {
	for _, k := range kinds {
		names = append(names, k.typ.Name())
	}
	return names
}

func TestDecodeEventRefuses(t *testing.T) {
	for data, want := range map[string]string{
		``:                             "EOF",
		`{"type":"tick","data":{}} {}`: "follows its end",
		`{"type":"tick"}`:              "expected an object",
		`{"type":"tick","data":null}`:  "expected an object",
		`{"type":"reboot","data":{}}`:  `unknown type "reboot"`,
		`{"type":"tick","data":{"at":"evening"}}`: "cannot decode event tick",
	} {
		if ev, err := DecodeEvent([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("DecodeEvent(%s) = %v, %v; expected an error with %q", data, ev, err, want)
		}
	}
	if _, err := EncodeEvent(nil); err == nil {
		t.Error("a nil event was encoded")
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, ev := range samples {
		data, err := EncodeEvent(ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ev, err := DecodeEvent(data)
		if err != nil {
			return
		}
		again, err := EncodeEvent(ev)
		if err != nil {
			t.Fatalf("%#v was decoded but cannot be encoded: %v", ev, err)
		}
		ev2, err := DecodeEvent(again)
		if err != nil {
			t.Fatalf("%s was encoded but cannot be decoded: %v", again, err)
		}
		// Compare as encoded: equal instants may differ in how they hold their zone.
		third, err := EncodeEvent(ev2)
		if err != nil || string(third) != string(again) {
			t.Fatalf("%s became %s, %v", again, third, err)
		}
	})
}
