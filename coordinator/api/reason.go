package api

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
	StepWhileStopped Step = "while_stopped"
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
