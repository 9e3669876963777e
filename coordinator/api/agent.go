package api

import (
	"net/netip"
	"net/url"
	"time"
)

// Limits of the agent protocol.
const (
	// LongPoll is how long the coordinator holds a sync that has no news.
	LongPoll = 25 * time.Second
	// MaxSyncBytes caps the body of one sync in either direction.
	MaxSyncBytes = 4 << 20
	// MaxLogChunk caps the data of one log chunk.
	MaxLogChunk = 64 << 10
)

// SyncRequest is what an agent posts to /agent/v1/sync. The node is the one
// that the bearer token belongs to; a different Node is refused.
type SyncRequest struct {
	Node    string `json:"node"`
	Version string `json:"version"` // of the agent

	// Instance names the agent's state directory: a random id written with it.
	// Epoch counts the agent's starts, Seq its syncs since the start; together
	// they order reports, so that a late one is recognised.
	Instance string `json:"instance"`
	Epoch    uint64 `json:"epoch"`
	Seq      uint64 `json:"seq"`

	// Wait lets the coordinator hold the answer until there is news. An agent
	// that has something to tell soon sends false.
	Wait bool        `json:"wait"`
	Apps []AppReport `json:"apps"`
	// Sandbox is how the node holds in builds; nil before the agent has tried it.
	Sandbox *Sandbox `json:"sandbox,omitempty"`
}

// Sandbox is how a node holds in the commands that it runs, as it found when it
// tried.
type Sandbox struct {
	With string `json:"with"`           // "systemd" or "process group"
	Why  string `json:"why,omitempty"`  // not systemd
	User string `json:"user,omitempty"` // whom builds run as
	// Unenforced are the bounds that do not hold there.
	Unenforced []string `json:"unenforced,omitempty"`
	// Problem says why no build can run.
	Problem string `json:"problem,omitempty"`
}

// SyncResponse is the complete set of the node's assignments. An app that is
// absent is no longer this node's concern: the agent leaves it running.
type SyncResponse struct {
	Assignments []Assignment `json:"assignments"`
}

// AppReport is the state of one app on one node.
type AppReport struct {
	App        string         `json:"app"`
	Generation uint64         `json:"generation"` // highest accepted; 0 before the first
	Present    []string       `json:"present"`    // ids of complete releases on disk
	Prepare    *PrepareReport `json:"prepare,omitempty"`
	Targets    []TargetReport `json:"targets"`
	// Digests tells of each release on disk which files it consists of (see
	// [Prepare.Archive]). One whose digest is not known yet has none.
	Digests map[string]string `json:"digests,omitempty"`
	// Edited names, of releases that were changed after they were built, one file
	// that was.
	Edited map[string]string `json:"edited,omitempty"`
	// Left are instances that the assignment names no more and that still run.
	Left []LeftTarget `json:"left,omitempty"`
	// Command is the release command that it claimed last.
	Command *CommandReport `json:"command,omitempty"`
	// Unit tells of the app's unit if it is generated.
	Unit *UnitReport `json:"unit,omitempty"`
	// Balancer is what the agent last learned of the app's balancer, if it speaks
	// to it itself.
	Balancer *BalancerReport `json:"balancer,omitempty"`
}

// LeftTarget is an instance that was left running when it was taken out of the
// configuration. No rollout reaches it.
type LeftTarget struct {
	Target   string `json:"target"`
	Instance string `json:"instance"`
	Unit     string `json:"unit"`
}

// PrepareReport tells how the attempt at preparing a release stands. A
// prepared release is also listed in [AppReport.Present]; one that is to be
// shared is listed there as soon as it is built, and may still fail to be shared.
type PrepareReport struct {
	Release string `json:"release"`
	Attempt int    `json:"attempt"`
	Step    Step   `json:"step,omitempty"` // StepFetch, StepBuild, StepShare, or StepUnpack while it runs
	Failed  bool   `json:"failed,omitempty"`
	Reason  Reason `json:"reason,omitempty"`
	Text    string `json:"text,omitempty"`
}

// CommandReport tells how a release command stands. One that does not run, did
// not succeed, and has no reason is claimed.
type CommandReport struct {
	Release string `json:"release"`
	Number  uint64 `json:"number"`
	Running bool   `json:"running,omitempty"`
	OK      bool   `json:"ok,omitempty"`
	Reason  Reason `json:"reason,omitempty"` // why it failed, or nobody knows how it ended
	Text    string `json:"text,omitempty"`
}

