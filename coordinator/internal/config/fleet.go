// Package config reads fleet.yaml, the coordinator's configuration: the nodes,
// balancers, and apps of a fleet.
//
// A file is read strictly. Unknown keys, dangling names, values out of range,
// absent secrets, and what must be said but is not (health, balancer) are
// problems, and all problems of a file are reported at once, each with its
// line and what to write instead. A [Fleet] is complete: every default is
// filled in and every name in it resolves.
package config

import (
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Fleet is a valid fleet file. Nodes, balancers, and apps are in the order of
// the file. It is read-only.
type Fleet struct {
	Coordinator Coordinator
	GitHub      GitHub
	Nodes       []*Node
	Balancers   []*Balancer
	Apps        []*App
	// Warnings are what is allowed but hardly meant.
	Warnings []Problem
}

// Coordinator is the coordinator's own part.
type Coordinator struct {
	Listen       string // host:port
	Database     string // path of the SQLite file
	Mirrors      string // directory of the git mirrors
	Archives     string // directory of what nodes built for others
	AdminTokens  []Secret
	PollInterval time.Duration // between looks at each branch head
	NodeTimeout  time.Duration // of silence until a node is unreachable
}

// GitHub is what concerns webhooks.
type GitHub struct {
	WebhookSecrets []Secret // at least one
}

// Node is one machine.
type Node struct {
	Name  string
	Token Secret // that its agent shows; no two nodes share one
	// Address is where the node's apps listen, for its own agent. It stands for
	// "{address}" in health checks.
	Address string
}

// Via is who speaks to a balancer.
type Via string

// Who may.
const (
	ViaAgent       Via = "agent"       // each target's own agent
	ViaCoordinator Via = "coordinator" // the coordinator, on the agents' behalf
)

// Balancer is a load balancer; the targets behind it are one pool.
type Balancer struct {
	Name string
	Type string // a key of balancerTypes: "haproxy", "nginx", …
	Via  Via
	// Where is its place in the file, "fleet.yaml:12", for messages.
	Where string

	// What only one type has; the others' are nil.
	HAProxy      *HAProxy
	Nginx        *api.Nginx
	Caddy        *api.Caddy
	Exec         *api.Exec
	Hetzner      *Hetzner
	DigitalOcean *DigitalOcean
	// Gate is not nil where a target leaves by its health gate.
	Gate *Gate

	MaxUnavailable Share // targets that may be out of rotation at a time
	MinHealthy     int   // other targets that must serve before one is drained
	DrainTimeout   time.Duration
	OnDrainTimeout string // "proceed", "abort", or "force"
	Idle           *Idle  // nil: as the agent does by itself
	RejoinTimeout  time.Duration
	Servers        map[Place]string // the names of targets in the balancer, where they are others
}

// HAProxy is where HAProxy is spoken to, and about what.
type HAProxy struct {
	Endpoints []string // unix:///path or tcp://host:port, of every instance
	Backends  []string
	// AllowUnreachable is how many instances may be down without stopping a turn.
	AllowUnreachable int
}

// Hetzner is a load balancer of Hetzner Cloud.
type Hetzner struct {
	LoadBalancer string // name or id
	Token        Secret
	Endpoint     string            // of the API; "" is Hetzner's own
	Mode         string            // "remove" or "gate"
	IPs          map[string]string // node to its address, for targets of type ip
}

// DigitalOcean is a load balancer of DigitalOcean.
type DigitalOcean struct {
	LoadBalancer string // id
	Token        Secret
	Endpoint     string         // of the API; "" is DigitalOcean's own
	Mode         string         // "remove" or "gate"
	Droplets     map[string]int // node to its droplet's id, where names differ
	Settle       time.Duration  // after a removal shows, in which new work may still come
}

// Server is the name in the balancer of the target at a place: that of its node,
// with its instance if there are several.
func (b *Balancer) Server(p Place) string {
	if name, ok := b.Servers[p]; ok {
		return name
	}
	if p.Instance != "" {
		return p.Node + "-" + p.Instance
	}
	return p.Node
}

// ForcePush says what automation does when a branch was rewritten.
type ForcePush string

// Force push policies.
const (
	ForcePushRefuse ForcePush = "refuse" // wait for a person
	ForcePushDeploy ForcePush = "deploy"
)

// App is one application.
type App struct {
	Name   string
	Repo   string
	Source Source
	Branch string
	Nodes  []string // in the order of rollouts; never empty
	// Instances are the names of the app's targets on each node, in the order of
	// rollouts; empty for one target a node.
	Instances []string
	Build     []string
	Env       map[string]string // of the build
	// Secrets are variables of the build that each node's agent.yaml has.
	Secrets     []string
	BuildLimits api.BuildLimits
	// BuildOn is [BuildOnEach], [BuildOnFirst], or one of the nodes.
	BuildOn   BuildOn
	BuildSkew BuildSkew
	// Artifact is what of the built tree makes a release, as clean paths that may
	// hold wildcards; nil is all of it.
	Artifact []string
	// ReleaseCommand are run once in a rollout, before the first target leaves.
	ReleaseCommand []string
	ReleaseTimeout time.Duration
	Hooks          *api.Hooks // nil for none
	// Shared are clean paths below the release; those of directories end in a slash.
	Shared []string
	// RecipeFile is what a commit may say of its own recipe; nil for nothing.
	RecipeFile *RecipeFile
	// HealthPath takes the place of the path of Health.HTTP; only commits set it.
	HealthPath string
	Unit       string // of an app with instances the template, app@.service
	// Health has neither HTTP nor TCP set for "health: none". "{address}" and
	// "{instance}" stand in it as they were written.
	Health   api.HealthCheck
	Balancer *Balancer // nil for "balancer: none"
	// Backends are those of its HAProxy's backends that send work to the app; nil is
	// all of them.
	Backends []string

	BuildTimeout    time.Duration
	RestartTimeout  time.Duration
	Soak            time.Duration
	Canary          *Canary // nil when no node goes first
	TargetTimeout   time.Duration
	ProgressTimeout time.Duration
	PrepareTimeout  time.Duration
	Retries         int
	RetryBackoff    time.Duration
	AutoRollback    bool
	KeepReleases    int
	ForcePush       ForcePush
	// MaxUnavailable is that of the app's pool.
	MaxUnavailable Share
	// Run is the command that runs the app where it has no unit of its own, "" where
	// it has; EnvRun and RunMemory are of the unit that is generated then.
	Run       string
	EnvRun    map[string]string
	RunMemory int64 // bytes; 0 for no limit
	// Restart is how the unit comes to run another release: "restart", "reload" or
	// "stop_start".
	Restart string
	// LastIf is a command that succeeds on the node that is to be rolled last, ""
	// for none.
	LastIf string
}

// Canary is the node that gets a release first.
type Canary struct {
	Node string
	Soak time.Duration
}

// Pool is the targets that share a balancer: all of the apps behind it. An app
// without a balancer is a pool of its own.
type Pool struct {
	Name           string // of the balancer, or "app:" and the app's
	Balancer       *Balancer
	Apps           []*App
	MaxUnavailable int
}

// Pools groups the apps, in the order in which a pool first comes up. A
// balancer without apps is no pool.
func (f *Fleet) Pools() []Pool {
	var pools []Pool
	index := map[string]int{}
	for _, a := range f.Apps {
		name := a.Pool()
		i, ok := index[name]
		if !ok {
			i = len(pools)
			index[name] = i
			pools = append(pools, Pool{Name: name, Balancer: a.Balancer})
		}
		pools[i].Apps = append(pools[i].Apps, a)
	}
	for i := range pools {
		p := &pools[i]
		p.MaxUnavailable = p.Apps[0].MaxUnavailable.Of(len(placesOf(p.Apps)))
	}
	return pools
}

// placesOf are those of all apps, each once: apps behind one balancer that share a
// node share its server there.
func placesOf(apps []*App) []Place {
	var all []Place
	for _, a := range apps {
		for _, p := range a.Places() {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// nodesOf are the nodes of places, each once.
func nodesOf(places []Place) []string {
	var nodes []string
	for _, p := range places {
		if !slices.Contains(nodes, p.Node) {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// Pool is the name of the app's pool.
func (a *App) Pool() string {
	if a.Balancer != nil {
		return a.Balancer.Name
	}
	return "app:" + a.Name
}

// App is the app of a name, nil when there is none.
func (f *Fleet) App(name string) *App {
	for _, a := range f.Apps {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// Node is the node of a name, nil when there is none.
func (f *Fleet) Node(name string) *Node {
	for _, n := range f.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Balancer is the balancer of a name, nil when there is none.
func (f *Fleet) Balancer(name string) *Balancer {
	for _, b := range f.Balancers {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// AppsOn are the apps that run on a node.
func (f *Fleet) AppsOn(node string) []*App {
	var apps []*App
	for _, a := range f.Apps {
		for _, n := range a.Nodes {
			if n == node {
				apps = append(apps, a)
			}
		}
	}
	return apps
}
