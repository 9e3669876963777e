package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// What reads the stored form may be older than this version.
func TestStoredFormStays(t *testing.T) {
	data, err := EncodeEvent(rollout.RollbackRequested{At: noon, App: "blog", To: "a", By: "ann"})
	if want := `{"type":"rollback_requested","data":{"at":"2026-03-01T12:00:00.123456789Z","app":"blog","to":"a","by":"ann"}}`; err != nil || string(data) != want {
		t.Errorf("stored %s, %v; expected %s", data, err, want)
	}
	data, err = EncodeEffect(rollout.Assign{App: "blog", Node: "web1", Generation: 1 << 60})
	if want := `{"type":"assign","data":{"app":"blog","node":"web1","generation":1152921504606846976}}`; err != nil || string(data) != want {
		t.Errorf("stored %s, %v; expected %s", data, err, want)
	}
	names := slices.Concat(slices.Sorted(maps.Values(events)), slices.Sorted(maps.Values(effects)))
	want := "abort_requested archived balancer_asked configured deploy_requested hold_requested node_lost pause_requested reported " +
		"resume_requested retry_requested rollback_requested started tick unhold_requested assign changed noted"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("names\n%s, expected\n%s", got, want)
	}
	if _, err := EncodeEvent(nil); err == nil {
		t.Error("a nil event was encoded")
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

func typeNames(names map[reflect.Type]string) (types []string) {
	for t := range names {
		types = append(types, t.Name())
	}
	return types
}
