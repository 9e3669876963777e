package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// secretsInEnv sets the variables that the files in testdata name.
func secretsInEnv(t testing.TB) {
	for _, name := range []string{"ADMIN", "WEBHOOK", "WEBHOOK_OLD", "WEB1", "WEB2", "WEB3", "CLOUD"} {
		t.Setenv("TEST_"+name, "the-secret-of-"+name+"-0123456789")
	}
	t.Setenv("TEST_EMPTY", "")
}

func cases(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files testdata/%s: %v", pattern, err)
	}
	return files
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nexpected, from %s:\n%s", got, path, want)
	}
}

func TestProblems(t *testing.T) {
	secretsInEnv(t)
	for _, path := range cases(t, "*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			base := strings.TrimSuffix(path, ".yaml")
			fleet, err := Load(path)
			if strings.HasPrefix(filepath.Base(path), "valid.") {
				if err != nil {
					t.Fatal(err)
				}
				golden(t, base+".defaults", string(fleet.Defaults()))
				return
			}
			var out strings.Builder
			if err != nil {
				fmt.Fprintln(&out, err)
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("a secret that was written into the file is repeated:\n%s", err)
				}
			} else {
				for _, w := range fleet.Warnings {
					fmt.Fprintln(&out, "warning:", w)
				}
			}
			golden(t, base+".golden", out.String())
		})
	}
}

func TestDefaultsLoadAsTheSameFleet(t *testing.T) {
	secretsInEnv(t)
	for _, path := range cases(t, "valid.*.yaml") {
		first, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		written := filepath.Join(t.TempDir(), "fleet.yaml")
		if err := os.WriteFile(written, first.Defaults(), 0o600); err != nil {
			t.Fatal(err)
		}
		second, err := Load(written)
		if err != nil {
			t.Fatalf("%s: its defaults do not load: %v", path, err)
		}
		for _, f := range []*Fleet{first, second} {
			for _, b := range f.Balancers {
				if b.Where == "" {
					t.Errorf("%s: nobody knows where balancer %s is", path, b.Name)
				}
				b.Where = ""
				if len(b.Servers) == 0 {
					b.Servers = nil
				}
			}
			for _, a := range f.Apps {
				if len(a.Env) == 0 {
					a.Env = nil
				}
			}
			f.Warnings = nil
		}
		if !reflect.DeepEqual(first, second) {
			t.Errorf("%s: another fleet after a round trip:\n%s\n%s", path, first.Defaults(), second.Defaults())
		}
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "fleet.yaml"))
	var problems Problems
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &problems) {
		t.Errorf("got %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(strings.Repeat("# padding\n", maxFile/10+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

var placed = regexp.MustCompile(`^fleet\.yaml:[1-9][0-9]*:[1-9][0-9]*: [^\n]+$`)

func FuzzLoad(f *testing.F) {
	secretsInEnv(f)
	for _, path := range cases(f, "*.yaml") {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte("a: &a [*a, *a]\nb: !!binary x\n? {x: y}\n: |2-\n  c\n"))
	f.Add([]byte("{\"coordinator\": null, 'nodes': ~}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		load := func(content []byte) (*Fleet, error) {
			r := &reader{file: "fleet.yaml", dir: "/nonexistent", checkOnly: true}
			return r.load(content)
		}
		fleet, err := load(content)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("not a list of problems: %v", err)
			}
			for _, p := range problems {
				if !placed.MatchString(p.String()) {
					t.Errorf("not one line that begins with a place: %q", p.String())
				}
			}
			return
		}
		// What loads must survive being written.
		again, err := load(fleet.Defaults())
		if err != nil {
			t.Fatalf("the defaults do not load: %v\n%s", err, fleet.Defaults())
		}
		if string(again.Defaults()) != string(fleet.Defaults()) {
			t.Errorf("another fleet after a round trip:\n%s\n%s", fleet.Defaults(), again.Defaults())
		}
		for i, a := range fleet.Apps {
			if fleet.Revision(a) != again.Revision(again.Apps[i]) || ReleaseID("", a.Recipe()) != ReleaseID("", again.Apps[i].Recipe()) {
				t.Errorf("app %s is another after a round trip", a.Name)
			}
		}
	})
}
