package rollout

import "time"

// Event is something that happened. At must not go back from one event to the
// next; [Step] treats an earlier At as that of the event before.
type Event interface {
	at() time.Time
	apply(*machine) error
}

// Configured replaces the pool's configuration: at the coordinator's start and
// whenever fleet.yaml changes. Apps, nodes, and targets that are no longer
// named are forgotten, with any turn that they held.
type Configured struct {
	At             time.Time   `json:"at"`
	Pool           string      `json:"pool"`
	MaxUnavailable int         `json:"max_unavailable"`
	Apps           []AppConfig `json:"apps"`
}

// AppConfig is the configuration of one app.
type AppConfig struct {
	Name  string   `json:"name"`
	Nodes []string `json:"nodes"` // in the order of rollouts
	// Instances are the names of the app's targets on each node, in the order of
	// rollouts; none for one target a node.
	Instances []string `json:"instances,omitempty"`
	Policy    Policy   `json:"policy"`
	Revision  string   `json:"revision"`
}

// Started tells that the coordinator has just started: what it knew of its
// nodes is old, and deadlines that passed while it was down are extended. It is
// the first event of a coordinator's life, before [Configured]: an engine that
// is not told so gives turns by what it knew before.
type Started struct {
	At time.Time `json:"at"`
}

// Tick tells the time.
type Tick struct {
	At time.Time `json:"at"`
}

// NodeLost tells that a node's agent has not been heard of for too long.
type NodeLost struct {
	At   time.Time `json:"at"`
	Node string    `json:"node"`
}

// Reported is an agent's report. Only the newest of a node may be sent: the
// caller drops those that arrive late.
type Reported struct {
	At         time.Time         `json:"at"`
	Node       string            `json:"node"`
	Placements []PlacementReport `json:"placements"`
}

// PlacementReport is the state of one app on the reporting node.
type PlacementReport struct {
	App        string      `json:"app"`
	Generation uint64      `json:"generation"` // highest that the agent accepted
	Present    []ReleaseID `json:"present"`
	// Digests tell which files the releases consist of, as far as it is known.
	Digests map[ReleaseID]string `json:"digests,omitempty"`
	Attempt int                  `json:"attempt,omitempty"` // at preparing, that it began last
	Prepare *PrepareReport       `json:"prepare,omitempty"`
	Command *CommandReport       `json:"command,omitempty"` // the last that it was given
	Targets []TargetReport       `json:"targets"`
}

// PrepareReport tells of a failed attempt to prepare.
type PrepareReport struct {
	Release ReleaseID `json:"release"`
	Attempt int       `json:"attempt"`
	Fault   Fault     `json:"fault"`
	Reason  Reason    `json:"reason"`
	Text    string    `json:"text"`
}

// CommandReport tells how a release command stands on its node. One that is
// neither running, nor well, nor failed for a reason is claimed: the agent has
// written its number down, and waits for leave to begin.
type CommandReport struct {
	Number  uint64 `json:"number"`
	Running bool   `json:"running,omitempty"`
	OK      bool   `json:"ok,omitempty"`
	Fault   Fault  `json:"fault,omitempty"`
	Reason  Reason `json:"reason,omitempty"`
	Text    string `json:"text,omitempty"`
}

