package api

import "time"

// Rollout is the tracked move of an app's targets to a release.
type Rollout struct {
	ID      string `json:"id"` // <app>-<number>
	App     string `json:"app"`
	Kind    string `json:"kind"`   // deploy, rollback, catch_up
	Status  string `json:"status"` // queued, preparing, rolling, succeeded, failed, rolling_back, rolled_back, superseded, aborted
	Reason  string `json:"reason,omitempty"`
	Text    string `json:"text,omitempty"`
	Blocked string `json:"blocked,omitempty"` // why no target may be drained now
	Paused  *Pause `json:"paused,omitempty"`
	Done    bool   `json:"done"` // the status is final

	Release  ReleaseRef  `json:"release"`
	From     *ReleaseRef `json:"from,omitempty"` // the stable release it returns to on failure
	By       string      `json:"by"`
	Cause    string      `json:"cause,omitempty"`
	Created  time.Time   `json:"created"`
	Started  *time.Time  `json:"started,omitempty"`
	Finished *time.Time  `json:"finished,omitempty"`

	Targets []RolloutTarget `json:"targets"`

	// Warnings are for whoever asked for the rollout, and only in the answer to that.
	Warnings []string `json:"warnings,omitempty"`
}

// Pause tells who paused a rollout and why.
type Pause struct {
	By     string    `json:"by"` // a person, or "lockstep"
	Reason string    `json:"reason"`
	Text   string    `json:"text,omitempty"`
	At     time.Time `json:"at"`
}

// RolloutTarget is one target of a rollout, in rollout order.
type RolloutTarget struct {
	Target   string     `json:"target"`
	Node     string     `json:"node"`
	Instance string     `json:"instance,omitempty"` // which of the app's on its node; "" when it is the only one
	Phase    string     `json:"phase"`              // waiting, preparing, prepared, activating, active, reverting, reverted, quarantined, unreachable
	Step     string     `json:"step,omitempty"`
	Since    *time.Time `json:"since,omitempty"` // of the step
	Reason   string     `json:"reason,omitempty"`
	Text     string     `json:"text,omitempty"`
}

// ReleaseRef names a release for a reader.
type ReleaseRef struct {
	ID        string     `json:"id"`
	SHA       string     `json:"sha"`
	Subject   string     `json:"subject,omitempty"`
	Committed *time.Time `json:"committed,omitempty"`
	Stable    bool       `json:"stable"`
	Bad       string     `json:"bad,omitempty"` // why automation will not deploy it again
}

// Status is the answer of GET /v1/status.
type Status struct {
	At      time.Time   `json:"at"`
	Version string      `json:"version"`
	Apps    []AppStatus `json:"apps"`
}

// Converged tells whether every app is.
func (s Status) Converged() bool {
	for _, a := range s.Apps {
		if !a.Converged {
			return false
		}
	}
	return true
}

// AppStatus is one app at a glance.
type AppStatus struct {
	App     string      `json:"app"`
	Pool    string      `json:"pool"`
	Release *ReleaseRef `json:"release,omitempty"` // that every target should run; absent before the first rollout
	Since   *time.Time  `json:"since,omitempty"`
	// Converged: every target is proved on Release and in rotation.
	Converged bool   `json:"converged"`
	Skew      string `json:"skew"` // one sentence: "3 of 3 targets on 3f2a91c", or what differs
	// BuildSkew tells, of Release, which nodes hold which build of it, when they
	// hold different ones.
	BuildSkew string         `json:"build_skew,omitempty"`
	Live      *Rollout       `json:"live,omitempty"`
	Waiting   *Rollout       `json:"waiting,omitempty"`
	Hold      *Hold          `json:"hold,omitempty"`
	Targets   []TargetStatus `json:"targets"`
	// Left are sentences about instances that still run, though the configuration
	// names them no more.
	Left []string `json:"left,omitempty"`
}

