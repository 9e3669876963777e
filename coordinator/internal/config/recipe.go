package config

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// RecipeFile says which file of a commit may set what of the recipe.
type RecipeFile struct {
	File   string
	MaySet []string // never empty
}

// recipeKeys are what a commit can be let set: what belongs to a release, and
// nothing of where and as whom it runs.
var recipeKeys = []string{"build", "env", "artifact", "release_command", "hooks", "shared", "health_path"}

func (a *App) readRecipeFile(o object) {
	const write = "{file: lockstep.yaml, may_set: [build, hooks]}"
	v, ok := o.get("recipe")
	if !ok {
		return
	}
	r, ok := v.object(write, "file", "may_set")
	if !ok {
		return
	}
	f := &RecipeFile{File: "lockstep.yaml"}
	if v, ok := r.get("file"); ok {
		if s, ok := v.text("lockstep.yaml"); ok {
			if s != path.Clean(s) || path.IsAbs(s) || s == "." || s == ".." || strings.HasPrefix(s, "../") || strings.Contains(s, "\x00") {
				v.fail("expected the path of a file in the repository, got %s; write lockstep.yaml", quoted(s))
			}
			f.File = s
		}
	}
	if v, ok := r.need("may_set", "[build, hooks]"); ok {
		for _, item := range v.items("[build, hooks]") {
			s, ok := item.word(recipeKeys...)
			switch {
			case !ok:
			case slices.Contains(f.MaySet, s):
				item.fail("%s is given twice; remove one", quoted(s))
			default:
				f.MaySet = append(f.MaySet, s)
			}
		}
	}
	a.RecipeFile = f
}

// checkHealthPath refuses to let commits set a path where there is none, or where
// it tells the instances apart.
func (a *App) checkHealthPath(o object) {
	v, ok := o.get("recipe")
	if !ok || a.RecipeFile == nil || !slices.Contains(a.RecipeFile.MaySet, "health_path") {
		return
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(a.Health.HTTP, "http://"), "https://")
	_, path, _ := strings.Cut(rest, "/")
	switch {
	case a.Health.HTTP == "":
		v.fail("health_path is part of a URL, and the app is not checked at one; write health: {http: …}, or leave health_path out of may_set")
	case strings.Contains(path, "{instance}"):
		v.fail("the path of health.http tells the instances apart, so that no commit can set another; write {instance} as the port there, or leave health_path out of may_set")
	}
}

// healthPath is where a release is checked on the host and port of the fleet's URL.
func (v value) healthPath() string {
	const write = "/healthz"
	s, ok := v.text(write)
	if !ok {
		return ""
	}
	if _, err := url.ParseRequestURI(s); err != nil || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "#{}") {
		v.fail("expected a path that begins with one slash, without fragment or braces, got %s; write %s", quoted(s), write)
	}
	return s
}

// RecipeOf is the recipe of a commit whose recipe file has this content. What the
// file does not set is as the fleet file has it. name is what problems call the
// file; the error is of type [Problems].
func (a *App) RecipeOf(name string, content []byte) (api.Recipe, error) {
	r := &reader{file: name, expected: strings.Join(recipeKeys, ", ")}
	b := *a
	if root, ok := r.parse(content); ok {
		if o, ok := root.object("build: [make]", recipeKeys...); ok {
			b.override(o)
		}
	}
	sortProblems(r.problems)
	if len(r.problems) > 0 {
		return api.Recipe{}, Problems(r.problems)
	}
	return b.Recipe(), nil
}

// override sets what the file sets, and refuses what it may not.
func (a *App) override(o object) {
	for _, key := range o.keys {
		if !slices.Contains(a.RecipeFile.MaySet, key) {
			o.places[key].fail("fleet.yaml does not let the repository set it; add %s to apps.%s.recipe.may_set there, or remove it here", key, a.Name)
			continue
		}
		v := o.values[key]
		switch key {
		case "build":
			a.Build = v.commands()
		case "env":
			a.Env = v.environment()
		case "artifact":
			a.Artifact = nil
			a.readArtifact(o)
		case "release_command":
			a.ReleaseCommand = v.command()
		case "hooks":
			a.readHooks(o)
		case "health_path":
			a.HealthPath = v.healthPath()
		case "shared":
			a.Shared = nil
			a.readShared(o)
		}
	}
}