// Rotation tells whether a balancer gives a target new work. A target without
// a balancer is in rotation while its unit runs.
type Rotation string

// Rotation values. Unknown is neither in nor out.
const (
	RotationUnknown  Rotation = "unknown"
	RotationIn       Rotation = "in"
	RotationOut      Rotation = "out"
	RotationDraining Rotation = "draining"
)

// Health is the agent's verdict over its probes of a target.
type Health string

// Health values. Unknown is neither healthy nor unhealthy.
const (
	HealthUnknown Health = "unknown"
	Healthy       Health = "healthy"
	Unhealthy     Health = "unhealthy"
)

// TargetReport is one target as the agent sees it now.
type TargetReport struct {
	Target string `json:"target"`
	// Release that the running process proves ("" when nothing runs, or what
	// runs belongs to no release of the app).
	Release  string   `json:"release"`
	Rotation Rotation `json:"rotation"`
	Health   Health   `json:"health"`
	// Last: the app's last_if succeeds here, so that the target is to leave after
	// all others. Only as long as a release is asked to be prepared.
	Last bool `json:"last,omitempty"`
	// Current is the release that the target's current link names, if that is another
	// than Release and no turn is in progress; "none" if it names none.
	Current string `json:"current,omitempty"`
	// Turn in progress (0: none), its current step and since when.
	Turn  uint64     `json:"turn,omitempty"`
	Step  Step       `json:"step,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	// Detail is one sentence: why it is not in rotation, what the step waits for.
	Detail string `json:"detail,omitempty"`
	// Outcome of the last finished turn.
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Outcome is the journaled result of one turn.
type Outcome struct {
	Turn    uint64 `json:"turn"`
	Release string `json:"release"` // the release that the turn was for
	OK      bool   `json:"ok"`
	// Reverted tells, of a turn that failed, that the target serves its
	// fallback, in rotation and healthy, as before the turn. Otherwise it is
	// out of rotation and needs a new turn.
	Reverted bool   `json:"reverted,omitempty"`
	Reason   Reason `json:"reason,omitempty"`
	Text     string `json:"text,omitempty"`
	// Out is how long the target was out of rotation.
	Out Duration `json:"out"`
	// Steps are the steps that the turn took, in order, for the timeline.
	Steps []StepTime `json:"steps,omitempty"`
}

// StepTime is one finished step of a turn.
type StepTime struct {
	Step  Step     `json:"step"`
	Took  Duration `json:"took"`
	Undo  bool     `json:"undo,omitempty"`
	Error string   `json:"error,omitempty"`
	// Note is what people should know of a step that went well, such as work that
	// was cut off.
	Note string `json:"note,omitempty"`
}

// Step names what an agent is doing.
type Step string

// Steps of preparing and of activating.
const (
	StepFetch    Step = "fetch"
	StepBuild    Step = "build"
	StepShare    Step = "share"  // hand the built files to the coordinator
	StepUnpack   Step = "unpack" // take built files from the coordinator
	StepCommand  Step = "release_command"
	StepSnapshot Step = "snapshot"
	// Hooks are steps of their own, where there are any.
	StepBeforeDrain  Step = "before_drain"
	StepAfterDrain   Step = "after_drain"
	StepBeforeRejoin Step = "before_rejoin"
	StepAfterRejoin  Step = "after_rejoin"
	StepDrain        Step = "drain"
	StepSwitch       Step = "switch"
	StepRestart      Step = "restart"
	StepVerify       Step = "verify"
	StepRejoin       Step = "rejoin"
	StepSoak         Step = "soak"
	StepRevert       Step = "revert"
)

// Reason is a typed cause. Sentences are rendered beside it and never parsed.
type Reason string

// Reasons an agent gives. The first group condemns the release, the second the
// node; [Reason.CondemnsRelease] tells them apart.
const (
	ReasonBuildFailed   Reason = "build_failed"   // a build command failed or ran out of time
	ReasonStartFailed   Reason = "start_failed"   // the unit did not start or kept crashing
	ReasonUnhealthy     Reason = "unhealthy"      // health checks did not pass in time
	ReasonSoakFailed    Reason = "soak_failed"    // became unhealthy or crashed while soaking
	ReasonWrongRelease  Reason = "wrong_release"  // what runs after the restart is not the release
	ReasonCommandFailed Reason = "command_failed" // the release command failed or ran out of time
	ReasonHookFailed    Reason = "hook_failed"    // a hook failed or ran out of time
	ReasonBadTree       Reason = "bad_tree"       // the commit holds what cannot be written safely

	ReasonFetchFailed     Reason = "fetch_failed"     // remote unreachable, denied, commit unknown
	ReasonSharedMissing   Reason = "shared_missing"   // a shared file does not exist on the node
	ReasonDiskFull        Reason = "disk_full"        // no space or inodes
	ReasonShareFailed     Reason = "share_failed"     // the coordinator did not take the built files
	ReasonArchiveFailed   Reason = "archive_failed"   // the coordinator did not hand out the built files
	ReasonArchiveBad      Reason = "archive_bad"      // what it handed out is not what was asked for
	ReasonReleaseEdited   Reason = "release_edited"   // files of the release changed after it was built
	ReasonBuildSkew       Reason = "build_skew"       // two builds of the release made different files
	ReasonReleaseMissing  Reason = "release_missing"  // not prepared on this node
	ReasonUnitMissing     Reason = "unit_missing"     // unit not found or masked
	ReasonUnitNotAllowed  Reason = "unit_not_allowed" // agent.yaml does not allow it, or it is another app's
	ReasonNoReload        Reason = "no_reload"        // the unit is to be reloaded and has no ExecReload
	ReasonBalancerRefused Reason = "balancer_refused" // unsafe now: too few others healthy, foreign maintenance
	ReasonBalancerFailed  Reason = "balancer_failed"  // did not answer or did not do as told
	ReasonRejoinTimeout   Reason = "rejoin_timeout"   // the balancer did not call it healthy in time
	ReasonSystemd         Reason = "systemd"          // the service manager did not answer
	ReasonInterrupted     Reason = "interrupted"      // the agent or its machine went down meanwhile, so nobody knows
	ReasonRevoked         Reason = "revoked"          // the coordinator took the turn back
	ReasonInternal        Reason = "internal"         // anything else, named in the text
)

// CondemnsRelease tells whether the reason says that the release is bad, rather
// than the node or what surrounds it.
func (r Reason) CondemnsRelease() bool {
	switch r {
	case ReasonBuildFailed, ReasonStartFailed, ReasonUnhealthy, ReasonSoakFailed, ReasonWrongRelease, ReasonCommandFailed, ReasonHookFailed, ReasonBadTree:
		return true
	}
	return false
}

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
	BeforeRejoin []string `json:"before_rejoin,omitempty"`
	AfterRejoin  []string `json:"after_rejoin,omitempty"`
	Timeout      Duration `json:"timeout,omitempty"` // of each
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

// Host is a generated unit, as far as it is the node's business.
type Host struct {
	Apps  string `json:"apps"`           // directory of the apps
	Scope string `json:"scope"`          // "system" or "user"
	User  string `json:"user,omitempty"` // that apps run as; "" for one that systemd makes up
}

// UnitReport tells how a generated unit stands on a node.
type UnitReport struct {
	Host Host `json:"host"`
	// Installed is the digest of the unit file that is there, as of
	// internal/unitfile; "" for none.
	Installed string `json:"installed,omitempty"`
	// Refused says why none can be written, "" when it can.
	Refused string `json:"refused,omitempty"`
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

// Balancer is a load balancer as an agent needs to know it.
type Balancer struct {
	Name string `json:"name"`
	Type string `json:"type"` // "haproxy", "nginx", "caddy", "gate", "exec", "hetzner", or "digitalocean"
	// Via is who speaks to it: [ViaAgent] or [ViaCoordinator].
	Via string `json:"via,omitempty"`
	// Endpoints are the admin sockets of every instance of HAProxy: unix:///path
	// or tcp://host:port. All must agree.
	Endpoints []string `json:"endpoints"`
	Backends  []string `json:"backends"`
	// AllowUnreachable is how many of them may be down without stopping a turn.
	AllowUnreachable int `json:"allow_unreachable,omitempty"`
	// Idle says how to tell from connections that nothing is in flight, nil as
	// usual.
	Idle *Idle `json:"idle,omitempty"`
	// What an agent that speaks to a balancer of another type itself must know.
	// What needs a credential is the coordinator's alone.
	Nginx *Nginx `json:"nginx,omitempty"`
	Caddy *Caddy `json:"caddy,omitempty"`
	Exec  *Exec  `json:"exec,omitempty"`
	Cloud *Cloud `json:"cloud,omitempty"`
	// Gate is the gate that the node keeps for the target, where the balancer
	// checks one. Whoever speaks to the balancer, the gate is the agent's.
	Gate *Gate `json:"gate,omitempty"`
	// MinHealthy is how many other targets the balancer itself must see serving
	// before one is drained.
	MinHealthy int `json:"min_healthy"`
	// DrainTimeout bounds the wait for requests in flight;
	// OnDrainTimeout says what then: "proceed", "abort", or "force", which ends what
	// remains and proceeds.
	DrainTimeout   Duration `json:"drain_timeout"`
	OnDrainTimeout string   `json:"on_drain_timeout"`
	RejoinTimeout  Duration `json:"rejoin_timeout"`
}

// Idle says which connections to a target count as work.
type Idle struct {
	Ports  []int          `json:"ports,omitempty"`  // empty: that of the health check
	Ignore []netip.Prefix `json:"ignore,omitempty"` // peers whose connections are none
	Window Duration       `json:"window,omitempty"` // of silence; 0: as usual
}

// Nginx is an nginx on the agent's own machine. What is empty is usual there.
type Nginx struct {
	File      string   `json:"file"` // with the server lines
	Upstreams []string `json:"upstreams,omitempty"`
	PIDFile   string   `json:"pid_file,omitempty"`
	Test      []string `json:"test,omitempty"` // commands with their arguments
	Reload    []string `json:"reload,omitempty"`
}

// Caddy is a Caddy whose admin API the agent can reach.
type Caddy struct {
	Endpoint string   `json:"endpoint"` // http://host:port or unix:///path
	Handlers []string `json:"handlers"` // the @id of each
	Parked   string   `json:"parked,omitempty"`
}

// Exec is a program on the agent's machine that speaks to the balancer.
type Exec struct {
	Command []string `json:"command"` // by its absolute path, with its arguments
}

// Gate is how a target's health gate answers the balancer that polls it.
type Gate struct {
	Port    int    `json:"port"`    // that the balancer polls
	Path    string `json:"path"`    // in an app's spec; that of an instance is below it, see [Spec.Of]
	Refusal int    `json:"refusal"` // status of a closed gate
	// Check is how the balancer was configured to poll; nil where it tells that
	// itself, to whoever speaks to it: see [OpTiming].
	Check *BalancerCheck `json:"check,omitempty"`
	// Pollers are the only address ranges whose polls count; empty for all.
	Pollers    []string `json:"pollers,omitempty"`
	MinPollers int      `json:"min_pollers"`
	// Peers are the URLs at which the gates of all members show their status, by
	// the members' names; empty where somebody else counts who serves.
	Peers map[string]string `json:"peers,omitempty"`
}

// Cloud is a load balancer of Hetzner or DigitalOcean for agents that have a token
// of their own.
type Cloud struct {
	LoadBalancer string            `json:"load_balancer"`      // name or id
	Endpoint     string            `json:"endpoint,omitempty"` // of the API; "" is the cloud's own
	Mode         string            `json:"mode"`               // "remove" or "gate"
	IPs          map[string]string `json:"ips,omitempty"`      // of targets that are addresses at Hetzner, by name
	Droplets     map[string]int    `json:"droplets,omitempty"` // at DigitalOcean, by name, where that differs
	Settle       Duration          `json:"settle,omitempty"`   // after a droplet has left DigitalOcean's list
}

// LogChunk is a piece of the output of one step. Chunks of one stream (node,
// app, rollout, step) are numbered from 0; posting one again is harmless.
type LogChunk struct {
	App string `json:"app"`
	// Instance is the app's on the node that the output is of; "" where it is of the
	// whole node, or there is only one.
	Instance string    `json:"instance,omitempty"`
	Rollout  string    `json:"rollout"`
	Step     Step      `json:"step"`
	Number   uint64    `json:"number"`
	At       time.Time `json:"at"`
	Data     string    `json:"data"`
}

// LogRequest is what an agent posts to /agent/v1/logs; answered 204 once stored.
type LogRequest struct {
	Node   string     `json:"node"`
	Chunks []LogChunk `json:"chunks"`
}
