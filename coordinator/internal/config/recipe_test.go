package config

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func recipeApp(may ...string) *App {
	return &App{
		Name: "shop", Build: []string{"make"}, Env: map[string]string{"A": "1"}, ReleaseTimeout: 10 * minute,
		RecipeFile: &RecipeFile{File: "lockstep.yaml", MaySet: may},
	}
}

func TestACommitSetsWhatItMay(t *testing.T) {
	a := recipeApp("build", "hooks", "release_command", "shared", "health_path")
	r, err := a.RecipeOf("1234567:lockstep.yaml", []byte("build: [npm ci]\nrelease_command: bin/migrate\nhooks: {after_drain: bin/x}\nshared: [.env]\nhealth_path: /ready?deep=1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Build, []string{"npm ci"}) || r.Env["A"] != "1" || !slices.Equal(r.ReleaseCommand, []string{"bin/migrate"}) ||
		r.ReleaseTimeout.D() != 10*minute || !slices.Equal(r.Hooks.At(api.StepAfterDrain), []string{"bin/x"}) || !slices.Equal(r.Shared, []string{".env"}) || r.HealthPath != "/ready?deep=1" {
		t.Errorf("%+v", r)
	}
	const sha = "9c3e5a7f10d2b4868a6c4e2f0d1b3957799bbddf"
	if ReleaseID(sha, r) == ReleaseID(sha, a.Recipe()) {
		t.Error("another recipe makes the same release")
	}
	if !slices.Equal(a.Build, []string{"make"}) {
		t.Error("the fleet's own recipe was changed")
	}
}

func TestARecipeThatCannotBeUsedSaysWhere(t *testing.T) {
	for content, want := range map[string]string{
		"build: [make]\nhooks: {after_drain: x}\n": "1234567:lockstep.yaml:2:1: hooks: fleet.yaml does not let the repository set it; add hooks to apps.shop.recipe.may_set there, or remove it here",
		"env: {LOCKSTEP_SHA: x}\n":                 "1234567:lockstep.yaml:1:7: env.LOCKSTEP_SHA: expected a name that does not begin with LOCKSTEP_",
		"unit: other.service\n":                    `1234567:lockstep.yaml:1:1: unit: unknown key; expected "build"`,
		"build: make\n":                            "1234567:lockstep.yaml:1:8: build: expected a list",
		"health_path: ready\n":                     "1234567:lockstep.yaml:1:14: health_path: expected a path that begins with one slash, without fragment or braces, got \"ready\"; write /healthz",
		"health_path: //example.com/x\n":           "1234567:lockstep.yaml:1:14: health_path: expected a path",
		"health_path: /a#b\n":                      "1234567:lockstep.yaml:1:14: health_path: expected a path",
		"health_path: /{instance}\n":               "1234567:lockstep.yaml:1:14: health_path: expected a path",
		"":                                         "1234567:lockstep.yaml:1:1: the file is empty; expected build, env",
		"build: [\n":                               "1234567:lockstep.yaml:",
	} {
		_, err := recipeApp("build", "env", "health_path").RecipeOf("1234567:lockstep.yaml", []byte(content))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v; want %s", content, err, want)
		}
	}
}

func FuzzRecipe(f *testing.F) {
	f.Add([]byte("build: [npm ci]\nrelease_command: bin/migrate\nhooks: {after_drain: bin/x, timeout: 1m}\nshared: [.env, up/]\nhealth_path: /x?y\nartifact: [dist/]\nenv: {A: 1}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := recipeApp(recipeKeys...).RecipeOf("lockstep.yaml", content)
		if err != nil {
			return
		}
		for _, s := range append(slices.Clone(r.Shared), r.Artifact...) {
			if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "..") {
				t.Errorf("a path out of the release: %q", s)
			}
		}
		h := api.HealthCheck{HTTP: "http://127.0.0.1:8080/healthz"}.Of(r)
		if u, err := url.Parse(h.HTTP); err != nil || u.Host != "127.0.0.1:8080" || u.User != nil {
			t.Errorf("%q leads elsewhere: %s, %v", content, h.HTTP, err)
		}
		for _, c := range append(slices.Clone(r.Build), r.ReleaseCommand...) {
			if strings.TrimSpace(c) == "" {
				t.Errorf("an empty command in %q", content)
			}
		}
	})
}