// TargetStatus is one target at a glance.
type TargetStatus struct {
	Target   string `json:"target"`
	Node     string `json:"node"`
	Instance string `json:"instance,omitempty"`
	// Last: it asks to leave after all others in the rollout that is live.
	Last      bool        `json:"last,omitempty"`
	Reachable bool        `json:"reachable"`
	LastSeen  *time.Time  `json:"last_seen,omitempty"`
	Agent     string      `json:"agent,omitempty"` // version
	Release   *ReleaseRef `json:"release,omitempty"`
	Rotation  Rotation    `json:"rotation"`
	Health    Health      `json:"health"`
	Phase     string      `json:"phase"`
	Step      string      `json:"step,omitempty"`
	Reason    string      `json:"reason,omitempty"`
	Text      string      `json:"text,omitempty"` // why it is not in rotation
	// Drift: another hand than ours changed it, and no rollout is under way.
	Drift *Drift `json:"drift,omitempty"`
}

// Drift is a target that runs, or would run after its next start, another release
// than it was left on.
type Drift struct {
	Since   time.Time   `json:"since"`
	Release *ReleaseRef `json:"release,omitempty"` // that runs; nil for what is no release
	Current *ReleaseRef `json:"current,omitempty"` // that would run after its next start, if another
	Text    string      `json:"text"`
}

// Hold stops automation for an app.
type Hold struct {
	By     string     `json:"by"`
	Reason string     `json:"reason"`
	At     time.Time  `json:"at"`
	Until  *time.Time `json:"until,omitempty"`
}

// Event is one line of a rollout's timeline.
type Event struct {
	Number  int64     `json:"number"` // rises; pass the last one as ?after=
	At      time.Time `json:"at"`
	Rollout string    `json:"rollout"`
	App     string    `json:"app"`
	Target  string    `json:"target,omitempty"`
	Kind    string    `json:"kind"`
	Reason  string    `json:"reason,omitempty"`
	Text    string    `json:"text"`
}

// EventPage is the answer of GET
// /v1/rollouts/{id}/events?after=N&state=S&wait=25s. With wait it comes as soon
// as there is an event after N or the rollout stands otherwise than in S.
type EventPage struct {
	Rollout Rollout `json:"rollout"` // as it stands now
	State   string  `json:"state"`   // stands for how Rollout stands; opaque
	Events  []Event `json:"events"`
}

// LogLine is one stored chunk of step output.
type LogLine struct {
	Position int64     `json:"position"` // rises; pass the last one as ?after=
	At       time.Time `json:"at"`
	Node     string    `json:"node"`
	App      string    `json:"app"`
	Instance string    `json:"instance,omitempty"` // of the app on the node, where the output is of one
	Rollout  string    `json:"rollout"`
	Step     Step      `json:"step"`
	Data     string    `json:"data"`
}

// LogPage is the answer of GET /v1/rollouts/{id}/logs?node=&step=&after=&wait=.
type LogPage struct {
	Lines []LogLine `json:"lines"`
	Done  bool      `json:"done"` // the rollout is over and there is no more
}

// DeployRequest asks POST /v1/apps/{app}/deploy for a rollout.
type DeployRequest struct {
	Ref string `json:"ref,omitempty"` // branch, tag, or commit; "" is the app's branch
	By  string `json:"by"`
}

// RollbackRequest asks POST /v1/apps/{app}/rollback for a rollout.
type RollbackRequest struct {
	To string `json:"to,omitempty"` // release id or commit (7 hex digits or more); "" is the last stable one before the current
	By string `json:"by"`
}

// HoldRequest is the body of POST /v1/apps/{app}/hold.
type HoldRequest struct {
	By     string   `json:"by"`
	Reason string   `json:"reason"`
	For    Duration `json:"for"` // 0: until unhold
}

// ActionRequest is the body of the actions that need no more: POST
// /v1/apps/{app}/{pause,resume,abort,retry,unhold}. They act on the app's live rollout.
type ActionRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Accepted answers 202 to what takes a while, with the rollout to follow.
type Accepted struct {
	Rollout Rollout `json:"rollout"`
}

