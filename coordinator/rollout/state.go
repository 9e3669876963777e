package rollout

import (
	"slices"
	"strconv"
	"time"
)

// ReleaseID names a release: one commit built by one recipe.
type ReleaseID string

// RolloutID names a rollout: "<app>-<number>".
type RolloutID string

// TargetID names a target: "<app>@<node>", or "<app>@<node>:<instance>" of an
// app with several instances a node.
type TargetID string

// TargetName returns the id of the app's target on the node; instance is "" for
// an app with one target a node.
func TargetName(app, node, instance string) TargetID {
	return TargetID(app + "@" + place(node, instance))
}

func place(node, instance string) string {
	if instance == "" {
		return node
	}
	return node + ":" + instance
}

// State is one pool. The zero value is an empty pool; [Configured] fills it.
// It is plain data: what is saved as JSON and loaded again is the same state.
type State struct {
	Pool           string      `json:"pool"`
	Now            time.Time   `json:"now"` // of the last event
	MaxUnavailable int         `json:"max_unavailable"`
	Generation     uint64      `json:"generation"` // the highest given to any placement
	LastTurn       uint64      `json:"last_turn"`
	LastCommand    uint64      `json:"last_command,omitempty"`
	Apps           []App       `json:"apps"`
	Nodes          []Node      `json:"nodes"`
	Placements     []Placement `json:"placements"`
	Targets        []Target    `json:"targets"`
	// Retired holds the number of the newest rollout of each app that was taken
	// out of the configuration, so that none is given twice.
	Retired map[string]int `json:"retired,omitempty"`
}

// App is one application of the pool.
type App struct {
	Name   string `json:"name"`
	Policy Policy `json:"policy"`
	// Revision changes when the configuration that agents get does.
	Revision string `json:"revision"`
	// Current is the release that targets should run while nothing rolls: that
	// of the last rollout that finished. "" before the first.
	Current ReleaseID `json:"current,omitempty"`
	// Releases are all that automation must remember, in the order in which
	// they were asked for or, later, became current by a deployment.
	Releases []Release `json:"releases,omitempty"`
	Live     *Rollout  `json:"live,omitempty"`
	Waiting  *Rollout  `json:"waiting,omitempty"`
	Last     *Rollout  `json:"last,omitempty"` // that finished most recently
	Hold     *Hold     `json:"hold,omitempty"`
	Number   int       `json:"number"` // of the newest rollout
	// Archives are the digests of the built files that the coordinator has.
	Archives []string `json:"archives,omitempty"`
}

// Policy says how an app is rolled. Durations must be positive, Retries may be 0.
type Policy struct {
	Soak            time.Duration `json:"soak"`
	Canary          string        `json:"canary,omitempty"` // node whose first target goes first
	CanarySoak      time.Duration `json:"canary_soak,omitempty"`
	TargetTimeout   time.Duration `json:"target_timeout"`   // of one turn
	ProgressTimeout time.Duration `json:"progress_timeout"` // without any target's progress
	PrepareTimeout  time.Duration `json:"prepare_timeout"`
	Retries         int           `json:"retries"` // after a failure that condemns the node
	RetryBackoff    time.Duration `json:"retry_backoff"`
	AutoRollback    bool          `json:"auto_rollback"`
	KeepReleases    int           `json:"keep_releases"`
	// BuildOnce: one node builds, the others take its files: Builder, or, when
	// that is "", the first that can.
	BuildOnce bool   `json:"build_once,omitempty"`
	Builder   string `json:"builder,omitempty"`
	// RefuseSkew: nodes that build each for itself must make the same files.
	RefuseSkew bool `json:"refuse_skew,omitempty"`
}

// Release is what the engine remembers of a release.
type Release struct {
	ID      ReleaseID `json:"id"`
	SHA     string    `json:"sha"`
	Subject string    `json:"subject,omitempty"`
	// Stable: all targets of the app served it at one time.
	Stable bool `json:"stable,omitempty"`
	// Bad: automation must not deploy it again.
	Bad *Mark `json:"bad,omitempty"`
	// Digest is that of the files which one node built for all; "" while there
	// are none, and of what each node builds for itself.
	Digest string `json:"digest,omitempty"`
	// Command is how long its release command may take; 0: it has none.
	Command time.Duration `json:"command,omitempty"`
}

// Mark says who decided something, when, and why.
type Mark struct {
	By     string    `json:"by"`
	Reason Reason    `json:"reason"`
	Text   string    `json:"text,omitempty"`
	At     time.Time `json:"at"`
}

// Hold stops automation for an app until it expires or is lifted.
type Hold struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until,omitzero"` // zero: until lifted
}

// Kind is what a rollout is for.
type Kind string

// Rollout kinds.
const (
	Deploy   Kind = "deploy"
	Rollback Kind = "rollback"
	CatchUp  Kind = "catch_up" // brings a node that was away to the current release
)