// TargetReport is one target of the reporting node.
type TargetReport struct {
	Target  TargetID  `json:"target"`
	Release ReleaseID `json:"release,omitempty"` // that the running process proves
	// Rotation and Health as the agent and its balancer find them now.
	Rotation Rotation `json:"rotation"`
	Health   Health   `json:"health"`
	// Last: the target asks to leave after all others.
	Last bool `json:"last,omitempty"`
	// Linked is the release that it would run after its next start, where that is
	// known to be another than the one that it runs, or, if it runs none, was left on.
	Linked ReleaseID `json:"linked,omitempty"`
	// Outcome of the last turn that the agent finished.
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Outcome is the result of one turn.
type Outcome struct {
	Turn uint64 `json:"turn"`
	OK   bool   `json:"ok"`
	// Reverted: the turn failed and the target serves its fallback as before.
	Reverted bool   `json:"reverted,omitempty"`
	Fault    Fault  `json:"fault,omitempty"`
	Reason   Reason `json:"reason,omitempty"`
	Text     string `json:"text,omitempty"`
}

// Archived tells which built files of an app the coordinator has: all of them,
// at its start and whenever one comes or goes.
type Archived struct {
	At      time.Time `json:"at"`
	App     string    `json:"app"`
	Digests []string  `json:"digests"`
}

// DeployRequested asks for a release on every target of the app.
type DeployRequested struct {
	At      time.Time `json:"at"`
	App     string    `json:"app"`
	Release Release   `json:"release"` // ID, SHA, Subject, and Command
	By      string    `json:"by"`
	Cause   string    `json:"cause,omitempty"`
	// Automatic requests come from pushes and polling. They are refused where a
	// person's are not: for bad releases, for older and diverged commits.
	Automatic bool `json:"automatic,omitempty"`
	// ContainedIn are the releases of the app, among those that the state
	// remembers, whose commit has this one as an ancestor.
	ContainedIn []ReleaseID `json:"contained_in,omitempty"`
	// Diverged: neither the commit nor that of the app's current release is an
	// ancestor of the other, and the app does not deploy forced pushes.
	Diverged bool `json:"diverged,omitempty"`
}

// RollbackRequested asks for a return to an earlier release: To, or the last
// stable one before the current when To is "".
type RollbackRequested struct {
	At  time.Time `json:"at"`
	App string    `json:"app"`
	To  ReleaseID `json:"to,omitempty"`
	By  string    `json:"by"`
}

// PauseRequested stops giving turns; the turn that is out is finished.
type PauseRequested struct {
	At     time.Time `json:"at"`
	App    string    `json:"app"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// ResumeRequested goes on after a pause.
type ResumeRequested struct {
	At  time.Time `json:"at"`
	App string    `json:"app"`
	By  string    `json:"by"`
}

// AbortRequested stops the live rollout and returns what it touched to the last
// stable release. Of a rollback it stops where it is.
type AbortRequested struct {
	At     time.Time `json:"at"`
	App    string    `json:"app"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// RetryRequested gives the nodes that failed another chance: in the live
// rollout, or, when none is, by deploying the last rollout's release again.
type RetryRequested struct {
	At  time.Time `json:"at"`
	App string    `json:"app"`
	By  string    `json:"by"`
}

// HoldRequested stops automation for the app.
type HoldRequested struct {
	At     time.Time `json:"at"`
	App    string    `json:"app"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until,omitzero"` // zero: until lifted
}

// UnholdRequested lets automation go on.
type UnholdRequested struct {
	At  time.Time `json:"at"`
	App string    `json:"app"`
	By  string    `json:"by"`
}

// BalancerAsked tells that an agent asked the coordinator to change a balancer
// for its target, and what became of it. It changes nothing but the timeline.
type BalancerAsked struct {
	At     time.Time `json:"at"`
	App    string    `json:"app"`
	Target TargetID  `json:"target"`
	// Class is that of the balancer's error; "" when it was done.
	Class Reason `json:"class,omitempty"`
	Text  string `json:"text"` // who asked, for what, and the result
}

func (e Configured) at() time.Time        { return e.At }
func (e Started) at() time.Time           { return e.At }
func (e Tick) at() time.Time              { return e.At }
func (e NodeLost) at() time.Time          { return e.At }
func (e Reported) at() time.Time          { return e.At }
func (e Archived) at() time.Time          { return e.At }
func (e DeployRequested) at() time.Time   { return e.At }
func (e RollbackRequested) at() time.Time { return e.At }
func (e PauseRequested) at() time.Time    { return e.At }
func (e ResumeRequested) at() time.Time   { return e.At }
func (e AbortRequested) at() time.Time    { return e.At }
func (e RetryRequested) at() time.Time    { return e.At }
func (e HoldRequested) at() time.Time     { return e.At }
func (e UnholdRequested) at() time.Time   { return e.At }
func (e BalancerAsked) at() time.Time     { return e.At }

// Effect is something to do after the new state is stored.
type Effect interface{ effect() }

// Assign tells that a placement's assignment changed: its agent is to be answered.
type Assign struct {
	App        string `json:"app"`
	Node       string `json:"node"`
	Generation uint64 `json:"generation"`
}

// Changed carries a rollout that changed, as it is after the step, for the record.
type Changed struct {
	Rollout Rollout    `json:"rollout"`
	Targets []Progress `json:"targets"` // in rollout order
}

// Progress is where one target of a rollout stands.
type Progress struct {
	Target   TargetID `json:"target"`
	Node     string   `json:"node"`
	Instance string   `json:"instance,omitempty"`
	Phase    Phase    `json:"phase"`
	Reason   Reason   `json:"reason,omitempty"`
	Text     string   `json:"text,omitempty"`
}

// Noted is one line of a rollout's timeline.
type Noted struct {
	At      time.Time `json:"at"`
	Rollout RolloutID `json:"rollout,omitempty"`
	App     string    `json:"app"`
	Target  TargetID  `json:"target,omitempty"`
	Kind    Note      `json:"kind"`
	Reason  Reason    `json:"reason,omitempty"`
	Text    string    `json:"text"`
}

func (Assign) effect()  {}
func (Changed) effect() {}
func (Noted) effect()   {}

// Note is the kind of a timeline line.
type Note string

// Timeline kinds.
const (
	NoteRequested   Note = "requested"
	NoteStatus      Note = "status"
	NotePrepared    Note = "prepared"
	NoteBuilder     Note = "builder"    // a node was chosen to build for all
	NoteBuilt       Note = "built"      // its files are at the coordinator
	NoteDrift       Note = "drift"      // another hand changed what a target runs
	NoteBuildSkew   Note = "build_skew" // two builds of a release made different files
	NoteTurn        Note = "turn"       // a target got leave to be out of rotation
	NoteActive      Note = "active"
	NoteReverted    Note = "reverted"
	NoteFailed      Note = "failed" // of one target or one node's preparing
	NoteRetry       Note = "retry"
	NoteQuarantined Note = "quarantined"
	NoteLost        Note = "lost"
	NoteReturned    Note = "returned"
	NoteBlocked     Note = "blocked"
	NotePaused      Note = "paused"
	NoteResumed     Note = "resumed"
	NoteHeld        Note = "held"
	NoteUnheld      Note = "unheld"
	NoteMissing     Note = "missing"  // a node lacks what is rolled back to
	NoteCommand     Note = "command"  // the release command was begun or is over
	NoteBalancer    Note = "balancer" // a change that the coordinator was asked to make for an agent
	NoteReleaseBad  Note = "release_bad"
	NoteReleaseStab Note = "release_stable"
)