// Plan is the answer of GET /v1/apps/{app}/plan?ref=, what a deploy would do, and
// of GET /v1/apps/{app}/plan?kind=rollback&to=, what a rollback would.
type Plan struct {
	App     string      `json:"app"`
	Kind    string      `json:"kind"` // deploy, rollback
	Release ReleaseRef  `json:"release"`
	From    *ReleaseRef `json:"from,omitempty"`
	Refused string      `json:"refused,omitempty"` // why it would not start
	// Missing are sentences about the nodes that cannot return without a build or an
	// archive. Of a rollback only: a deploy is prepared everywhere.
	Missing []string `json:"missing,omitempty"`

	// What the release is made of and what is run for it.
	Recipe         *PlanRecipe `json:"recipe,omitempty"`
	Build          []string    `json:"build,omitempty"`
	BuildOn        string      `json:"build_on,omitempty"` // each, first, or a node
	Artifact       []string    `json:"artifact,omitempty"`
	Shared         []string    `json:"shared,omitempty"`
	ReleaseCommand []string    `json:"release_command,omitempty"`
	Hooks          *Hooks      `json:"hooks,omitempty"`
	HealthPath     string      `json:"health_path,omitempty"` // of the release, where it is not the fleet's

	Steps []PlanStep `json:"steps"` // in the order that they would be taken
	Units []PlanUnit `json:"units,omitempty"`
	Notes []string   `json:"notes,omitempty"`
}

// PlanRecipe is the file by which a commit may set some of its recipe itself.
type PlanRecipe struct {
	File   string   `json:"file"`
	MaySet []string `json:"may_set"`        // as fleet.yaml permits
	Sets   []string `json:"sets,omitempty"` // otherwise than fleet.yaml, by this commit
}

// PlanUnit is a generated unit in a plan, on the nodes where it is the same.
type PlanUnit struct {
	Name   string   `json:"name"` // of the file
	Nodes  []string `json:"nodes"`
	Change string   `json:"change"` // [UnitInstall], [UnitReplace], or [UnitStays]
	Text   string   `json:"text"`
}

// What would become of a unit file.
const (
	UnitInstall = "install" // there is none yet
	UnitReplace = "replace" // there is another
	UnitStays   = "stays"
)

// PlanStep is one target in a plan.
type PlanStep struct {
	Target   string   `json:"target"`
	Node     string   `json:"node"`
	Instance string   `json:"instance,omitempty"`
	Release  string   `json:"release,omitempty"` // that runs there now
	Rotation Rotation `json:"rotation"`
	Health   Health   `json:"health"`
	Prepared bool     `json:"prepared"` // no fetch or build needed
	Soak     Duration `json:"soak"`
	Problem  string   `json:"problem,omitempty"` // what would stop it today
}

// Delivery is one webhook delivery and what became of it, as GET
// /v1/deliveries lists them, newest first.
type Delivery struct {
	ID         string    `json:"id"`
	Event      string    `json:"event"`
	Repository string    `json:"repository,omitempty"`
	Ref        string    `json:"ref,omitempty"`
	After      string    `json:"after,omitempty"`
	Sender     string    `json:"sender,omitempty"`
	Received   time.Time `json:"received"`
	Apps       []string  `json:"apps,omitempty"`
	Decision   string    `json:"decision"` // accepted, ignored, deployed, refused
	Reason     string    `json:"reason,omitempty"`
	Rollouts   []string  `json:"rollouts,omitempty"`
}

// ErrorKind is the typed part of an error answer.
type ErrorKind string

// Error kinds, with their HTTP status.
const (
	ErrorInvalid      ErrorKind = "invalid"      // 400
	ErrorUnauthorized ErrorKind = "unauthorized" // 401
	ErrorForbidden    ErrorKind = "forbidden"    // 403
	ErrorNotFound     ErrorKind = "not_found"    // 404
	ErrorConflict     ErrorKind = "conflict"     // 409: refused as things stand
	ErrorTooLarge     ErrorKind = "too_large"    // 413
	ErrorInternal     ErrorKind = "internal"     // 500
	ErrorUnavailable  ErrorKind = "unavailable"  // 503
	ErrorNoSpace      ErrorKind = "no_space"     // 507: the coordinator's disk is full
)

// Error is the body of every answer that is not 2xx, and the error that the
// client returns for it.
type Error struct {
	Kind   ErrorKind `json:"kind"`
	Reason string    `json:"reason,omitempty"` // machine-readable detail
	Text   string    `json:"text"`             // what happened and what to do
	Op     string    `json:"op,omitempty"`     // of a balancer's error: what Text says cannot be done
	// After is how long to wait before the next try, where a balancer says.
	After Duration `json:"after,omitempty"`
}

func (e *Error) Error() string { return e.Text }