// Status is how far a rollout is.
type Status string

// Rollout statuses; see the package comment.
const (
	Queued      Status = "queued"
	Preparing   Status = "preparing"
	Migrating   Status = "migrating" // its release command runs
	Rolling     Status = "rolling"
	Succeeded   Status = "succeeded"
	Failed      Status = "failed"
	RollingBack Status = "rolling_back"
	RolledBack  Status = "rolled_back"
	Superseded  Status = "superseded"
	Aborted     Status = "aborted"
)

// Final tells whether a rollout of this status is over.
func (s Status) Final() bool {
	switch s {
	case Succeeded, Failed, RolledBack, Superseded, Aborted:
		return true
	}
	return false
}

// Rollout is the tracked move of an app's targets to a release.
type Rollout struct {
	ID      RolloutID `json:"id"`
	App     string    `json:"app"`
	Kind    Kind      `json:"kind"`
	Release ReleaseID `json:"release"`
	// From is the release that a failure or an abort returns to; "" when there
	// is none.
	From   ReleaseID `json:"from,omitempty"`
	Status Status    `json:"status"`
	Reason Reason    `json:"reason,omitempty"`
	Text   string    `json:"text,omitempty"`
	// Blocked says why no turn can be given at the moment; "" when one can.
	Blocked string `json:"blocked,omitempty"`
	Paused  *Mark  `json:"paused,omitempty"`
	// Ending is the status that rolling_back ends in.
	Ending Status `json:"ending,omitempty"`
	By     string `json:"by"`
	Cause  string `json:"cause,omitempty"`
	// Automatic: asked for by a push or by polling, not by a person.
	Automatic bool       `json:"automatic,omitempty"`
	Created   time.Time  `json:"created"`
	Started   time.Time  `json:"started,omitzero"`
	Finished  time.Time  `json:"finished,omitzero"`
	Order     []TargetID `json:"order"`
	// Deadline is when the present status must have made progress.
	Deadline time.Time `json:"deadline,omitzero"`
	// Unfit are the nodes that were to build for all and could not.
	Unfit []string `json:"unfit,omitempty"`
	// Command is the release command, from the time that a node was chosen for it.
	Command *Command `json:"command,omitempty"`
}

// Node is a machine with an agent.
type Node struct {
	Name  string `json:"name"`
	Reach Reach  `json:"reach"`
}

// Reach tells whether a node's agent is heard of.
type Reach string

// Reach values. A coordinator that has just started knows of no node.
const (
	ReachUnknown Reach = "unknown"
	Reachable    Reach = "reachable"
	Unreachable  Reach = "unreachable"
)

// Placement is one app on one node, all its instances there: what the node holds
// for them. A release is prepared once for all of them.
type Placement struct {
	App        string `json:"app"`
	Node       string `json:"node"`
	Generation uint64 `json:"generation"` // of the assignment; rises with each change

	// Desired: the release to prepare, if any.
	Prepare ReleaseID `json:"prepare,omitempty"`
	How     How       `json:"how,omitempty"`
	Archive string    `json:"archive,omitempty"` // digest of the files to take
	Attempt int       `json:"attempt,omitempty"` // rises with each attempt, for all releases
	Failed  int       `json:"failed,omitempty"`  // the attempt last reported as failed
	Tries   int       `json:"tries,omitempty"`   // failed attempts for this release
	RetryAt time.Time `json:"retry_at,omitzero"`

	// Asked is the generation from which on the agent knows that it is to hold
	// Prepare. An agent that has not accepted it may just prune that release.
	Asked uint64 `json:"asked,omitempty"`

	// Observed: the generation that the agent has accepted, and the complete
	// releases on disk.
	Accepted uint64      `json:"accepted,omitempty"`
	Present  []ReleaseID `json:"present,omitempty"`
	// Digests are those of the releases on disk, as far as they are known.
	Digests map[ReleaseID]string `json:"digests,omitempty"`
}

// How says how a node is to come to the release that it prepares.
type How string

// Ways to come to a release.
const (
	HowBuild How = ""      // fetch and build it
	HowShare How = "share" // and hand the files to the coordinator
	HowTake  How = "take"  // take the files that another node built
	HowWait  How = "wait"  // until another node has built it
)

// Phase is where a target stands in the rollout that last touched it.
type Phase string

// Target phases.
const (
	TargetWaiting     Phase = "waiting" // nothing was ever activated here
	TargetPreparing   Phase = "preparing"
	TargetPrepared    Phase = "prepared"
	TargetActivating  Phase = "activating" // holds a turn towards the rollout's release
	TargetActive      Phase = "active"
	TargetReverting   Phase = "reverting" // holds or awaits a turn back
	TargetReverted    Phase = "reverted"
	TargetQuarantined Phase = "quarantined" // out of rotation, left for a person
	TargetUnreachable Phase = "unreachable" // its agent was lost; catches up when it returns
)

