package rollout

import "fmt"

// Reason is a typed cause. Sentences are rendered beside it and never parsed.
// Agents report reasons of their own (see [Fault]); these are the engine's.
type Reason string

// Reasons of the engine.
const (
	ReasonRequested        Reason = "requested"         // a person asked for it
	ReasonSupersededBy     Reason = "superseded"        // a newer request took its place
	ReasonRolledBackBy     Reason = "rolled_back"       // a person rolled back from it
	ReasonUnreachable      Reason = "unreachable"       // the node's agent was lost
	ReasonTargetDeadline   Reason = "target_deadline"   // a turn took too long
	ReasonProgressDeadline Reason = "progress_deadline" // no target made progress
	ReasonPrepareDeadline  Reason = "prepare_deadline"  // preparing took too long
	ReasonNodeFault        Reason = "node_fault"        // a node failed and still serves the old release
	ReasonBuildSkew        Reason = "build_skew"        // two builds of the release made different files
	ReasonBuilderLost      Reason = "builder_lost"      // the only node that may build was lost
	ReasonCommandUnknown   Reason = "command_unknown"   // nobody knows whether the release command did its work
	ReasonHookFailed       Reason = "hook_failed"       // a command of the app around a turn failed, as its agent says
	ReasonCapacity         Reason = "capacity"          // no target left that could go on
	ReasonRemoved          Reason = "removed"           // taken out of the configuration
)

// Fault says what a failed attempt condemns.
type Fault string

// Faults. Anything but ReleaseFault is no evidence against the release.
const (
	NodeFault    Fault = "node"
	ReleaseFault Fault = "release"
	Revoked      Fault = "revoked" // the engine took the turn back
)

// Refused is the error of a request that the engine declines as things stand.
// The state is unchanged.
type Refused struct {
	Code RefusalCode
	Text string // what stands against it and what to do
}

func (r *Refused) Error() string { return r.Text }

// RefusalCode is why a request was refused.
type RefusalCode string

// Refusal codes.
const (
	RefusedUnknownApp RefusalCode = "unknown_app"
	RefusedSame       RefusalCode = "already_deployed"
	RefusedAncestor   RefusalCode = "older" // an ancestor of what runs, waits, or was condemned
	RefusedDiverged   RefusalCode = "diverged"
	RefusedBad        RefusalCode = "bad_release"
	RefusedLive       RefusalCode = "rollout_live"
	RefusedNotLive    RefusalCode = "no_rollout_live"
	RefusedNoStable   RefusalCode = "no_stable_release"
	RefusedRecipe     RefusalCode = "bad_recipe" // the commit's own recipe cannot be used
	RefusedState      RefusalCode = "wrong_state"
)

func refuse(code RefusalCode, format string, a ...any) error {
	return &Refused{Code: code, Text: fmt.Sprintf(format, a...)}
}
