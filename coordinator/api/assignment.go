package api

import "net/url"

// Assignment is the desired state of one app on one node, where it may have
// several targets.
type Assignment struct {
	App        string `json:"app"`
	Generation uint64 `json:"generation"` // rises only
	Spec       Spec   `json:"spec"`
	// Releases describes every release that the rest of the assignment names.
	Releases []Release `json:"releases"`
	Keep     []string  `json:"keep"` // ids never to be pruned
	// KeepReleases is how many further releases to retain, newest first.
	KeepReleases int      `json:"keep_releases"`
	Prepare      *Prepare `json:"prepare,omitempty"`
	Command      *Command `json:"command,omitempty"`
	Targets      []Goal   `json:"targets"`
	// Rollout labels step logs with the rollout they belong to; "" when none.
	Rollout string `json:"rollout,omitempty"`
}

// Prepare asks for a release to be fetched and built.
type Prepare struct {
	Release string `json:"release"`
	Attempt int    `json:"attempt"` // from 1; a higher number asks again
	// Archive is the digest ("sha256:" and 64 hex digits) of built files to take
	// from the coordinator, instead of fetching and building. A release of that
	// id with other files, which nothing runs, is replaced.
	Archive string `json:"archive,omitempty"`
	// Share asks for the built files to be handed to the coordinator, also when
	// the release is on disk already.
	Share bool `json:"share,omitempty"`
}

// Command asks for a release's command to be run, which must not happen twice.
// The agent that finds a number higher than all it knows claims it: it writes the
// number down and reports it. It begins once Go is set, and never begins a number
// that it has not claimed before. A command that the assignment no longer carries
// is ended.
type Command struct {
	Release string `json:"release"`
	Number  uint64 `json:"number"`
	Go      bool   `json:"go,omitempty"`
}

// Goal is the desired state of one target. Turn 0 gives no leave to touch it.
type Goal struct {
	Target string `json:"target"`
	// Instance names the target among the app's on its node; "" when it is the
	// only one. Unit and Health are its own, and "" and nil where the spec's are.
	Instance string       `json:"instance,omitempty"`
	Unit     string       `json:"unit,omitempty"`
	Health   *HealthCheck `json:"health,omitempty"`
	// Server is the target's name in its balancer; the node's name by default.
	Server   string   `json:"server,omitempty"`
	Release  string   `json:"release,omitempty"`  // "" before the first rollout
	Fallback string   `json:"fallback,omitempty"` // "" when there is nothing to go back to
	Turn     uint64   `json:"turn,omitempty"`
	Soak     Duration `json:"soak,omitempty"` // of this turn
}

// Host is a generated unit, as far as it is the node's business.
type Host struct {
	Apps  string `json:"apps"`           // directory of the apps
	Scope string `json:"scope"`          // "system" or "user"
	User  string `json:"user,omitempty"` // that apps run as; "" for one that systemd makes up
}

// Spec is how an app runs on a node, whatever the release.
type Spec struct {
	Repo      string `json:"repo"`
	SourceVia string `json:"source_via,omitempty"` // who fetches commits: [ViaAgent] or [ViaCoordinator]
	Unit      string `json:"unit"`                 // systemd unit name, "hello.service"; of an app with instances a template
	// Generated: the unit is written by the agent, from [Recipe.Run] of the release.
	Generated bool `json:"generated,omitempty"`
	// Restart is how the unit comes to run another release: [RestartReload],
	// [RestartStopStart], or "" for a plain restart.
	Restart        string      `json:"restart,omitempty"`
	RestartTimeout Duration    `json:"restart_timeout"`
	Health         HealthCheck `json:"health"`
	Balancer       *Balancer   `json:"balancer,omitempty"`
	// LastIf is a shell command that succeeds where the app's targets are to leave
	// after all others; "" for none.
	LastIf string `json:"last_if,omitempty"`
}

// Of returns the spec of one of the app's targets.
func (s Spec) Of(g Goal) Spec {
	if g.Unit != "" {
		s.Unit = g.Unit
	}
	if g.Health != nil {
		s.Health = *g.Health
	}
	if b := s.Balancer; g.Instance != "" && b != nil && b.Gate != nil {
		balancer, gate := *b, *b.Gate
		gate.Path += "/" + g.Instance
		balancer.Gate, s.Balancer = &gate, &balancer
	}
	return s
}

// Ways for a unit to come to run another release, besides a restart.
const (
	RestartReload    = "reload"     // by its own ExecReload: the main process may stay
	RestartStopStart = "stop_start" // stopped, and started once it is down
)

// HealthCheck says when a target is healthy. With neither HTTP nor TCP set
// ("health: none") a target is healthy while its unit is active.
type HealthCheck struct {
	HTTP string `json:"http,omitempty"` // URL; healthy is a status 200 to 299
	TCP  string `json:"tcp,omitempty"`  // host:port; healthy is an accepted connection
	// Version is where the answer over HTTP says what answered, nil when it does not.
	Version *Version `json:"version,omitempty"`

	Interval Duration `json:"interval"` // between probes
	Timeout  Duration `json:"timeout"`  // of one probe
	Passes   int      `json:"passes"`   // in a row that make it healthy
	Failures int      `json:"failures"` // in a row that make a healthy one unhealthy
	Deadline Duration `json:"deadline"` // to become healthy after a restart
}

// Of is the check of a release that was built by recipe r, which may have a path of
// its own to be asked at.
func (h HealthCheck) Of(r Recipe) HealthCheck {
	if r.HealthPath == "" || h.HTTP == "" {
		return h
	}
	// One that cannot be parsed is for the probe to complain of.
	if u, err := url.Parse(h.HTTP); err == nil {
		h.HTTP = u.Scheme + "://" + u.Host + r.HealthPath
	}
	return h
}

// Version is one of a header and a field of a JSON object, with dots between
// names of objects within objects. It must hold the commit's SHA, seven digits or
// more of it, or the release's id.
type Version struct {
	Header string `json:"header,omitempty"`
	JSON   string `json:"json,omitempty"`
}
