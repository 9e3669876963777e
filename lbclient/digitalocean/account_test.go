package digitalocean_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/digitalocean"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip
 2 contract: answers lost; TestLostAndLate
 3 contract: changes ignored
 4 TestAcceptedAndMadeLater: there are no actions to lose
 5 TestBusyIsNotDenied, TestLockIsWaitedOut
 6 TestRateLimits, digitalocean/digitaloceantest.TestRations
 7 contract: denied; TestReadOnlyToken
 8 TestStrangeAnswers, FuzzBalancer, FuzzRefusal
 9 contract: not a member; TestNotFound, TestNames
10 TestTag
11 TestOnlyItsOwnMembership: a membership by id has no attributes
12 contract: capacity; TestTooFewAfterAll
13 cannot apply: there is no maintenance and no weight
14 contract: readmitted
15 elsewhere: the stage stays busy, and the caller decides
16 cannot apply: nobody can see the machines that balance
17 TestGateIsBelievedOnlyOnceNoticed, TestOurOwnGate, TestNothingToSee
18 contract: rolling restart
19 contract: a new provider at every step
20 contract: cancelled, cut short
21 cannot apply: there is one API
22 contract: hangs, unreachable
23 cannot apply: there are no files
24 elsewhere: the agent's soak
25 elsewhere: the agent's activation leaves the target out
26 TestTiming, for the caller to compare
27 contract: rolling restart
`, harness(options{mode: digitalocean.ModeRemove}), harness(options{mode: digitalocean.ModeGate}))
}
