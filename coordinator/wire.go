package coordinator

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/survey"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/trigger"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// pools maps the configuration to what the engine knows of it.
func pools(f *config.Fleet) []rollout.Configured {
	var ps []rollout.Configured
	for _, p := range f.Pools() {
		c := rollout.Configured{Pool: p.Name, MaxUnavailable: p.MaxUnavailable}
		for _, a := range p.Apps {
			c.Apps = append(c.Apps, rollout.AppConfig{Name: a.Name, Nodes: a.Nodes, Instances: a.Instances, Revision: f.Revision(a), Policy: policy(a)})
		}
		ps = append(ps, c)
	}
	return ps
}

func policy(a *config.App) rollout.Policy {
	p := rollout.Policy{
		Soak: a.Soak, TargetTimeout: a.TargetTimeout, ProgressTimeout: a.ProgressTimeout, PrepareTimeout: a.PrepareTimeout,
		Retries: a.Retries, RetryBackoff: a.RetryBackoff, AutoRollback: a.AutoRollback, KeepReleases: a.KeepReleases,
	}
	if a.BuildOn != config.BuildOnEach {
		p.BuildOnce = true
		if a.BuildOn != config.BuildOnFirst {
			p.Builder = string(a.BuildOn)
		}
	}
	p.RefuseSkew = a.BuildSkew == config.BuildSkewRefuse
	if a.Canary != nil {
		p.Canary, p.CanarySoak = a.Canary.Node, a.Canary.Soak
	}
	return p
}

// triggerApps opens one mirror for each repository, from which the submodules of the
// apps are known, too.
func triggerApps(f *config.Fleet) (apps []trigger.App, inside map[string]*survey.Modules, err error) {
	mirrors := map[string]*mirror.Mirror{}
	inside = map[string]*survey.Modules{}
	for _, a := range f.Apps {
		key := sourceKey(a)
		m := mirrors[key]
		if m == nil {
			dir := filepath.Join(f.Coordinator.Mirrors, a.Name+"-"+key+".git")
			if m, err = mirror.Open(dir, a.Repo, a.Source.Login()); err != nil {
				return nil, nil, err
			}
			mirrors[key] = m
		}
		recipe := a.Recipe()
		id, own := func(sha string) string { return config.ReleaseID(sha, recipe) }, (func(context.Context, string) (api.Recipe, error))(nil)
		if a.RecipeFile != nil {
			r := &recipes{app: a, file: m.File, known: map[string]api.Recipe{}}
			id, own = r.id, r.of
		}
		apps = append(apps, trigger.App{
			Name: a.Name, Repo: a.Repo, Branch: a.Branch, Recipe: recipe, DeployForced: a.ForcePush == config.ForcePushDeploy,
			ReleaseID: id, RecipeOf: own, Mirror: m,
		})
		inside[a.Name] = &survey.Modules{Repo: a.Repo, Login: a.LoginTo, File: m.File}
	}
	return apps, inside, nil
}

// heads asks the repository of an app for its branch's commit.
func heads(apps []trigger.App) func(ctx context.Context, app string) (string, error) {
	return func(ctx context.Context, app string) (string, error) {
		for _, a := range apps {
			if a.Name == app {
				return a.Mirror.RemoteHead(ctx, a.Branch)
			}
		}
		return "", fmt.Errorf("there is no app %q", app)
	}
}

func httpApps(f *config.Fleet) []httpapi.App {
	var apps []httpapi.App
	for _, a := range f.Apps {
		places := map[string]httpapi.Place{}
		for _, p := range a.Places() {
			n := f.Node(p.Node)
			if _, ok := places[p.Node]; !ok {
				places[p.Node] = httpapi.Place{Spec: a.Spec(n), Goals: map[string]api.Goal{}}
			}
			places[p.Node].Goals[p.Instance] = a.Goal(n, p.Instance)
		}
		app := httpapi.App{Name: a.Name, KeepReleases: a.KeepReleases, Places: places, Recipe: a.Recipe(), LastIf: a.LastIf}
		if f := a.RecipeFile; f != nil {
			app.RecipeFile, app.MaySet = f.File, f.MaySet
		}
		apps = append(apps, app)
	}
	return apps
}

func tokens(f *config.Fleet) *httpapi.Tokens {
	t := &httpapi.Tokens{}
	for _, s := range f.Coordinator.AdminTokens {
		t.AddAdmin(string(s.Bytes()))
	}
	for _, n := range f.Nodes {
		t.AddNode(n.Name, string(n.Token.Bytes()))
	}
	return t
}

func secrets(f *config.Fleet) [][]byte {
	var all [][]byte
	for _, s := range f.GitHub.WebhookSecrets {
		all = append(all, s.Bytes())
	}
	return all
}
