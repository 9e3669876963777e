package api

// Release is one commit built by one recipe. It never changes.
type Release struct {
	ID      string `json:"id"`  // <sha12>-<spec6>: the name of its directory
	SHA     string `json:"sha"` // 40 hex digits
	Subject string `json:"subject,omitempty"`
	Recipe  Recipe `json:"recipe"`
}

// Recipe is what, with the commit, makes a release.
type Recipe struct {
	Build   []string          `json:"build,omitempty"` // shell command lines, in order
	Env     map[string]string `json:"env,omitempty"`   // of the build
	Timeout Duration          `json:"timeout"`         // of the whole build
	// Artifact names what of the built tree makes the release, as paths below it
	// in which each part may hold wildcards as in path.Match; empty is all. A
	// directory stands for all below it.
	Artifact []string `json:"artifact,omitempty"`
	// Run is how the release is run where its unit is generated, nil where the app
	// has one of its own.
	Run *Run `json:"run,omitempty"`
	// Secrets are variables of the build whose values agent.yaml has.
	Secrets []string     `json:"secrets,omitempty"`
	Limits  *BuildLimits `json:"limits,omitempty"`
	// ReleaseCommand are shell command lines that are run once in a rollout, on one
	// node, before the first target leaves; ReleaseTimeout bounds them together.
	ReleaseCommand []string `json:"release_command,omitempty"`
	ReleaseTimeout Duration `json:"release_command_timeout,omitempty"`
	Hooks          *Hooks   `json:"hooks,omitempty"`
	// HealthPath is the path, and query, at which the release is checked in the place
	// of that of the spec's URL; "" for the spec's. See [HealthCheck.Of].
	HealthPath string `json:"health_path,omitempty"`
	// Shared are paths that are links to what all releases of the app on a node
	// share; those that end in a slash are directories.
	Shared []string `json:"shared,omitempty"`
}

// Hooks are shell command lines around a target's leaving and returning. They may
// be run again after a crash.
type Hooks struct {
	BeforeDrain  []string `json:"before_drain,omitempty"`
	AfterDrain   []string `json:"after_drain,omitempty"`
	WhileStopped []string `json:"while_stopped,omitempty"` // between the unit's stop and its start
	BeforeRejoin []string `json:"before_rejoin,omitempty"`
	AfterRejoin  []string `json:"after_rejoin,omitempty"`
	Timeout      Duration `json:"timeout,omitempty"` // of each
}

// Steps are those that h has commands for, in the order of a turn.
func (h *Hooks) Steps() []Step {
	var some []Step
	for _, s := range []Step{StepBeforeDrain, StepAfterDrain, StepWhileStopped, StepBeforeRejoin, StepAfterRejoin} {
		if len(h.At(s)) > 0 {
			some = append(some, s)
		}
	}
	return some
}

// At returns the commands of a step, none where h is nil.
func (h *Hooks) At(s Step) []string {
	if h == nil {
		return nil
	}
	switch s {
	case StepBeforeDrain:
		return h.BeforeDrain
	case StepAfterDrain:
		return h.AfterDrain
	case StepWhileStopped:
		return h.WhileStopped
	case StepBeforeRejoin:
		return h.BeforeRejoin
	case StepAfterRejoin:
		return h.AfterRejoin
	}
	return nil
}

// BuildLimits is what a build may use up of its node. 0 is no limit.
type BuildLimits struct {
	Memory int64 `json:"memory,omitempty"` // bytes
	// MemoryPercent is of the node's memory; it counts where Memory is 0.
	MemoryPercent int      `json:"memory_percent,omitempty"`
	CPUWeight     int      `json:"cpu_weight,omitempty"` // beside 100 of everything else
	IOWeight      int      `json:"io_weight,omitempty"`  // likewise
	Tasks         int      `json:"tasks,omitempty"`
	Silence       Duration `json:"silence,omitempty"` // without output
}

// Run is a generated unit, as far as it is the app's business.
type Run struct {
	Command string            `json:"command"`          // a shell command line; {instance} stands for the instance's name
	Env     map[string]string `json:"env,omitempty"`    // of the command; {instance} as above
	Memory  int64             `json:"memory,omitempty"` // most bytes of memory; 0 for no limit
}
