package api

import "time"

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
	// than Release, or where that is "" than the goal, and no turn is in progress; "none"
	// if it names none, and Release is not "".
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

// UnitReport tells how a generated unit stands on a node.
type UnitReport struct {
	Host Host `json:"host"`
	// Installed is the digest of the unit file that is there, as of
	// internal/unitfile; "" for none.
	Installed string `json:"installed,omitempty"`
	// Refused says why none can be written, "" when it can.
	Refused string `json:"refused,omitempty"`
}
