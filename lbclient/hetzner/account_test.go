package hetzner_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/hetzner"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip
 2 contract: answers lost; TestUsePrivateIPIsPutBack
 3 contract: changes ignored; TestWhatBecomesOfAnAction
 4 TestWhatBecomesOfAnAction
 5 TestRefusals, TestALockOrARateLimitPasses
 6 TestALockOrARateLimitPasses, internal/cloudhttp.TestRetryAfterIsObeyedUpToAPoint: Reset is never read
 7 contract: denied; TestTokenThatMayOnlyRead
 8 TestRefusals, TestAnswersThatAreNone, FuzzRead
 9 contract: not a member; TestWhichMemberTheTargetIs, TestAServerThatWasDeleted, TestATargetTwiceOver
10 TestASelectorIsNeverRemoved: labels are never written
11 TestUsePrivateIPIsPutBack: a target has no other
12 contract: capacity, all at once; TestAnotherTurnsUnhealthyMeanwhile
13 cannot apply: Hetzner has neither maintenance nor weights
14 contract: readmitted; TestUsePrivateIPIsPutBack
15 TestWhatItSaysOfItself: Hetzner counts nothing
16 cannot apply: nobody can see the machines that balance
17 TestHealthThatIsOld, TestAPortThatNobodyServes
18 contract: rolling restart
19 contract: a new provider at every step
20 contract: cancelled, cut short
21 cannot apply: a Hetzner balancer is one
22 contract: unreachable, hangs
23 cannot apply: there are no files
24 elsewhere: the agent's soak
25 elsewhere: the agent's activation leaves the target out
26 TestTimingIsRead, for those who know the timeouts
27 contract: rolling restart
`, harness(options{kind: byPrivateServer, mode: hetzner.ModeRemove}), harness(options{kind: bySelector, mode: hetzner.ModeGate}))
}