// Target is one instance of an app on a node, behind a balancer.
type Target struct {
	ID       TargetID `json:"id"`
	App      string   `json:"app"`
	Node     string   `json:"node"`
	Instance string   `json:"instance,omitempty"` // "": the only one on its node

	// Desired.
	Release  ReleaseID     `json:"release,omitempty"`
	Fallback ReleaseID     `json:"fallback,omitempty"`
	Turn     uint64        `json:"turn,omitempty"`
	TurnBy   time.Time     `json:"turn_by,omitzero"` // deadline of the turn
	Soak     time.Duration `json:"soak,omitempty"`   // of the turn
	Ended    uint64        `json:"ended,omitempty"`  // the newest turn that its agent has finished

	// Progress.
	Phase   Phase     `json:"phase"`
	Reason  Reason    `json:"reason,omitempty"`
	Text    string    `json:"text,omitempty"`
	Tries   int       `json:"tries,omitempty"` // failed turns of this rollout
	RetryAt time.Time `json:"retry_at,omitzero"`
	// Before is where it stood before the live rollout, until that touches it.
	Before *Standing `json:"before,omitempty"`
	// InService: it served at one time, so that it is missed when it is out.
	InService bool `json:"in_service,omitempty"`

	// Observed.
	Seen Sighting `json:"seen"`
	// Drift is what another hand made of it, nil for nothing, or while a rollout is
	// under way.
	Drift *Drift `json:"drift,omitempty"`
	// Mended: it was brought back from a drift since the last rollout that was asked
	// for. That is done once: whoever does it again means it.
	Mended bool `json:"mended,omitempty"`
}

// Standing is where an earlier rollout left a target.
type Standing struct {
	Phase  Phase  `json:"phase"`
	Reason Reason `json:"reason,omitempty"`
	Text   string `json:"text,omitempty"`
}

// Sighting is a target as its agent last reported it.
type Sighting struct {
	Known    bool      `json:"known,omitempty"` // reported since the coordinator started
	Release  ReleaseID `json:"release,omitempty"`
	Rotation Rotation  `json:"rotation,omitempty"`
	Health   Health    `json:"health,omitempty"`
	// Last: its node asks that it leave after all others, for as long as it says so.
	Last bool `json:"last,omitempty"`
	// Linked is the release that it would run after its next start, "" for the one
	// that it runs, or when that is not known.
	Linked ReleaseID `json:"linked,omitempty"`
}

// Rotation tells whether the target is in rotation, as its balancer says.
type Rotation string

// Rotation values. Unknown is neither.
const (
	RotationUnknown  Rotation = "unknown"
	RotationIn       Rotation = "in"
	RotationOut      Rotation = "out"
	RotationDraining Rotation = "draining"
)

// Health is the agent's verdict on a target.
type Health string

// Health values. Unknown is neither healthy nor unhealthy.
const (
	HealthUnknown Health = "unknown"
	Healthy       Health = "healthy"
	Unhealthy     Health = "unhealthy"
)

// clone returns a copy that shares nothing that a step changes.
func (s State) clone() State {
	s.Apps = slices.Clone(s.Apps)
	for i := range s.Apps {
		a := &s.Apps[i]
		a.Releases = slices.Clone(a.Releases)
		a.Live = a.Live.clone()
		a.Waiting = a.Waiting.clone()
	}
	s.Nodes = slices.Clone(s.Nodes)
	s.Placements = slices.Clone(s.Placements)
	s.Targets = slices.Clone(s.Targets)
	return s
}

func (r *Rollout) clone() *Rollout {
	if r == nil {
		return nil
	}
	c := *r
	c.Order = slices.Clone(r.Order)
	c.Unfit = slices.Clone(r.Unfit)
	if r.Command != nil {
		command := *r.Command
		c.Command = &command
	}
	return &c
}

// equal tells whether two records of a rollout say the same.
func (r *Rollout) equal(o *Rollout) bool {
	return r.ID == o.ID && r.App == o.App && r.Kind == o.Kind && r.Release == o.Release && r.From == o.From &&
		r.Status == o.Status && r.Reason == o.Reason && r.Text == o.Text && r.Blocked == o.Blocked &&
		equal(r.Paused, o.Paused) && r.Ending == o.Ending && r.By == o.By && r.Cause == o.Cause &&
		r.Automatic == o.Automatic && r.Created.Equal(o.Created) && r.Started.Equal(o.Started) &&
		r.Finished.Equal(o.Finished) && slices.Equal(r.Order, o.Order) && r.Deadline.Equal(o.Deadline) &&
		slices.Equal(r.Unfit, o.Unfit) && equal(r.Command, o.Command)
}

func equal[T comparable](x, y *T) bool {
	return x == y || (x != nil && y != nil && *x == *y)
}

func rolloutName(app string, number int) RolloutID {
	return RolloutID(app + "-" + strconv.Itoa(number))
}
