package exec_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip, a new provider at every step
 2 contract: answers lost; TestKilled, TestLostAnswerIsSettledByLooking
 3 contract: changes ignored
 4 TestDeadline, TestNotYet
 5 TestExitCodes: classes, and "not yet"
 6 TestExitCodes: classes, and "not yet"
 7 contract: denied; TestExitCodes
 8 TestLine, FuzzLine
 9 contract: not a member, removed; TestLine: twice
10 elsewhere: the program's
11 TestWhatTheProgramGets, TestWeight
12 contract: capacity, all at once; TestCapacityUnknown
13 contract: another hand
14 contract: readmitted, forgets
15 contract: in flight, force
16 elsewhere: the program's
17 contract: rejoin waits for the check
18 contract: rolling restart
19 contract: a new provider at every step
20 contract: cancelled, cut short; TestKilled
21 elsewhere: the program's, or lbclient.Multi
22 contract: denied, hangs, unreachable
23 cannot apply: no file is written
24 elsewhere: the agent's soak
25 elsewhere: the agent's activation leaves the target out
26 cannot apply: the program knows no bounds
27 contract: rolling restart
`, harness())
}
